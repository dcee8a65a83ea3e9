//! Headers as guests read and edit them.

use http::StatusCode;
use wayline_chain::bench::{Bench, Head, Request};

use crate::support::{Stage, escaped, guest, guest_of, pairs, told};

/// A guest whose request callback answers with the status of what it did as `:status` 200 + status.
fn answers(data: &str, action: &str) -> String {
    guest(&format!(
        r#"{data}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $send_local_response
            (i32.add (i32.const 200) {action})
            (i32.const 0) (i32.const 0) (i32.load (i32.const 64)) (i32.load (i32.const 68))
            (i32.const 0) (i32.const 0) (i32.const -1)))
          (i32.const 0))"#
    ))
}

fn reply_of(text: &str, request: Request) -> String {
    let stage = Stage::of(text);
    match Bench::start(&stage.chain, request).head() {
        Head::Replied(reply) => told(&reply),
        other => panic!("{other:?}"),
    }
}

fn got(name: &str, request: Request) -> String {
    reply_of(
        &answers(
            &format!("(data (i32.const 0) \"{name}\")"),
            &format!(
                "(call $get_header_map_value (i32.const 0) (i32.const 0) (i32.const {}) (i32.const 64) (i32.const 68))",
                name.len()
            ),
        ),
        request,
    )
}

#[test]
fn a_guest_sets_a_header_of_the_request() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) "x-guestwas here")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $replace_header_map_value
            (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 7) (i32.const 8)))
          (i32.const 0))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { rewritten: false }));
    bench.context(|context| assert_eq!(context.request().headers["x-guest"], "was here"));
}

#[test]
fn headers_are_read_with_pseudo_headers_and_in_any_case() {
    let request = || {
        Request::get("/a?b=c")
            .header("x-one", "1")
            .header("x-one", "2")
    };
    assert_eq!(got(":path", request()), "200 wasm_local_response /a?b=c");
    assert_eq!(got(":method", request()), "200 wasm_local_response GET");
    assert_eq!(
        got(":authority", request()),
        "200 wasm_local_response backend.test"
    );
    assert_eq!(
        got("Host", request()),
        "200 wasm_local_response backend.test"
    );
    assert_eq!(got("X-One", request()), "200 wasm_local_response 1");
    assert_eq!(got("x-two", request()), "201 wasm_local_response ");
}

#[test]
fn a_missing_header_is_empty_in_the_first_version() {
    let text = answers(
        "(data (i32.const 0) \"x-two\")",
        "(call $get_header_map_value (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 68))",
    );
    let text = text.replace("proxy_abi_version_0_2_1", "proxy_abi_version_0_1_0");
    assert_eq!(
        reply_of(&text, Request::get("/")),
        "200 wasm_local_response "
    );
}

