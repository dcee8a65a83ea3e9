//! Modules that answer, resume and call at the wrong moment, or for somebody else's stream
//! (W06, W07, W15).

use std::time::Duration;

use http::StatusCode;
use wayline_chain::bench::Request;

use crate::modules::{callback, module};
use crate::tenant::{Outcome, Tenant};

const REPLY: &str = "(drop (call $proxy_send_local_response (i32.const 403) @\"why\" @\"no\"
    (i32.const 0) (i32.const 0) (i32.const -1)))";

#[test]
fn the_first_of_two_answers_counts() {
    let twice = callback(
        "proxy_on_request_headers",
        &format!(
            "{REPLY} (drop (call $proxy_send_local_response (i32.const 404) @\"why\" @\"second\"
                (i32.const 0) (i32.const 0) (i32.const -1)))"
        ),
    );
    let outcome = Tenant::new(&module(&twice)).outcome(Request::get("/"));
    assert_eq!(outcome, Outcome::Replied(403, "no".to_owned()));
}

#[test]
fn an_answer_in_each_callback_ends_the_stream_once() {
    // In the body, as soon as it comes.
    let tenant = Tenant::new(&module(&callback("proxy_on_request_body", REPLY)));
    let mut bench = tenant.send(Request::post("/"));
    let _ = bench.head();
    bench.send("body").end(None);
    let _ = bench.upstream();
    let interrupt = bench.interrupt();
    assert!(interrupt.is_some(), "{:?}", bench.upstream());

    // In the response's head: in its place.
    let tenant = Tenant::new(&module(&callback("proxy_on_response_headers", REPLY)));
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    bench
        .respond(StatusCode::OK, &[("x-backend", "yes")])
        .send_back("theirs")
        .end_back(None);
    let head = bench.response().unwrap();
    assert_eq!(head.status, StatusCode::FORBIDDEN);
    assert!(!head.headers.contains_key("x-backend"));
    assert_eq!(bench.client().body(), "no");

    // In the response's body: it is too late for another answer.
    let tenant = Tenant::new(&module(&callback("proxy_on_response_body", REPLY)));
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    bench
        .respond(StatusCode::OK, &[])
        .send_back("theirs")
        .end_back(None);
    assert_eq!(bench.response().unwrap().status, StatusCode::OK);
    assert!(!bench.client().ended, "{:?}", bench.client());

    // When all is over.
    for name in ["proxy_on_log", "proxy_on_done", "proxy_on_delete"] {
        let tenant = Tenant::new(&module(&callback(name, REPLY)));
        for _ in 0..2 {
            assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
        }
    }
}

#[test]
fn an_answer_wins_over_what_the_callback_returns() {
    for action in 0..6 {
        let text = format!("{REPLY} (return (i32.const {action}))");
        let tenant = Tenant::new(&module(&callback("proxy_on_request_headers", &text)));
        let outcome = tenant.outcome(Request::get("/"));
        assert_eq!(outcome, Outcome::Replied(403, "no".to_owned()), "{action}");
    }
}

#[test]
fn statuses_that_are_none_are_refused() {
    for status in [0_i64, 99, 100, 101, 199, 600, 1000, 65_736, -1] {
        let text = callback(
            "proxy_on_request_headers",
            &format!(
                "(call $note (call $proxy_send_local_response (i32.const {status}) @\"why\" @\"no\"
                    (i32.const 0) (i32.const 0) (i32.const -1))) (call $tell)"
            ),
        );
        assert_eq!(
            Tenant::new(&module(&text)).report(Request::get("/")),
            "2",
            "{status}"
        );
    }
}

#[test]
fn what_is_returned_out_of_range_pauses_at_most() {
    for action in [5_i64, 77, 2_147_483_647, -1] {
        let text = format!("(return (i32.const {action}))");
        let tenant = Tenant::new(&module(&callback("proxy_on_request_headers", &text)));
        assert_eq!(
            tenant.outcome(Request::get("/")),
            Outcome::Paused,
            "{action}"
        );
    }
}

