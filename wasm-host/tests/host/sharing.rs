//! What instances share, count and know.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use wayline_chain::Routed;
use wayline_chain::bench::{Bench, Head, Request};
use wayline_telemetry::{MetricsHub, MetricsSettings};

use crate::support::{Stage, guest, told};

/// The value of a property, as the body of a reply.
fn property(path: &str, request: Request) -> Result<Vec<u8>, u16> {
    let length = path.len();
    let stage = Stage::of(&guest(&format!(
        r#"(data (i32.const 0) "{}")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $send_local_response
            (i32.add (i32.const 200) (call $get_property
              (i32.const 0) (i32.const {length}) (i32.const 64) (i32.const 68)))
            (i32.const 0) (i32.const 0) (i32.load (i32.const 64)) (i32.load (i32.const 68))
            (i32.const 0) (i32.const 0) (i32.const -1)))
          (i32.const 0))"#,
        path.replace('.', "\\00")
    )));
    match Bench::start(&stage.chain, request).head() {
        Head::Replied(reply) if reply.status == 200 => Ok(reply.body.to_vec()),
        Head::Replied(reply) => Err(reply.status.as_u16()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn properties_are_what_envoy_calls_them_in_its_encodings() {
    let request = || {
        Request::get("/a/b?c=d")
            .authority("shop.test:8080")
            .header("user-agent", "curl")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("x-request-id", "id-1")
            .identity("spiffe://cluster.local/ns/shop/sa/cart")
            .connection(|connection| connection.sni = Some("sni.test".into()))
    };
    let text = |path: &str| String::from_utf8(property(path, request()).unwrap()).unwrap();
    assert_eq!(text("request.path"), "/a/b?c=d");
    assert_eq!(text("request.url_path"), "/a/b");
    assert_eq!(text("request.query"), "c=d");
    assert_eq!(text("request.host"), "shop.test:8080");
    assert_eq!(text("request.method"), "GET");
    assert_eq!(text("request.scheme"), "http");
    assert_eq!(text("request.protocol"), "HTTP/2");
    assert_eq!(text("request.useragent"), "curl");
    assert_eq!(text("request.id"), "id-1");
    assert_eq!(text("request.headers.x-a"), "1,2");
    assert_eq!(text("source.address"), "192.0.2.1:40000");
    assert_eq!(text("source.principal"), "cluster.local/ns/shop/sa/cart");
    assert_eq!(text("source.namespace"), "shop");
    assert_eq!(text("connection.requested_server_name"), "sni.test");
    let uri = "spiffe://cluster.local/ns/shop/sa/cart";
    assert_eq!(text("connection.uri_san_peer_certificate"), uri);
    assert_eq!(text("plugin_name"), "default.guest");
    assert_eq!(text("plugin_root_id"), "guest");
    let value = |path: &str| property(path, request());
    assert_eq!(value("source.port"), Ok(40_000_i64.to_le_bytes().to_vec()));
    assert_eq!(value("connection.mtls"), Ok(vec![1]));
    assert_eq!(
        value("listener_direction"),
        Ok(1_i64.to_le_bytes().to_vec())
    );
    assert_eq!(value("request.size"), Ok(vec![0; 8]));
    assert_eq!(value("request.time").unwrap().len(), 8);
    for unknown in [
        "request.nothing",
        "response.code",
        "upstream.address",
        "nobody",
        "request",
    ] {
        assert_eq!(value(unknown), Err(201), "{unknown}");
    }
}

/// Of `O=Shop, Inc, CN=cart`, with the names `spiffe://cluster.local/ns/shop/sa/cart`, `cart.shop` and
/// `other`.
const CERTIFICATE: &str = "\
    MIIB5DCCAYqgAwIBAgIUWciUWQMeHt5lAG54yjKnCqSrGyYwCgYIKoZIzj0EAwIwIzESMBAGA1UECgwJU2hvcCwgSW\
    5jMQ0wCwYDVQQDDARjYXJ0MCAXDTI2MTEyMDIzMjMyOFoYDzIxMjYxMDI3MjMyMzI4WjAjMRIwEAYDVQQKDAlTaG9w\
    LCBJbmMxDTALBgNVBAMMBGNhcnQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASE20tvREeFKVCG/1hmIK5AC9YP5X\
    dlUGAaLZsFBkvcjL34I4vk3ObEFh5CO9j/B27GSm2FlOTa9NOZ2eYs6aBEo4GZMIGWMB0GA1UdDgQWBBQXcWpdac8D\
    X1EIt5POrmqQDL/ufDAfBgNVHSMEGDAWgBQXcWpdac8DX1EIt5POrmqQDL/ufDAPBgNVHRMBAf8EBTADAQH/MEMGA1\
    UdEQQ8MDqGJnNwaWZmZTovL2NsdXN0ZXIubG9jYWwvbnMvc2hvcC9zYS9jYXJ0ggljYXJ0LnNob3CCBW90aGVyMAoG\
    CCqGSM49BAMCA0gAMEUCIGj04GkpZGaWOqUU5kFXaHCqpiO0mzNzincwr7Ui1zBcAiEAtwLoJVq6UNVjTdMufcwlYz\
    4XFRPfrfOpA0zrPoFhpI8=";

#[test]
fn what_is_told_of_a_peers_certificate() {
    let request = || {
        Request::get("/")
            .identity("spiffe://cluster.local/ns/shop/sa/cart")
            .connection(|connection| {
                connection.certificate = Some(BASE64_STANDARD.decode(CERTIFICATE).unwrap().into());
                connection.id = 77;
            })
    };
    let text = |path: &str| String::from_utf8(property(path, request()).unwrap()).unwrap();
    assert_eq!(text("connection.tls_version"), "TLSv1.3");
    let subject = "CN=cart,O=Shop\\, Inc";
    assert_eq!(text("connection.subject_peer_certificate"), subject);
    assert_eq!(text("connection.dns_san_peer_certificate"), "cart.shop");
    assert_eq!(
        text("connection.sha256_peer_certificate_digest"),
        "471d28b7e3564b90cc0e5e7f50a0fe8bab02dfe0345acc9e8a493dab23f6afa8"
    );
    let pem = text("connection.peer_certificate");
    assert!(pem.starts_with("-----BEGIN%20CERTIFICATE-----%0AMIIB5DCCAYqgAwIBAgIUWciUWQMeHt5lAG54yjKnCqSrGyYwCgYIKoZIzj0EAwIw%0A"), "{pem}");
    assert!(
        pem.ends_with("A0zrPoFhpI8%3D%0A-----END%20CERTIFICATE-----%0A"),
        "{pem}"
    );
    for path in ["connection.id", "connection_id"] {
        assert_eq!(property(path, request()), Ok(77_u64.to_le_bytes().to_vec()));
    }

    let plain = || {
        Request::get("/").connection(|connection| {
            connection.mutual_tls = false;
        })
    };
    for absent in [
        "connection.tls_version",
        "connection.subject_peer_certificate",
        "connection.dns_san_peer_certificate",
        "connection.sha256_peer_certificate_digest",
        "connection.peer_certificate",
    ] {
        assert_eq!(property(absent, plain()), Err(201), "{absent}");
    }
    assert_eq!(property("response.flags", plain()), Ok(vec![0; 8]));
    assert_eq!(property("response.backend_latency", plain()), Err(201));
}

#[test]
fn a_log_callback_reads_flags_and_how_long_the_backend_took() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 512) "response\00flagsresponse\00backend_latency")
        (func $ask (param i32 i32)
          (call $note (i32.add (i32.const 48) (call $get_property
            (local.get 0) (local.get 1) (i32.const 64) (i32.const 68)))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $ask (i32.const 526) (i32.const 24))
          (i32.const 0))
        (func (export "proxy_on_log") (param i32)
          (call $ask (i32.const 512) (i32.const 14))
          (call $note (i32.add (i32.const 48) (i32.load8_u (i32.load (i32.const 64)))))
          (call $ask (i32.const 526) (i32.const 24))
          (call $note (i32.add (i32.const 48) (i32.load (i32.const 68))))
          (call $note (select (i32.const 62) (i32.const 60)
            (i64.gt_s (i64.load (i32.load (i32.const 64))) (i64.const 1000000000))))
          (drop (call $call)))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.context(|context| {
        context.flags = 4;
        context.routed = Some(Routed {
            route: "r".into(),
            cluster: "c".into(),
            address: Some(([192, 0, 2, 9], 80).into()),
            attempts: 1,
            since: Instant::now() - Duration::from_secs(2),
        });
    });
    drop(bench);
    // Not known at first; then status 0 and flag 4, status 0, eight bytes and more than a second.
    assert_eq!(stage.world.bodies(), ["1040\u{38}>"]);
}

