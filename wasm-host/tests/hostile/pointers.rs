//! Every host function with every pointer and length that is at an edge of something (W11).

use std::fmt::Write;

use http::StatusCode;
use wayline_chain::bench::Request;

use crate::modules::FUNCTIONS;
use crate::tenant::Tenant;

/// Two pages.
const MEMORY: i64 = 131_072;

const EDGES: [i64; 8] = [
    0,
    1,
    4,
    MEMORY - 1,
    MEMORY,
    0x7fff_ffff,
    0xffff_fff0,
    0xffff_ffff,
];

/// Functions that have many parameters are called with as many combinations as can be had in a second;
/// which ones is the same in each run.
const AT_MOST: usize = 3000;

/// A module that calls `name` with each combination, in one callback per event of a stream.
fn caller(name: &str, parameters: &str) -> Vec<u8> {
    let all = EDGES
        .len()
        .pow(u32::try_from(parameters.len()).unwrap().min(10));
    let mut calls = String::new();
    let step = (all / AT_MOST).max(1);
    // Steps that have a factor in common with the number of edges would always end in the same ones.
    let step = if step > 1 { step | 1 } else { 1 };
    for combination in (0..all).step_by(step) {
        let (mut digits, mut arguments) = (combination, String::new());
        for kind in parameters.chars() {
            let edge = EDGES[digits % EDGES.len()];
            digits = digits / EDGES.len() + combination;
            let kind = if kind == 'I' { "i64" } else { "i32" };
            write!(arguments, " ({kind}.const {edge})").unwrap();
        }
        writeln!(calls, "(drop (call $f{arguments}))").unwrap();
    }
    let kinds: String = parameters
        .chars()
        .map(|kind| if kind == 'I' { " i64" } else { " i32" })
        .collect();
    let text = format!(
        r#"(module
        (import "env" "{name}" (func $f (param{kinds}) (result i32)))
        (memory (export "memory") 2)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 70000))
        (func $calls {calls})
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $calls) (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $calls) (i32.const 0))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $calls) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $calls) (i32.const 0))
        (func (export "proxy_on_log") (param i32) (call $calls)))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn no_argument_of_any_function_hurts_anybody() {
    for (name, parameters) in FUNCTIONS {
        let tenant = Tenant::with(&caller(name, parameters), |plugin| {
            plugin.limits.callback = std::time::Duration::from_secs(10);
            plugin.limits.background = std::time::Duration::from_secs(10);
            // It may do what it likes, and must not be stopped for it.
            plugin.limits.log_bytes = 1024;
        });
        for _ in 0..2 {
            let mut bench = tenant.send(Request::post("/").header("x-there", "1"));
            bench.send("body").end(None);
            // Answered, paused, reset or passed: whatever it asked for.
            if let wayline_chain::bench::Head::Passed { .. } = bench.head() {
                let _ = bench.upstream();
                let _ = bench.interrupt();
                bench
                    .respond(StatusCode::OK, &[])
                    .send_back("back")
                    .end_back(None);
                let _ = bench.response();
                let _ = bench.client();
            }
        }
    }
}
