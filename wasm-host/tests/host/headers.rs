//! Headers as guests read and edit them.

use wayline_chain::bench::{Bench, Head, Request};

use crate::support::{Stage, guest};

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
