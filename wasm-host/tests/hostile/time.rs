//! Modules that take time: loops, floods of host calls, traps on every request (W01, W02, W05).

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use wayline_chain::Chain;
use wayline_chain::bench::{Bench, Request};
use wayline_model::plugin::{FailStrategy, Isolation};
use wayline_wasm_host::{StartError, canary};

use crate::modules::{callback, module};
use crate::tenant::{Desk, Outcome, Tenant, counted, host, placed, plugin, prepared};

const FOREVER: &str = "(loop $again (br $again))";

/// A filter that does no harm and leaves its mark.
fn innocent() -> Vec<u8> {
    module(&callback(
        "proxy_on_request_headers",
        "(call $note (i32.const 0)) (call $tell)",
    ))
}

/// Does `body` where the path's last letter is `x`.
fn when_asked(body: &str) -> String {
    format!(
        "(drop (call $proxy_get_header_map_value (i32.const 0) @\":path\" (i32.const 0) (i32.const 4)))
         (if (i32.eq (i32.const 120) (i32.load8_u (i32.sub
               (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 4))) (i32.const 1))))
           (then {body}))"
    )
}

#[test]
fn loops_while_starting_are_cut_and_the_plugin_is_refused() {
    for name in [
        "_initialize",
        "_start",
        "proxy_on_vm_start",
        "proxy_on_configure",
    ] {
        let module = prepared(&module(&callback(name, FOREVER)));
        let verdict = canary(&host(), &module, &plugin(name).into());
        assert!(
            matches!(verdict, Err(StartError::Trap { .. })),
            "{name}: {verdict:?}"
        );
    }
    let start = module(&format!("(func $f {FOREVER}) (start $f)"));
    let verdict = canary(&host(), &prepared(&start), &plugin("start").into());
    assert!(verdict.is_err(), "{verdict:?}");
}

#[test]
fn a_loop_on_the_way_up_is_cut_and_ends_its_stream_only() {
    is_cut(FOREVER);
}

#[test]
fn endless_work_in_the_hosts_name_is_cut() {
    for body in [
        "(loop $again (memory.fill (i32.const 0) (i32.const 0) (i32.const 131072)) (br $again))",
        "(loop $again (memory.copy (i32.const 0) (i32.const 1) (i32.const 131071)) (br $again))",
        "(loop $again (drop (call $proxy_log (i32.const 0) @\"again\")) (br $again))",
        "(loop $again (drop (call $proxy_get_property @\"request\\0path\" (i32.const 0) (i32.const 4))) (br $again))",
        "(loop $again (drop (call $proxy_set_shared_data @\"key\" @\"value\" (i32.const 0))) (br $again))",
    ] {
        is_cut(body);
    }
}

/// What never ends ends its stream, and no other.
fn is_cut(body: &str) {
    let text = callback("proxy_on_request_headers", &when_asked(body));
    let tenant = Tenant::new(&module(&text));
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
    let cut = tenant.outcome(Request::get("/x"));
    assert_eq!(cut, Outcome::refused(), "{body}");
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed, "{body}");
}

#[test]
fn a_plugin_that_fails_open_is_passed_over_after_a_loop() {
    let looping = module(&callback("proxy_on_request_headers", &when_asked(FOREVER)));
    let tenant = Tenant::with(&looping, |plugin| {
        plugin.fail_strategy = FailStrategy::FailOpen
    });
    assert_eq!(tenant.outcome(Request::get("/x")), Outcome::Passed);
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
}

#[test]
fn neighbours_of_a_looping_plugin_work_on() {
    let (host, desk) = (host(), Rc::new(Desk::default()));
    let looping = module(&callback("proxy_on_request_headers", &when_asked(FOREVER)));
    let mut open = plugin("looping");
    open.fail_strategy = FailStrategy::FailOpen;
    let chain = Rc::new(Chain::new(vec![
        placed(&host, &desk, &looping, open),
        placed(&host, &desk, &innocent(), plugin("innocent")),
    ]));
    for path in ["/", "/x", "/"] {
        let mut bench = Bench::start(&chain, Request::get(path));
        assert_eq!(Outcome::of(&mut bench), Outcome::Passed);
        assert_eq!(
            bench.context(|context| context.request().headers["x-report"].clone()),
            "0"
        );
    }
}

