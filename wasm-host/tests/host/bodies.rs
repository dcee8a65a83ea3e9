//! Bodies and trailers: passing, holding, changing.

use http::{HeaderMap, HeaderValue, StatusCode};
use wayline_chain::bench::{Bench, Head, Request};

use crate::support::{Stage, guest};

/// A guest that holds the body until its end and puts its length, in one digit, in its place.
const MEASURES: &str = r#"
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
      (if (i32.eqz (local.get 2)) (then (return (i32.const 1))))
      (drop (call $get_buffer_status (i32.const 0) (i32.const 64) (i32.const 68)))
      (if (i32.ne (i32.load (i32.const 64)) (local.get 1)) (then unreachable))
      (i32.store8 (i32.const 0) (i32.add (i32.const 48) (local.get 1)))
      (drop (call $set_buffer_bytes
        (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 0) (i32.const 1)))
      (i32.const 0))"#;

#[test]
fn a_body_is_held_and_changed() {
    let stage = Stage::of(&guest(MEASURES));
    let mut bench = Bench::start(&stage.chain, Request::post("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.send("ab").send("cde");
    assert_eq!(bench.upstream().body(), "");
    bench.end(None);
    let upstream = bench.upstream();
    assert_eq!((upstream.body().as_str(), upstream.ended), ("5", true));
}

#[test]
fn data_is_put_in_front_behind_and_in_between() {
    for (start, size, expected) in [
        (0, 0, "+abcd"),
        (99, 0, "abcd+"),
        (1, 2, "a+d"),
        (0, 2, "+cd"),
    ] {
        let stage = Stage::of(&guest(&format!(
            r#"(data (i32.const 0) "+")
            (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
              (if (local.get 2) (then (return (i32.const 0))))
              (call $set_buffer_bytes
                (i32.const 1) (i32.const {start}) (i32.const {size}) (i32.const 0) (i32.const 1)))"#
        )));
        let mut bench = Bench::start(&stage.chain, Request::get("/"));
        assert!(matches!(bench.head(), Head::Passed { .. }));
        bench.respond(StatusCode::OK, &[]).send_back("abcd");
        assert!(bench.response().is_some());
        assert_eq!(bench.client().body(), expected);
    }
}

#[test]
fn without_body_callbacks_no_body_is_asked_for() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    ));
    let needs = stage.chain.needs();
    assert!(!needs.request_body && !needs.response_body && !needs.response_headers);
}

#[test]
fn a_pause_on_headers_holds_the_body_unless_the_plugin_says_otherwise() {
    let text = guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
          (select (i32.const 0) (i32.const 1) (local.get 2)))"#,
    );
    let holds = Stage::of(&text);
    let mut bench = Bench::start(&holds.chain, Request::post("/"));
    bench.send("ab").end(None);
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(bench.unread(), 1, "the bytes stay with their sender");

    let feeds = Stage::with(&text, |plugin| {
        plugin.allow_on_headers_stop_iteration = true
    });
    let mut bench = Bench::start(&feeds.chain, Request::post("/"));
    bench.send("ab");
    assert!(matches!(bench.head(), Head::Paused));
    bench.end(None);
    assert!(matches!(bench.head(), Head::Passed { .. }));
    assert_eq!(bench.upstream().body(), "ab");
}

#[test]
fn what_a_guest_takes_for_itself_goes_nowhere() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
          (select (i32.const 0) (i32.const 3) (local.get 2)))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::post("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.send("gone");
    assert_eq!(bench.upstream().body(), "");
    bench.end(None);
    let upstream = bench.upstream();
    assert_eq!((upstream.body().as_str(), upstream.ended), ("", true));
}

#[test]
fn trailers_are_edited_and_the_response_head_is_readable_behind_it() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) "x-endx-a")
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_response_trailers") (param i32 i32) (result i32)
          (drop (call $get_header_map_value
            (i32.const 2) (i32.const 5) (i32.const 3) (i32.const 64) (i32.const 68)))
          (drop (call $add_header_map_value (i32.const 3) (i32.const 0) (i32.const 5)
            (i32.load (i32.const 64)) (i32.load (i32.const 68))))
          (i32.const 0))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench
        .respond(StatusCode::OK, &[("x-a", "from the head")])
        .send_back("body");
    assert!(bench.response().is_some());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-t", HeaderValue::from_static("1"));
    bench.end_back(Some(trailers));
    let client = bench.client();
    assert_eq!(client.trailers.as_ref().unwrap()["x-end"], "from the head");
    assert_eq!(client.trailers.as_ref().unwrap()["x-t"], "1");
}

#[test]
fn trailers_are_made_at_the_end_of_a_body_that_has_none() {
    let make = |callback: &str, map: u32| {
        format!(
            r#"(func (export "{callback}") (param i32 i32 i32) (result i32)
              (if (i32.ne
                    (call $add_header_map_value (i32.const {map})
                      (i32.const 512) (i32.const 5) (i32.const 517) (i32.const 4))
                    (select (i32.const 0) (i32.const 2) (local.get 2)))
                (then unreachable))
              (i32.const 0))"#
        )
    };
    let stage = Stage::of(&guest(&format!(
        r#"(data (i32.const 512) "x-newmade") {} {}"#,
        make("proxy_on_request_body", 1),
        make("proxy_on_response_body", 3),
    )));
    let mut bench = Bench::start(&stage.chain, Request::post("/"));
    bench.send("ab").end(None);
    assert!(matches!(bench.head(), Head::Passed { .. }));
    let upstream = bench.upstream();
    assert_eq!((upstream.body().as_str(), upstream.ended), ("ab", true));
    assert_eq!(upstream.trailers.as_ref().unwrap()["x-new"], "made");

    bench.respond(StatusCode::OK, &[]).send_back("cd");
    assert!(bench.response().is_some());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-t", HeaderValue::from_static("1"));
    bench.end_back(Some(trailers));
    let client = bench.client();
    let trailers = client.trailers.as_ref().unwrap();
    // The guest does not hear of trailers, so to it the body was the end.
    assert_eq!(
        (&trailers["x-t"], &trailers["x-new"]),
        (&"1".parse().unwrap(), &"made".parse().unwrap())
    );
}
