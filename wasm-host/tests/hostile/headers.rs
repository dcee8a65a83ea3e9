//! Headers that would split messages, lie about their length or lead elsewhere, and maps that lie
//! about themselves (W08, W10).

use wayline_chain::bench::{Head, Request};

use crate::modules::{callback, module};
use crate::tenant::Tenant;

/// The status of an edit of request headers, and the headers after it without the report.
fn edited(edit: &str) -> (String, Vec<(String, String)>) {
    let text = callback(
        "proxy_on_request_headers",
        &format!("(call $note {edit}) (call $tell)"),
    );
    let tenant = Tenant::new(&module(&text));
    let mut bench = tenant.send(Request::post("/path").header("x-there", "old"));
    bench.send("body").end(None);
    let head = bench.head();
    assert!(matches!(head, Head::Passed { .. }), "{edit}: {head:?}");
    bench.context(|context| {
        let request = context.request();
        let mut headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        let at = headers
            .iter()
            .position(|(name, _)| name == "x-report")
            .unwrap();
        let (_, report) = headers.remove(at);
        headers.push((":path".to_owned(), request.path.to_string()));
        headers.push((":method".to_owned(), request.method.to_string()));
        headers.push((
            ":authority".to_owned(),
            request.authority.as_str().to_owned(),
        ));
        (report, headers)
    })
}