#[test]
fn streams_inside_a_plugin_that_loops_end_and_later_ones_do_not() {
    let looping = module(&callback(
        "proxy_on_request_headers",
        &format!("{} (return (i32.const 1))", when_asked(FOREVER)),
    ));
    let tenant = Tenant::new(&looping);
    let mut waiting = tenant.send(Request::get("/"));
    assert_eq!(Outcome::of(&mut waiting), Outcome::Paused);
    assert_eq!(tenant.outcome(Request::get("/x")), Outcome::refused());
    assert_eq!(Outcome::of(&mut waiting), Outcome::refused());
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Paused);
}

#[test]
fn with_an_instance_for_each_stream_others_do_not_even_notice() {
    let looping = module(&callback(
        "proxy_on_request_headers",
        &format!("{} (return (i32.const 1))", when_asked(FOREVER)),
    ));
    let tenant = Tenant::with(&looping, |plugin| plugin.isolation = Isolation::Stream);
    let mut waiting = tenant.send(Request::get("/"));
    assert_eq!(Outcome::of(&mut waiting), Outcome::Paused);
    assert_eq!(tenant.outcome(Request::get("/x")), Outcome::refused());
    assert_eq!(Outcome::of(&mut waiting), Outcome::Paused);
}

#[test]
fn loops_over_bodies_and_responses_are_cut() {
    let looping = |name: &str| Tenant::new(&module(&callback(name, FOREVER)));
    let fresh = || Request::post("/");

    let tenant = looping("proxy_on_request_body");
    let mut bench = tenant.send(fresh());
    bench.send("body").end(None);
    let _ = bench.head();
    let _ = bench.upstream();
    assert!(bench.interrupt().is_some() || bench.upstream().error.is_some());

    let tenant = looping("proxy_on_response_headers");
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    bench.respond(StatusCode::OK, &[]).end_back(None);
    let status = bench.response().map(|head| head.status);
    assert_eq!(status, Some(StatusCode::SERVICE_UNAVAILABLE));

    let tenant = looping("proxy_on_response_body");
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    bench
        .respond(StatusCode::OK, &[])
        .send_back("body")
        .end_back(None);
    let _ = bench.response();
    assert!(!bench.client().ended, "{:?}", bench.client());
}

#[test]
fn loops_at_the_end_of_a_stream_are_cut() {
    for name in ["proxy_on_log", "proxy_on_done", "proxy_on_delete"] {
        let tenant = Tenant::new(&module(&callback(name, FOREVER)));
        for _ in 0..2 {
            assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed, "{name}");
        }
    }
}

#[test]
fn a_loop_in_a_tick_is_cut() {
    let text = callback(
        "proxy_on_configure",
        "(drop (call $proxy_set_tick_period_milliseconds (i32.const 10)))
        (return (i32.const 1))",
    ) + &callback("proxy_on_tick", FOREVER)
        + &callback("proxy_on_request_headers", "");
    let host = host();
    let tenant = Tenant::of(&host, &module(&text), plugin("ticking"));
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
    for _ in 0..2 {
        tenant.desk.pass(Duration::from_millis(20));
    }
    assert_eq!(counted(&host, "wayline_wasm_traps_total"), 1);
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
}

#[test]
fn a_plugin_that_never_survives_a_request_is_soon_refused_without_trying() {
    let text = callback("proxy_on_request_headers", "unreachable");
    let host = host();
    let tenant = Tenant::of(&host, &module(&text), plugin("crashing"));
    for _ in 0..1000 {
        assert_eq!(tenant.outcome(Request::get("/")), Outcome::refused());
    }
    let started = counted(&host, "wayline_wasm_instances_started_total");
    assert!(started <= 20, "{started} instances for 1000 requests");
    // A module that traps once in a while serves all others.
    let text = callback("proxy_on_request_headers", &when_asked("unreachable"));
    let tenant = Tenant::new(&module(&text));
    for _ in 0..20 {
        assert_eq!(tenant.outcome(Request::get("/x")), Outcome::refused());
        assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
    }
}