#[test]
fn what_servers_told_of_a_request_is_metadata() {
    let told = serde_json::json!({"server": {"who": "alice", "level": 3, "in": {"flag": true}}});
    let value = |path: &str| {
        let all = told.as_object().unwrap().clone();
        let path = format!("metadata.filter_metadata.{path}");
        property(&path, Request::get("/").metadata(all))
    };
    assert_eq!(value("server.who").unwrap(), b"alice");
    assert_eq!(value("server.level").unwrap(), 3f64.to_le_bytes());
    assert_eq!(value("server.in.flag").unwrap(), [1]);
    for none in ["server.nobody", "other.who", "server.who.deeper"] {
        assert!(value(none).is_err(), "{none}");
    }
}

#[test]
fn a_property_that_was_set_is_read_again() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) "minevalue")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $set_property (i32.const 0) (i32.const 4) (i32.const 4) (i32.const 5)) (then unreachable))
          (if (call $get_property (i32.const 0) (i32.const 4) (i32.const 64) (i32.const 68)) (then unreachable))
          (i32.sub (i32.load (i32.const 68)) (i32.const 5)))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.context(|context| {
        assert_eq!(&*context.filter_state[0].0, b"wasm.mine");
        assert_eq!(context.filter_state[0].1, "value");
    });
}