#[test]
fn a_stream_that_is_never_resumed_goes_with_its_client() {
    let tenant = Tenant::new(&module(&callback(
        "proxy_on_request_headers",
        "(return (i32.const 1))",
    )));
    for _ in 0..100 {
        let mut bench = tenant.send(Request::get("/"));
        assert_eq!(Outcome::of(&mut bench), Outcome::Paused);
    }
}

/// Keeps the id of the first stream; the second one does `body`, in which `(global.get $first)` is it.
fn first_and_second(body: &str) -> Vec<u8> {
    let text = "(global $first (mut i32) (i32.const 0))".to_owned()
        + &callback(
            "proxy_on_request_headers",
            &format!(
                "(if (i32.eqz (global.get $first))
                   (then (global.set $first (local.get $p0)) (return (i32.const 1))))
                 {body}"
            ),
        );
    module(&text)
}

#[test]
fn a_stream_that_is_gone_can_not_be_touched() {
    let tenant = Tenant::new(&first_and_second(
        "(call $note (call $proxy_set_effective_context (global.get $first)))
         (call $note (call $proxy_continue_stream (i32.const 0)))
         (call $tell)",
    ));
    let mut first = tenant.send(Request::get("/"));
    assert_eq!(Outcome::of(&mut first), Outcome::Paused);
    drop(first);
    // Whatever is said of the first: nobody is hurt, and the second goes on.
    let report = tenant.report(Request::get("/"));
    assert_eq!(&report[..1], "2", "an id that is no more was accepted");
}