#[test]
fn the_first_version_is_not_told_of_the_end_of_the_stream() {
    let stage = Stage::of(&guest_of(
        "proxy_abi_version_0_1_0",
        r#"(data (i32.const 0) "x-guesty")
        (func (export "proxy_on_request_headers") (param i32 i32) (result i32)
          (drop (call $add_header_map_value
            (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 7) (i32.const 1)))
          (i32.const 0))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.context(|context| assert_eq!(context.request().headers["x-guest"], "y"));
}

#[test]
fn all_headers_are_read_and_replaced_as_pairs() {
    let edited = pairs(&[
        (":path", "/new"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("connection", "x"),
    ]);
    let stage = Stage::of(&guest(&format!(
        r#"(data (i32.const 0) "{}")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          ;; What is given must be exactly as large as it is said to be.
          (drop (call $get_header_map_pairs (i32.const 0) (i32.const 264) (i32.const 268)))
          (drop (call $get_header_map_size (i32.const 0) (i32.const 272)))
          (if (i32.ne (i32.load (i32.const 268)) (i32.load (i32.const 272))) (then unreachable))
          (if (i32.ne (i32.load (i32.load (i32.const 264))) (local.get 1)) (then unreachable))
          (call $set_header_map_pairs (i32.const 0) (i32.const 0) (i32.const {})))"#,
        escaped(&edited),
        edited.len()
    )));
    let request = Request::get("/old")
        .header("x-b", "gone")
        .header("content-length", "0");
    let mut bench = Bench::start(&stage.chain, request);
    assert!(matches!(bench.head(), Head::Passed { rewritten: true }));
    bench.context(|context| {
        let request = context.request();
        assert_eq!(request.path.as_str(), "/new");
        let values: Vec<_> = request.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(!request.headers.contains_key("x-b"));
        assert!(!request.headers.contains_key("connection"));
        assert_eq!(
            request.headers["content-length"], "0",
            "framing is not the guest's"
        );
    });
}

#[test]
fn what_no_header_can_be_is_refused_and_changes_nothing() {
    let bad = [
        ("x-a", "a\\0d\\0ab: c", 4 + 5),
        ("x-a", "a\\00", 2),
        ("", "x", 1),
        ("a b", "x", 1),
        (":path", "/a b", 4),
        (":path", "no", 2),
        (":method", "G T", 3),
        (":method", "CONNECT", 7),
        (":authority", "a/b", 3),
        (":nothing", "x", 1),
        ("transfer-encoding", "chunked", 7),
        ("connection", "close", 5),
        ("upgrade", "h2c", 3),
    ];
    for (name, value, length) in bad {
        let stage = Stage::of(&guest(&format!(
            r#"(data (i32.const 0) "{name}{value}")
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (if (i32.ne (i32.const 2) (call $replace_header_map_value
                (i32.const 0) (i32.const 0) (i32.const {at}) (i32.const {at}) (i32.const {length})))
                (then unreachable))
              (i32.const 0))"#,
            at = name.len()
        )));
        let mut bench = Bench::start(&stage.chain, Request::get("/a"));
        let head = bench.head();
        assert!(
            matches!(head, Head::Passed { rewritten: false }),
            "{name}: {value}: {head:?}"
        );
        bench.context(|context| {
            assert!(context.request().headers.is_empty());
            assert_eq!(context.request().path.as_str(), "/a");
        });
    }
}

#[test]
fn response_headers_are_edited_and_so_is_the_status() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) ":status418x-a")
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
          (drop (call $replace_header_map_value
            (i32.const 2) (i32.const 0) (i32.const 7) (i32.const 7) (i32.const 3)))
          (call $remove_header_map_value (i32.const 2) (i32.const 10) (i32.const 3)))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.respond(StatusCode::OK, &[("x-a", "1"), ("x-b", "2")]);
    let head = bench.response().unwrap();
    assert_eq!(head.status, StatusCode::IM_A_TEAPOT);
    assert!(!head.headers.contains_key("x-a"));
    assert_eq!(head.headers["x-b"], "2");
}

#[test]
fn wild_pointers_are_refused_at_every_function() {
    let stage = Stage::of(&guest(
        r#"(func $check (param i32)
          (if (i32.ne (local.get 0) (i32.const 6)) (then (call $note (local.get 0)) unreachable)))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $check (call $log (i32.const 2) (i32.const -1) (i32.const 2)))
          (call $check (call $log (i32.const 2) (i32.const 131071) (i32.const 2)))
          (call $check (call $get_header_map_value (i32.const 0) (i32.const -4) (i32.const 8) (i32.const 64) (i32.const 68)))
          (call $check (call $get_header_map_pairs (i32.const 0) (i32.const -4) (i32.const 68)))
          (call $check (call $add_header_map_value (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 131072) (i32.const 1)))
          (call $check (call $set_shared_data (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0)))
          (call $check (call $get_property (i32.const 131070) (i32.const 10) (i32.const 64) (i32.const 68)))
          (call $check (call $http_call (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64)))
          (call $check (call $define_metric (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 64)))
          (call $check (call $send_local_response (i32.const 200) (i32.const 0) (i32.const 0) (i32.const -1)
            (i32.const 2) (i32.const 0) (i32.const 0) (i32.const -1)))
          (i32.const 0))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    let head = bench.head();
    assert!(matches!(head, Head::Passed { .. }), "{head:?}");
}