fn untouched() -> Vec<(String, String)> {
    let pairs = [
        ("x-there", "old"),
        (":path", "/path"),
        (":method", "POST"),
        (":authority", "backend.test"),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn what_is_no_header_changes_nothing() {
    for (name, value) in [
        ("x-a", "a\\0d\\0ab: c"),
        ("x-a", "a\\0ab: c"),
        ("x-a", "a\\00b"),
        ("x-a\\0d\\0ab", "c"),
        ("x-a: b", "c"),
        ("x a", "c"),
        ("", "c"),
        ("x\\00a", "c"),
        ("x-\\c3\\a4", "c"),
        (":path", "/a b"),
        (":path", "/a\\0d\\0ab"),
        (":path", "no-slash"),
        (":path", ""),
        (":path", "?only=a-query"),
        (":path", "http://elsewhere.test/"),
        (":method", "GE T"),
        (":method", ""),
        (":method", "CONNECT"),
        (":authority", "a b"),
        (":authority", "a/b"),
        (":authority", "user@host"),
        (":authority", ""),
        ("host", "a b"),
        (":status", "200"),
        (":nothing", "1"),
        ("transfer-encoding", "chunked"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "close"),
        ("connection", "x-there"),
        ("upgrade", "websocket"),
        ("keep-alive", "5"),
    ] {
        for function in [
            "proxy_add_header_map_value",
            "proxy_replace_header_map_value",
        ] {
            let text = text(name, value);
            let (status, headers) = edited(&format!("(call ${function} (i32.const 0) {text})"));
            assert_eq!(status, "2", "{function} `{name}: {value}`");
            assert_eq!(headers, untouched(), "{function} `{name}: {value}`");
        }
    }
}

/// Name and value where the module lays them out itself: they have bytes that texts can not say.
fn text(name: &str, value: &str) -> String {
    let length = |text: &str| {
        let escapes = text.matches('\\').count();
        text.len() - 2 * escapes
    };
    let (name_length, value_length) = (length(name), length(value));
    format!(
        "(block (result i32 i32 i32 i32)
           (memory.init $name (i32.const 4000) (i32.const 0) (i32.const {name_length}))
           (memory.init $value (i32.const 5000) (i32.const 0) (i32.const {value_length}))
           (i32.const 4000) (i32.const {name_length}) (i32.const 5000) (i32.const {value_length}))
         ;;DATA {name}|{value}\n"
    )
}

#[test]
fn lengths_of_bodies_are_not_the_modules_to_say() {
    for function in [
        "proxy_add_header_map_value",
        "proxy_replace_header_map_value",
    ] {
        let (_, headers) = edited(&format!(
            "(call ${function} (i32.const 0) @\"content-length\" @\"99999\")"
        ));
        assert!(
            !headers.iter().any(|(name, _)| name == "content-length"),
            "{headers:?}"
        );
    }
}

#[test]
fn pseudo_headers_can_not_be_removed_or_doubled() {
    for name in [":path", ":method", ":authority", ":scheme", "host"] {
        let (_, headers) = edited(&format!(
            "(call $proxy_remove_header_map_value (i32.const 0) @\"{name}\")"
        ));
        assert_eq!(headers, untouched(), "{name}");
    }
    let (status, headers) =
        edited("(call $proxy_add_header_map_value (i32.const 0) @\":path\" @\"/second\")");
    let paths = headers.iter().filter(|(name, _)| name == ":path").count();
    assert_eq!((status.as_str(), paths), ("0", 1));
}

#[test]
fn names_lose_their_capitals_and_values_keep_theirs() {
    let (status, headers) =
        edited("(call $proxy_add_header_map_value (i32.const 0) @\"X-New\" @\"Value\")");
    assert_eq!(status, "0");
    assert!(
        headers.contains(&("x-new".to_owned(), "Value".to_owned())),
        "{headers:?}"
    );
}

#[test]
fn a_path_that_was_changed_is_judged_again() {
    let text = callback(
        "proxy_on_request_headers",
        "(drop (call $proxy_replace_header_map_value (i32.const 0) @\":path\" @\"/admin\"))",
    );
    let mut bench = Tenant::new(&module(&text)).send(Request::get("/public"));
    let head = bench.head();
    assert!(matches!(head, Head::Passed { rewritten: true }), "{head:?}");
}

/// What the module is told when it hands in a map of these bytes, and what became of the headers.
fn map_of(bytes: &[u8], declared: u32) -> (String, Vec<(String, String)>) {
    let data: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let edit = format!(
        "(call $proxy_set_header_map_pairs (i32.const 0) (i32.const 8000) (i32.const {}))
         ;;AT8000 {data}\n",
        declared.cast_signed()
    );
    edited(&edit)
}

#[test]
fn maps_that_lie_about_themselves_cost_nothing_and_are_read_as_empty_or_refused() {
    let pair = |count: u32, name: u32, value: u32, rest: &[u8]| {
        let mut bytes = Vec::new();
        for number in [count, name, value] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(rest);
        bytes
    };
    let huge = u32::MAX;
    for (what, bytes) in [
        ("a count", pair(huge, 1, 1, b"a\0b\0")),
        ("more than there are", pair(2, 1, 1, b"a\0b\0")),
        ("a name's length", pair(1, huge, 1, b"a\0b\0")),
        ("a value's length", pair(1, 1, huge, b"a\0b\0")),
        ("both, wrapping", pair(1, huge, 3, b"a\0b\0")),
        ("no zero after the name", pair(1, 1, 1, b"aXb\0")),
        ("no zero at the end", pair(1, 1, 1, b"a\0bX")),
        ("bytes behind", pair(1, 1, 1, b"a\0b\0more")),
        ("cut short", vec![1, 0]),
    ] {
        let (_, headers) = map_of(&bytes, u32::try_from(bytes.len()).unwrap());
        assert!(
            !headers.iter().any(|(name, _)| name == "a"),
            "{what}: {headers:?}"
        );
        let pseudo = headers
            .iter()
            .filter(|(name, _)| name.starts_with(':'))
            .count();
        assert_eq!(pseudo, 3, "{what}");
    }
    // Beyond the end of memory.
    let (status, headers) = map_of(&[0], huge);
    assert_eq!((status.as_str(), headers), ("6", untouched()));
}

#[test]
fn no_map_grows_without_end() {
    // As many additions as it likes: how many succeeded.
    let text = callback(
        "proxy_on_request_headers",
        "(local $left i32)
         (local.set $left (i32.const 3000))
         (block $end (loop $next
           (br_if $end (i32.eqz (local.get $left)))
           (br_if $end (call $proxy_add_header_map_value (i32.const 0) @\"x-more\" @\"value\"))
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br $next)))
         (call $note (i32.eqz (local.get $left)))",
    );
    let tenant = Tenant::with(&module(&text), |plugin| {
        plugin.limits.callback = std::time::Duration::from_secs(1);
    });
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    let count = bench.context(|context| context.request().headers.len());
    assert!(count <= 1024, "{count}");
}

#[test]
fn values_as_long_as_memory_are_refused() {
    let text = callback(
        "proxy_on_request_headers",
        "(local $left i32)
         (memory.fill (i32.const 65536) (i32.const 97) (i32.const 65536))
         (local.set $left (i32.const 100))
         (block $end (loop $next
           (br_if $end (i32.eqz (local.get $left)))
           (drop (call $proxy_add_header_map_value (i32.const 0) @\"x-long\" (i32.const 65536) (i32.const 65000)))
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br $next)))",
    );
    let tenant = Tenant::with(&module(&text), |plugin| {
        plugin.limits.callback = std::time::Duration::from_secs(1);
    });
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    let bytes: usize = bench.context(|context| {
        let headers = context.request().headers.iter();
        headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum()
    });
    assert!(bytes <= 1 << 20, "{bytes}");
}