#[test]
fn shared_data_is_the_plugins_own() {
    let text = guest(
        r#"(data (i32.const 0) "k")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $send_local_response
            (i32.add (i32.const 200) (call $get_shared_data
              (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 68) (i32.const 72)))
            (i32.const 0) (i32.const 0) (i32.load (i32.const 64)) (i32.load (i32.const 68))
            (i32.const 0) (i32.const 0) (i32.const -1)))
          (drop (call $set_shared_data
            (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.load (i32.const 72))))
          (i32.const 0))"#,
    );
    let ask = |stage: &Stage| match Bench::start(&stage.chain, Request::get("/")).head() {
        Head::Replied(reply) => told(&reply),
        other => panic!("{other:?}"),
    };
    let one = Stage::of(&text);
    assert_eq!(ask(&one), "201 wasm_local_response ");
    assert_eq!(ask(&one), "200 wasm_local_response k");
    let other = Stage::on(
        one.host.clone(),
        one.prepared,
        crate::support::plugin(|plugin| plugin.name = "other.guest".into()),
    );
    assert_eq!(ask(&other), "201 wasm_local_response ");
}

#[test]
fn a_queue_tells_its_listener_of_each_item() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) "qx")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (i32.eqz (call $register_shared_queue (i32.const 0) (i32.const 1) (i32.const 72))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $resolve_shared_queue
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 76)) (then unreachable))
          (if (i32.ne (i32.load (i32.const 72)) (i32.load (i32.const 76))) (then unreachable))
          (call $enqueue_shared_queue (i32.load (i32.const 76)) (i32.const 1) (i32.const 1)))
        (func (export "proxy_on_queue_ready") (param i32 i32)
          (if (call $dequeue_shared_queue (local.get 1) (i32.const 64) (i32.const 68)) (then unreachable))
          (if (i32.ne (i32.const 7) (call $dequeue_shared_queue (local.get 1) (i32.const 64) (i32.const 68)))
            (then unreachable))
          (call $note (i32.load8_u (i32.load (i32.const 64))))
          (drop (call $call)))"#,
    ));
    for _ in 0..2 {
        assert!(matches!(
            Bench::start(&stage.chain, Request::get("/")).head(),
            Head::Passed { .. }
        ));
        stage.world.drive();
        stage.world.drive();
    }
    assert_eq!(stage.world.bodies(), ["x", "xx"]);
}