#[test]
fn for_another_stream_one_can_only_do_what_needs_none_of_its_data() {
    let tenant = Tenant::new(&first_and_second(
        "(call $note (call $proxy_set_effective_context (global.get $first)))
         (call $note (call $proxy_get_header_map_value (i32.const 0) @\":path\" (i32.const 0) (i32.const 4)))
         (call $note (call $proxy_add_header_map_value (i32.const 0) @\"x-foreign\" @\"1\"))
         (call $note (call $proxy_continue_stream (i32.const 0)))
         (drop (call $proxy_set_effective_context (local.get $p0)))
         (call $tell)",
    ));
    let mut first = tenant.send(Request::get("/first"));
    assert_eq!(Outcome::of(&mut first), Outcome::Paused);
    let report = tenant.report(Request::get("/second"));
    assert_eq!(&report[..1], "0");
    assert_ne!(&report[1..2], "0", "the head of another stream was read");
    assert_ne!(&report[2..3], "0", "the head of another stream was written");
    // Resuming one's own other streams is what the ABI is for.
    assert_eq!(Outcome::of(&mut first), Outcome::Passed);
    first.context(|context| assert!(!context.request().headers.contains_key("x-foreign")));
}

#[test]
fn ids_that_nobody_has_are_refused() {
    let tenant = Tenant::new(&module(&callback(
        "proxy_on_request_headers",
        "(call $note (call $proxy_set_effective_context (i32.const 4711)))
         (call $note (call $proxy_set_effective_context (i32.const -1)))
         (call $note (call $proxy_continue_stream (i32.const 4)))
         (call $note (call $proxy_close_stream (i32.const 4)))
         (call $note (call $proxy_grpc_send (i32.const 4711) (i32.const 0) (i32.const 0) (i32.const 1)))
         (call $note (call $proxy_grpc_cancel (i32.const 4711)))
         (call $tell)",
    )));
    let report = tenant.report(Request::get("/"));
    assert!(!report.contains('0'), "{report}");
}

/// Calls `backend` with all that a call needs, and notes the status.
pub(crate) fn call(backend: &str) -> String {
    // Three pairs: :method GET, :path /, :authority a.
    let pairs = "\\03\\00\\00\\00\\07\\00\\00\\00\\03\\00\\00\\00\\05\\00\\00\\00\\01\\00\\00\\00\\0a\\00\\00\\00\\01\\00\\00\\00:method\\00GET\\00:path\\00/\\00:authority\\00a\\00";
    format!(
        "(call $note (call $proxy_http_call @\"{backend}\" (i32.const 3000) (i32.const {})
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 0)))
         ;;PAIRS {pairs}\n",
        28 + 12 + 8 + 13
    )
}

/// A module with callouts: the pairs that [`call`] speaks of lie where it says.
pub(crate) fn calling(text: &str) -> Vec<u8> {
    let pairs = text
        .split_once(";;PAIRS ")
        .unwrap()
        .1
        .split_once('\n')
        .unwrap()
        .0;
    module(&format!("(data (i32.const 3000) \"{pairs}\")\n{text}"))
}

#[test]
fn only_allowed_backends_that_exist_can_be_called() {
    let try_all: String = [
        "known.test:80",
        "secret.test:80",
        "169.254.169.254:80",
        "127.0.0.1:15000",
        "nowhere",
    ]
    .map(call)
    .concat();
    let text = callback(
        "proxy_on_request_headers",
        &format!("{try_all} (call $tell)"),
    );
    let tenant = Tenant::with(&calling(&text), |plugin| {
        plugin.callouts = Some([std::sync::Arc::from("known.test:80")].into());
    });
    tenant.desk.know("known.test:80");
    tenant.desk.know("secret.test:80");
    assert_eq!(tenant.report(Request::get("/")), "02222");
    assert_eq!(tenant.desk.asked(), ["known.test:80".into()]);
}

#[test]
fn an_answer_for_a_stream_that_is_gone_is_dropped() {
    let text = callback(
        "proxy_on_request_headers",
        &format!("{} (return (i32.const 1))", call("known.test:80")),
    ) + &callback(
        "proxy_on_http_call_response",
        "(drop (call $proxy_continue_stream (i32.const 0)))",
    );
    let tenant = Tenant::new(&calling(&text));
    tenant.desk.know("known.test:80");
    let mut first = tenant.send(Request::get("/"));
    assert_eq!(Outcome::of(&mut first), Outcome::Paused);
    drop(first);
    assert_eq!(tenant.desk.waiting(), 1);
    tenant.desk.answer("too late");
    let mut bench = tenant.send(Request::get("/"));
    assert_eq!(Outcome::of(&mut bench), Outcome::Paused);
}

#[test]
fn a_call_that_calls_again_from_its_answer_stays_within_the_limit() {
    // Each answer asks twice more, for the same stream.
    let text = "(global $stream (mut i32) (i32.const 0))".to_owned()
        + &callback(
            "proxy_on_request_headers",
            &format!(
                "(global.set $stream (local.get $p0)) {} (return (i32.const 1))",
                call("known.test:80")
            ),
        )
        + &callback(
            "proxy_on_http_call_response",
            &format!(
                "(drop (call $proxy_set_effective_context (global.get $stream))) {} {}
                 (global.set $noted (i32.const 0))",
                call("known.test:80"),
                call("known.test:80")
            ),
        );
    let tenant = Tenant::new(&calling(&text));
    tenant.desk.know("known.test:80");
    let mut bench = tenant.send(Request::get("/"));
    assert_eq!(Outcome::of(&mut bench), Outcome::Paused);
    for _ in 0..10 {
        tenant.desk.answer("more");
        assert_eq!(Outcome::of(&mut bench), Outcome::Paused);
        assert!(tenant.desk.waiting() <= 8, "{}", tenant.desk.waiting());
    }
    tenant.desk.pass(Duration::from_secs(1));
}

#[test]
fn only_so_many_calls_are_under_way_for_a_stream() {
    let many: String = (0..20).map(|_| call("known.test:80")).collect();
    let text = callback("proxy_on_request_headers", &format!("{many} (call $tell)"));
    let tenant = Tenant::with(&calling(&text), |plugin| plugin.limits.callouts = 3);
    tenant.desk.know("known.test:80");
    assert_eq!(
        tenant.report(Request::get("/")),
        format!("000{}", "a".repeat(17))
    );
    assert_eq!(tenant.desk.waiting(), 3);
}
