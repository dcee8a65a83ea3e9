//! Modules as text, with what every one of them needs: a memory, an allocator, the ABI's version, and
//! the host functions that its text mentions.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Where texts lie; below are cells for host functions to write into.
const TEXTS: usize = 1024;

/// Where the report lies, and how long it may be.
const REPORT: usize = 60_000;

/// Host functions by their parameters: `i` for 32 bits, `I` for 64. All answer a status.
pub(crate) const FUNCTIONS: [(&str, &str); 39] = [
    ("proxy_add_header_map_value", "iiiii"),
    ("proxy_call_foreign_function", "iiiiii"),
    ("proxy_close_stream", "i"),
    ("proxy_continue_stream", "i"),
    ("proxy_define_metric", "iiii"),
    ("proxy_dequeue_shared_queue", "iii"),
    ("proxy_done", ""),
    ("proxy_enqueue_shared_queue", "iii"),
    ("proxy_get_buffer_bytes", "iiiii"),
    ("proxy_get_buffer_status", "iii"),
    ("proxy_get_current_time_nanoseconds", "i"),
    ("proxy_get_header_map_pairs", "iii"),
    ("proxy_get_header_map_size", "ii"),
    ("proxy_get_header_map_value", "iiiii"),
    ("proxy_get_log_level", "i"),
    ("proxy_get_metric", "ii"),
    ("proxy_get_property", "iiii"),
    ("proxy_get_shared_data", "iiiii"),
    ("proxy_get_status", "iii"),
    ("proxy_grpc_call", "iiiiiiiiiiii"),
    ("proxy_grpc_cancel", "i"),
    ("proxy_grpc_close", "i"),
    ("proxy_grpc_send", "iiii"),
    ("proxy_grpc_stream", "iiiiiiiii"),
    ("proxy_http_call", "iiiiiiiiii"),
    ("proxy_increment_metric", "iI"),
    ("proxy_log", "iii"),
    ("proxy_record_metric", "iI"),
    ("proxy_register_shared_queue", "iii"),
    ("proxy_remove_header_map_value", "iii"),
    ("proxy_replace_header_map_value", "iiiii"),
    ("proxy_resolve_shared_queue", "iiiii"),
    ("proxy_send_local_response", "iiiiiiii"),
    ("proxy_set_buffer_bytes", "iiiii"),
    ("proxy_set_effective_context", "i"),
    ("proxy_set_header_map_pairs", "iii"),
    ("proxy_set_property", "iiii"),
    ("proxy_set_shared_data", "iiiii"),
    ("proxy_set_tick_period_milliseconds", "i"),
];

/// Functions of WASI that modules here call.
const WASI: [(&str, &str); 3] = [
    ("fd_write", "iiii"),
    ("proc_exit", "i"),
    ("random_get", "ii"),
];

/// A module from the text of its functions. In it, `@"text"` stands for a pointer and a length, with
/// `\0` for a zero byte, and `(call $note (…))` writes a status down as a digit (`a` for 10 and so on),
/// to be told by `(call $tell)`: the request header `x-report`, or by `(call $answer)`: a response 200
/// with the report as its body. Imports are those that it calls.
pub(crate) fn module(functions: &str) -> Vec<u8> {
    let (functions, texts) = lay_out(functions);
    let texts = texts + &asides(&functions);
    let mut called = functions.clone();
    called.push_str(HELPERS);
    let mut text = String::from("(module\n");
    for (module, functions) in [
        ("env", &FUNCTIONS[..]),
        ("wasi_snapshot_preview1", &WASI[..]),
    ] {
        for (name, parameters) in functions {
            if called.contains(&format!("${name} ")) || called.contains(&format!("${name})")) {
                text += &import(module, name, parameters);
            }
        }
    }
    text += "(memory (export \"memory\") 2)\n";
    text += &texts;
    text += HELPERS;
    text += &functions;
    text.push(')');
    let built = wat::parse_str(&text);
    built.unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(crate) fn import(module: &str, name: &str, parameters: &str) -> String {
    let kinds: String = parameters
        .chars()
        .map(|kind| if kind == 'I' { " i64" } else { " i32" })
        .collect();
    let result = if name == "proc_exit" {
        ""
    } else {
        " (result i32)"
    };
    format!("(import \"{module}\" \"{name}\" (func ${name} (param{kinds}){result}))\n")
}

/// Memory for hosts begins at 65536 and is used again and again.
const HELPERS: &str = r#"
(global $heap (mut i32) (i32.const 65536))
(global $noted (mut i32) (i32.const 0))
(func (export "proxy_abi_version_0_2_1"))
(func $allocate (export "malloc") (param $size i32) (result i32)
  (local $at i32)
  (if (i32.gt_u (i32.add (global.get $heap) (local.get $size)) (i32.const 131072))
    (then (global.set $heap (i32.const 65536))))
  (local.set $at (global.get $heap))
  (global.set $heap (i32.add (local.get $at) (local.get $size)))
  (if (i32.gt_u (global.get $heap) (i32.const 131072)) (then (return (i32.const 0))))
  (local.get $at))
(func $note (param $status i32)
  (i32.store8 (i32.add (i32.const 60000) (global.get $noted))
    (i32.add (local.get $status)
      (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $status) (i32.const 9)))))
  (global.set $noted (i32.add (global.get $noted) (i32.const 1))))