#[test]
fn what_plugins_count_is_scraped_with_what_is_counted_about_them() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) "my_totalmy_gaugemy_time")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $define_metric (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 64)) (then unreachable))
          (if (call $define_metric (i32.const 1) (i32.const 8) (i32.const 8) (i32.const 68)) (then unreachable))
          (if (call $define_metric (i32.const 2) (i32.const 16) (i32.const 7) (i32.const 72)) (then unreachable))
          (if (call $increment_metric (i32.load (i32.const 64)) (i64.const 2)) (then unreachable))
          (if (call $increment_metric (i32.load (i32.const 68)) (i64.const -3)) (then unreachable))
          (if (call $record_metric (i32.load (i32.const 72)) (i64.const 7)) (then unreachable))
          (if (i32.ne (i32.const 2) (call $increment_metric (i32.load (i32.const 64)) (i64.const 0)))
            (then unreachable))
          (if (i32.ne (i32.const 1) (call $increment_metric (i32.const 400) (i64.const 1))) (then unreachable))
          (if (call $get_metric (i32.load (i32.const 64)) (i32.const 80)) (then unreachable))
          (i32.const 0))"#,
    ));
    for _ in 0..2 {
        assert!(matches!(
            Bench::start(&stage.chain, Request::get("/")).head(),
            Head::Passed { .. }
        ));
    }
    let hub = MetricsHub::new("test", MetricsSettings::default()).unwrap();
    stage.host.register(&hub).unwrap();
    let text = hub.gather_text(Instant::now()).unwrap();
    for line in [
        "my_total{plugin=\"default.guest\"} 4",
        "my_gauge{plugin=\"default.guest\"} -6",
        "my_time_bucket{plugin=\"default.guest\",le=\"10\"} 2",
        "my_time_sum{plugin=\"default.guest\"} 14",
        "wayline_wasm_calls_total{callback=\"proxy_on_request_headers\",plugin=\"default.guest\"} 2",
        "wayline_wasm_host_calls_total{function=\"proxy_increment_metric\",plugin=\"default.guest\"}",
        "wayline_wasm_instances{plugin=\"default.guest\"} 1",
        "wayline_wasm_traps_total{kind=\"budget\",plugin=\"default.guest\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn foreign_functions_compress_and_the_unknown_is_told() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) "compressuncompressaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $call_foreign_function (i32.const 0) (i32.const 8) (i32.const 18) (i32.const 40)
            (i32.const 64) (i32.const 68)) (then unreachable))
          (if (i32.ge_u (i32.load (i32.const 68)) (i32.const 40)) (then unreachable))
          (if (call $call_foreign_function (i32.const 8) (i32.const 10)
            (i32.load (i32.const 64)) (i32.load (i32.const 68))
            (i32.const 64) (i32.const 68)) (then unreachable))
          (if (i32.ne (i32.load (i32.const 68)) (i32.const 40)) (then unreachable))
          (if (i32.ne (i32.const 1) (call $call_foreign_function (i32.const 0) (i32.const 4)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))) (then unreachable))
          (i32.const 0))"#,
    ));
    let head = Bench::start(&stage.chain, Request::get("/")).head();
    assert!(matches!(head, Head::Passed { .. }), "{head:?}");
}

#[test]
fn ticks_stop_with_their_instance() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick_period_milliseconds (i32.const 10)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (call $note (i32.const 116))
          (drop (call $call))
          (if (i32.eq (i32.load (i32.const 2044)) (i32.const 2)) (then unreachable)))"#,
    ));
    stage.world.drive();
    for _ in 0..5 {
        stage.world.pass(Duration::from_secs(10));
    }
    assert_eq!(stage.world.bodies(), ["t", "tt"]);
}
