//! Modules that look for what belongs to others, and what stays of those that were replaced (W13, W14, W16, W21).

use std::rc::Rc;
use std::time::Duration;

use wayline_chain::Chain;
use wayline_chain::bench::{Bench, Request};

use crate::modules::{callback, module};
use crate::tenant::{Desk, Outcome, Tenant, counted, host, placed, plugin};

#[test]
fn shared_data_and_queues_of_another_plugin_are_not_found() {
    let host = host();
    let owner = callback(
        "proxy_on_request_headers",
        "(call $note (call $proxy_set_shared_data @\"secret\" @\"value\" (i32.const 0)))
         (call $note (call $proxy_register_shared_queue @\"queue\" (i32.const 0)))
         (call $note (call $proxy_enqueue_shared_queue (i32.load (i32.const 0)) @\"item\"))
         (call $tell)",
    );
    let thief = callback(
        "proxy_on_request_headers",
        "(call $note (call $proxy_get_shared_data @\"secret\" (i32.const 0) (i32.const 4) (i32.const 8)))
         (call $note (call $proxy_resolve_shared_queue @\"\" @\"queue\" (i32.const 0)))
         (call $note (call $proxy_resolve_shared_queue @\"default.owner\" @\"queue\" (i32.const 0)))
         (call $note (call $proxy_dequeue_shared_queue (i32.const 1) (i32.const 0) (i32.const 4)))
         (call $note (call $proxy_dequeue_shared_queue (i32.const 2) (i32.const 0) (i32.const 4)))
         (call $note (call $proxy_enqueue_shared_queue (i32.const 1) @\"x\"))
         (call $tell)",
    );
    let owner = Tenant::of(&host, &module(&owner), plugin("owner"));
    let thief = Tenant::of(&host, &module(&thief), plugin("thief"));
    assert_eq!(owner.report(Request::get("/")), "000");
    assert_eq!(thief.report(Request::get("/")), "111111");
    // And the same plugin finds its own.
    let finder = callback(
        "proxy_on_request_headers",
        "(call $note (call $proxy_get_shared_data @\"secret\" (i32.const 0) (i32.const 4) (i32.const 8)))
         (call $note (call $proxy_resolve_shared_queue @\"\" @\"queue\" (i32.const 0)))
         (call $tell)",
    );
    let again = Tenant::of(&host, &module(&finder), plugin("owner"));
    assert_eq!(again.report(Request::get("/")), "00");
}

#[test]
fn properties_that_one_plugin_set_for_itself_are_not_the_callers_identity() {
    // A module may not pretend to be the mesh.
    let text = callback(
        "proxy_on_request_headers",
        "(drop (call $proxy_set_property @\"source\\0principal\" @\"cluster.local/ns/admin/sa/root\"))
         (drop (call $proxy_set_property @\"connection\\0uri_san_peer_certificate\" @\"spiffe://forged\"))
         (drop (call $proxy_get_property @\"connection\\0uri_san_peer_certificate\" (i32.const 0) (i32.const 4)))
         (drop (call $proxy_send_local_response (i32.const 200) (i32.const 0) (i32.const 0)
           (i32.load (i32.const 0)) (i32.load (i32.const 4)) (i32.const 0) (i32.const 0) (i32.const -1)))",
    );
    let tenant = Tenant::new(&module(&text));
    let request = Request::get("/").identity("spiffe://cluster.local/ns/default/sa/caller");
    assert_eq!(
        tenant.report(request),
        "spiffe://cluster.local/ns/default/sa/caller"
    );
}

#[test]
fn tenants_of_one_module_do_not_share_its_memory() {
    // Says what was there, and leaves a mark.
    let text = "(global $mark (mut i32) (i32.const 0))".to_owned()
        + &callback(
            "proxy_on_request_headers",
            "(call $note (global.get $mark)) (call $note (i32.load (i32.const 65000))) (call $tell)
             (global.set $mark (i32.const 7)) (i32.store (i32.const 65000) (i32.const 7))",
        );
    let (host, module) = (host(), module(&text));
    let first = Tenant::of(&host, &module, plugin("first"));
    assert_eq!(first.report(Request::get("/")), "00");
    assert_eq!(first.report(Request::get("/")), "77");
    let second = Tenant::of(&host, &module, plugin("second"));
    assert_eq!(second.report(Request::get("/")), "00");
}

#[test]
fn instances_of_versions_that_were_replaced_go() {
    let module = module(&callback(
        "proxy_on_request_headers",
        "(return (i32.const 1))",
    ));
    let (host, desk) = (host(), Rc::new(Desk::default()));
    // A stream of the first version that takes its time.
    let version = |number: u8| {
        let mut plugin = plugin("changing");
        plugin.key.0[31] = number;
        Rc::new(Chain::new(vec![placed(&host, &desk, &module, plugin)]))
    };
    let first = version(0);
    let mut waiting = Bench::start(&first, Request::get("/"));
    assert_eq!(Outcome::of(&mut waiting), Outcome::Paused);
    drop(first);
    for number in 1..=30 {
        let chain = version(number);
        let mut bench = Bench::start(&chain, Request::get("/"));
        assert_eq!(Outcome::of(&mut bench), Outcome::Paused);
    }
    assert_eq!(counted(&host, "wayline_wasm_instances"), 31);
    let an_age = || {
        for _ in 0..10 {
            desk.pass(Duration::from_secs(60));
        }
    };
    an_age();
    assert_eq!(counted(&host, "wayline_wasm_instances"), 1);
    assert_eq!(Outcome::of(&mut waiting), Outcome::Paused);
    drop(waiting);
    an_age();
    assert_eq!(counted(&host, "wayline_wasm_instances"), 0);
}

#[test]
fn counters_under_contention_are_exact() {
    // Each request adds one under a compare-and-swap, again and again until it succeeds.
    let text = callback(
        "proxy_on_request_headers",
        "(local $left i32)
         (local.set $left (i32.const 200))
         (loop $again
           (i32.store (i32.const 512) (i32.const 0))
           (i32.store (i32.const 8) (i32.const 0))
           (if (i32.eqz (call $proxy_get_shared_data @\"n\" (i32.const 0) (i32.const 4) (i32.const 8)))
             (then (i32.store (i32.const 512) (i32.load (i32.load (i32.const 0))))))
           (i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1)))
           (br_if $again (call $proxy_set_shared_data @\"n\" (i32.const 512) (i32.const 4) (i32.load (i32.const 8))))
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $again (local.get $left)))",
    );
    let read = callback(
        "proxy_on_request_headers",
        "(drop (call $proxy_get_shared_data @\"n\" (i32.const 0) (i32.const 4) (i32.const 8)))
         (local.set $p0 (i32.load (i32.load (i32.const 0))))
         (call $note (i32.and (i32.shr_u (local.get $p0) (i32.const 12)) (i32.const 15)))
         (call $note (i32.and (i32.shr_u (local.get $p0) (i32.const 8)) (i32.const 15)))
         (call $note (i32.and (i32.shr_u (local.get $p0) (i32.const 4)) (i32.const 15)))
         (call $note (i32.and (local.get $p0) (i32.const 15)))
         (call $tell)",
    );
    let host = host();
    let (add, read) = (module(&text), module(&read));
    // The first write has no version to compare with: it is made before the race.
    let first = Tenant::of(&host, &add, patient("counter"));
    first.outcome(Request::get("/"));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (host, add) = (host.clone(), add.clone());
            std::thread::spawn(move || {
                let tenant = Tenant::of(&host, &add, patient("counter"));
                for _ in 0..5 {
                    tenant.outcome(Request::get("/"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let tenant = Tenant::of(&host, &read, plugin("counter"));
    let total = u32::from_str_radix(&tenant.report(Request::get("/")), 16).unwrap();
    assert_eq!(total, 200 * (1 + 16 * 5));
}

fn patient(name: &str) -> wayline_model::plugin::Plugin {
    let mut plugin = plugin(name);
    plugin.limits.callback = Duration::from_secs(10);
    plugin
}