(func $tell
  (drop (call $proxy_replace_header_map_value (i32.const 0) (i32.const 1000) (i32.const 8)
    (i32.const 60000) (global.get $noted)))
  (global.set $noted (i32.const 0)))
(func $answer
  (drop (call $proxy_send_local_response (i32.const 200) (i32.const 0) (i32.const 0)
    (i32.const 60000) (global.get $noted) (i32.const 0) (i32.const 0) (i32.const -1)))
  (global.set $noted (i32.const 0)))
(data (i32.const 1000) "x-report")
"#;

/// Puts texts into memory and their places into the text of functions.
fn lay_out(functions: &str) -> (String, String) {
    let (mut laid, mut data) = (String::new(), String::new());
    let (mut rest, mut next) = (functions, TEXTS);
    while let Some((before, after)) = rest.split_once("@\"") {
        let (text, after) = after.split_once('"').unwrap();
        let length = text
            .replace("\\0", "0")
            .replace("\\n", "n")
            .replace("\\r", "r")
            .len();
        let text = text.replace("\\0", "\\00");
        writeln!(data, "(data (i32.const {next}) \"{text}\")").unwrap();
        write!(laid, "{before}(i32.const {next}) (i32.const {length})").unwrap();
        next += length;
        rest = after;
    }
    laid.push_str(rest);
    assert!(next < REPORT, "too much text");
    (laid, data)
}

/// Data that a text asks for in a comment of its own line: `;;DATA name|value` for the passive segments
/// `$name` and `$value`, `;;AT8000 bytes` for bytes at that place.
fn asides(functions: &str) -> String {
    let mut data = String::new();
    for line in functions.lines() {
        if let Some((_, parts)) = line.split_once(";;DATA ") {
            let (name, value) = parts.split_once('|').unwrap();
            writeln!(data, "(data $name \"{name}\")\n(data $value \"{value}\")").unwrap();
        }
        if let Some((_, bytes)) = line.split_once(";;AT8000 ") {
            writeln!(data, "(data (i32.const 8000) \"{bytes}\")").unwrap();
        }
    }
    data
}

/// A callback that ends by answering 0.
pub(crate) fn callback(name: &str, body: &str) -> String {
    let (parameters, result) = signature(name);
    let parameters: String = (0..parameters)
        .map(|n| format!(" (param $p{n} i32)"))
        .collect();
    if result {
        return format!(
            "(func (export \"{name}\"){parameters} (result i32)\n{body}\n(i32.const 0))\n"
        );
    }
    format!("(func (export \"{name}\"){parameters}\n{body})\n")
}

/// How many parameters a callback has, and whether it answers.
fn signature(name: &str) -> (usize, bool) {
    match name {
        "_initialize" | "_start" => (0, false),
        "proxy_on_tick" | "proxy_on_log" | "proxy_on_delete" => (1, false),
        "proxy_on_context_create" | "proxy_on_queue_ready" => (2, false),
        "proxy_on_done" => (1, true),
        "proxy_on_vm_start" | "proxy_on_configure" => (2, true),
        "proxy_on_request_trailers" | "proxy_on_response_trailers" => (2, true),
        "proxy_on_http_call_response" => (5, false),
        _ => (3, true),
    }
}

#[test]
fn every_function_is_named_once() {
    let names: BTreeSet<_> = FUNCTIONS.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), FUNCTIONS.len());
}
