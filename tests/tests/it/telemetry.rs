//! What Istio's dashboards, Kiali and people with `kubectl logs` look at.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, Parent, Pod, route};
use wayline_tests::mesh::port;
use wayline_tests::{Backend, Caller, Conversation, Mesh, Reply, Request, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT, WAYPOINT};

/// Every label that `istio_requests_total` must have (Kiali drops a series that lacks one).
const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// `echo` version 2 and a client pod of version 1 at host 251.
fn mesh() -> (Mesh, Caller) {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    documents.push(manifests::service(
        "default",
        "echo",
        scene::ECHO_IP,
        &[("http", 80, PORT)],
    ));
    documents.push(
        Pod::new("echo-v2-abcde", mesh.ip(ECHO))
            .label("app", "echo")
            .label("version", "v2")
            .account("echo-sa")
            .yaml(),
    );
    documents.push(
        Pod::new("shop-v1-12345", mesh.ip(251))
            .namespace("shop")
            .label("app", "shop")
            .label("version", "v1")
            .account("shop-sa")
            .yaml(),
    );
    mesh.write("main.yaml", &manifests::file(&documents));
    let caller = Caller {
        source: Some(mesh.ip(251)),
        ..mesh.caller("shop/shop-sa")
    };
    (mesh, caller)
}

#[test]
fn istio_requests_total_has_all_labels_with_real_values() {
    let (mesh, caller) = mesh();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    for _ in 0..3 {
        assert_eq!(Request::get("/").send(tunnel.address).status, 200);
    }
    let metrics = wayline.counted("istio_requests_total", &[], 3.0);
    let series = metrics.series("istio_requests_total", &[]);
    assert_eq!(series.len(), 1, "one hop is one series: {series:?}");
    let labels = &series[0].labels;
    let names: Vec<&str> = labels.keys().map(String::as_str).collect();
    let mut expected = LABELS;
    expected.sort_unstable();
    assert_eq!(names, expected);
    let values = BTreeMap::from([
        ("reporter", "waypoint"),
        ("source_workload", "shop-v1-12345"),
        ("source_workload_namespace", "shop"),
        ("source_canonical_service", "shop"),
        ("source_canonical_revision", "v1"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/shop/sa/shop-sa",
        ),
        ("source_app", "shop"),
        ("source_version", "v1"),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", "echo-v2-abcde"),
        ("destination_workload_namespace", "default"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/echo-sa",
        ),
        ("destination_app", "echo"),
        ("destination_version", "v2"),
        ("destination_service", "echo.default.svc.cluster.local"),
        ("destination_service_name", "echo"),
        ("destination_service_namespace", "default"),
        ("destination_canonical_service", "echo"),
        ("destination_canonical_revision", "v2"),
        ("destination_cluster", "Kubernetes"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ]);
    for (name, value) in values {
        assert_eq!(labels[name], value, "{name}");
    }
    for histogram in [
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ] {
        let count = format!("{histogram}_count");
        assert_eq!(metrics.sum(&count, &[("reporter", "waypoint")]), 3.0);
        let all = metrics.sum(&format!("{histogram}_bucket"), &[("le", "+Inf")]);
        assert_eq!(all, 3.0, "{histogram}");
    }
    assert_eq!(metrics.sum("istio_response_bytes_sum", &[]), 12.0);
    assert_eq!(
        metrics
            .series("istio_build", &[("component", "proxy")])
            .len(),
        1
    );
}

#[test]
fn peers_that_nobody_knows_are_called_unknown_and_keep_their_identity() {
    let (mesh, _) = mesh();
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("stranger/nobody", ECHO_AUTHORITY);
    // No backend runs, so that there is a flag as well.
    assert_eq!(Request::get("/").send(tunnel.address).status, 503);
    let flagged = [("response_code", "503"), ("response_flags", "UF,URX")];
    let metrics = wayline.counted("istio_requests_total", &flagged, 1.0);
    let labels = &metrics.series("istio_requests_total", &flagged)[0].labels;
    for (name, value) in [
        ("source_workload", "unknown"),
        ("source_workload_namespace", "stranger"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/stranger/sa/nobody",
        ),
        ("source_cluster", "Kubernetes"),
        ("destination_service", "echo.default.svc.cluster.local"),
    ] {
        assert_eq!(labels[name], value, "{name}");
    }
}

#[test]
fn tcp_has_metrics_of_its_own() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    documents.push(manifests::service(
        "default",
        "raw",
        "10.96.0.60",
        &[("tcp", 80, PORT)],
    ));
    documents.push(Pod::new("raw", mesh.ip(60)).yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    let _backend = Backend::raw(mesh.ip(60), PORT, |_, mut stream| {
        use std::io::{Read, Write};
        let mut chunk = [0; 5];
        stream.read_exact(&mut chunk).unwrap();
        stream.write_all(b"answer").unwrap();
    });
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", "10.96.0.60:80");
    let mut conversation = Conversation::open(tunnel.address);
    conversation.write(b"hello").unwrap();
    assert_eq!(conversation.rest(), b"answer");
    drop(conversation);
    let labels = [
        ("reporter", "waypoint"),
        ("request_protocol", "tcp"),
        ("destination_service_name", "raw"),
        ("connection_security_policy", "mutual_tls"),
    ];
    let metrics = wayline.counted("istio_tcp_connections_closed_total", &labels, 1.0);
    assert_eq!(
        metrics.sum("istio_tcp_connections_opened_total", &labels),
        1.0
    );
    assert_eq!(metrics.sum("istio_tcp_received_bytes_total", &labels), 5.0);
    assert_eq!(metrics.sum("istio_tcp_sent_bytes_total", &labels), 6.0);
}

#[test]
fn gateways_report_as_the_source() {
    let mesh = scene::echo_mesh(&[]);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    assert_eq!(
        Request::get("/").send(scene::edge_address(&mesh)).status,
        200
    );
    let labels = [("reporter", "source"), ("response_code", "200")];
    let metrics = wayline.counted("istio_requests_total", &labels, 1.0);
    let labels = &metrics.series("istio_requests_total", &labels)[0].labels;
    assert_eq!(labels["source_workload_namespace"], "default");
    assert_eq!(labels["destination_service_name"], "echo");
}

/// Splits a line of Istio's text format: quoted and bracketed parts are one word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (word, after) = match rest.as_bytes()[0] {
            b'"' => {
                let end = rest[1..].find('"').unwrap() + 2;
                (&rest[..end], &rest[end..])
            }
            _ => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        assert!(after.is_empty() || after.starts_with(' '), "{line}");
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    words
}

#[test]
fn the_text_log_is_istios_word_for_word() {
    let (mesh, caller) = mesh();
    mesh.write(
        "route.yaml",
        &route(
            "default",
            "echo",
            Parent::Service("echo"),
            "- name: main\n  backendRefs: [{name: echo, port: 80}]",
        ),
    );
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    let answer = Request::new("POST", "/path?q=1")
        .host("shop.example.com")
        .header("User-Agent", "agent \"x\"/1")
        .header("X-Request-Id", "6f1c0a7e-0000-4000-23920-000000000000")
        .header("X-Forwarded-For", "192.0.2.1")
        .body("12345")
        .send(tunnel.address);
    assert_eq!(answer.status, 200);
    let line = mesh.logged("/path?q=1");
    // Quotes inside quotes would make two words of one.
    assert!(
        line.contains(r#""agent \"x\"/1""#) || line.contains(r"agent \x22x\x22/1"),
        "{line}"
    );
    let line = line.replace(r#"\""#, "'").replace(r"\x22", "'");
    let words = words(&line);
    let backend = format!("\"{}:{PORT}\"", mesh.ip(ECHO));
    let local = mesh.hbone().to_string();
    let expected = [
        (1, "\"POST /path?q=1 HTTP/1.1\""),
        (2, "200"),
        (3, "-"),
        (4, "via_upstream"),
        (5, "-"),
        (6, "\"-\""),
        (7, "5"),
        (8, "4"),
        (11, "\"192.0.2.1\""),
        (12, "\"agent 'x'/1\""),
        (13, "\"6f1c0a7e-0000-4000-23920-000000000000\""),
        (14, "\"shop.example.com\""),
        (15, &*backend),
        (16, "outbound|80||echo.default.svc.cluster.local"),
        (18, &*local),
        (20, "-"),
    ];
    for (place, word) in expected {
        assert_eq!(words[place], word, "word {place} of {line}");
    }
    assert_eq!(words.len(), 22, "{line}");
    let time = words[0].trim_matches(['[', ']']);
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert!(
        words[19].starts_with(&format!("{}:", mesh.ip(251))),
        "{line}"
    );
    assert!(words[21].contains("main"), "{line}");
    for place in [9, 10] {
        assert!(
            words[place].parse::<u64>().is_ok(),
            "word {place} of {line}"
        );
    }
}

#[test]
fn the_json_log_has_istios_keys_and_types() {
    let (mesh, caller) = mesh();
    mesh.write("mesh.yaml", &mesh.logging("accessLogEncoding: JSON"));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    assert_eq!(Request::get("/json").send(tunnel.address).status, 200);
    let line: Value = serde_json::from_str(&mesh.logged("/json")).unwrap();
    let mut keys: Vec<&str> = line
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "authority",
            "bytes_received",
            "bytes_sent",
            "connection_termination_details",
            "downstream_local_address",
            "downstream_remote_address",
            "duration",
            "method",
            "path",
            "protocol",
            "request_id",
            "requested_server_name",
            "response_code",
            "response_code_details",
            "response_flags",
            "route_name",
            "start_time",
            "upstream_cluster",
            "upstream_host",
            "upstream_local_address",
            "upstream_service_time",
            "upstream_transport_failure_reason",
            "user_agent",
            "x_forwarded_for",
        ]
    );
    assert_eq!(line["response_code"], 200);
    assert_eq!(line["bytes_sent"], 4);
    assert_eq!(line["method"], "GET");
    assert_eq!(line["response_flags"], "-");
    assert_eq!(line["connection_termination_details"], Value::Null);
}

#[test]
fn a_format_of_ones_own_and_stdout() {
    let (mesh, caller) = mesh();
    let own = "accessLogFile: /dev/stdout
accessLogFormat: \"%REQ(:METHOD)% %RESPONSE_CODE% %REQ(X-One)% %RESP(X-Two)%\\n\"
";
    mesh.write("mesh.yaml", &manifests::mesh_config(own));
    let _backend = Backend::http(mesh.ip(ECHO), PORT, |_| Reply::ok("").header("X-Two", "2"));
    let wayline = mesh.start();
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    let _ = Request::get("/").header("X-One", "1").send(tunnel.address);
    eventually("the line on stdout", || {
        wayline
            .process
            .stdout()
            .contains("GET 200 1 2\n")
            .then_some(())
    });
}

#[test]
fn readiness_says_what_is_missing() {
    let (mesh, _) = mesh();
    let empty = mesh.home().join("identity");
    std::fs::create_dir(&empty).unwrap();
    let dir = empty.to_str().unwrap().to_owned();
    let wayline = mesh.start_with(&["--identity-dir", &dir]);
    let answer = eventually("an answer", || wayline.readiness());
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("certificate"), "{}", answer.text());
    let certificate = mesh.certificate(WAYPOINT);
    for file in ["root-cert.pem", "key.pem", "cert-chain.pem"] {
        std::fs::copy(certificate.join(file), empty.join(file)).unwrap();
    }
    wayline.wait_ready();
    for port in [port::ADMIN, port::METRICS, port::STATUS] {
        let address = wayline.address(port);
        let answer = Request::get("/healthz/ready")
            .host(&address.to_string())
            .send(address);
        assert_eq!(answer.status, 200, "{port}");
    }
    // A bad rotation keeps the last good one.
    std::fs::write(empty.join("cert-chain.pem"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(wayline.is_ready());
    let _backend = scene::backend(&mesh, "echo", ECHO);
    assert_eq!(mesh.knock("default/a", ECHO_AUTHORITY), Ok(()));
}

#[test]
fn rotated_certificates_are_followed() {
    let (mesh, _) = mesh();
    let dir = mesh.home().join("identity");
    std::fs::create_dir(&dir).unwrap();
    let put = |identity: &str| {
        let certificate = mesh.certificate(identity);
        for file in ["root-cert.pem", "key.pem", "cert-chain.pem"] {
            let fresh = dir.join(format!(".{file}"));
            std::fs::copy(certificate.join(file), &fresh).unwrap();
            std::fs::rename(fresh, dir.join(file)).unwrap();
        }
    };
    put(WAYPOINT);
    let wayline = mesh.start_with(&["--identity-dir", dir.to_str().unwrap()]);
    wayline.wait_ready();
    let renewed = "spiffe://cluster.local/ns/default/sa/renewed";
    put(renewed);
    // Envoy takes no other identity than the one it was told to expect.
    let envoy = Envoy::client(
        &mesh,
        &mesh.certificate("spiffe://cluster.local/ns/default/sa/a"),
        renewed,
        ECHO_AUTHORITY,
    );
    let _backend = scene::backend(&mesh, "echo", ECHO);
    eventually("the new certificate to be served", || {
        let answer = Conversation::open(envoy.address).exchange(&Request::get("/"));
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    });
    assert!(wayline.is_ready());
}

#[test]
fn the_config_dump_is_envoys_and_has_no_secrets() {
    let (mesh, _) = mesh();
    let wayline = mesh.start();
    let dump = wayline.admin_json("/config_dump?include_eds");
    let types: Vec<&str> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|config| config["@type"].as_str().unwrap())
        .collect();
    for name in [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "EndpointsConfigDump",
        "ListenersConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
    ] {
        let full = format!("type.googleapis.com/envoy.admin.v3.{name}");
        assert!(types.contains(&&*full), "{name} is not among {types:?}");
    }
    let text = dump.to_string();
    assert!(text.contains("echo.default.svc.cluster.local"));
    let secrets = wayline.admin_json("/config_dump?resource=dynamic_active_secrets");
    let own = &secrets["configs"][0]["secret"]["tls_certificate"];
    // "[redacted]" as protobuf writes bytes.
    assert_eq!(own["private_key"]["inline_bytes"], "W3JlZGFjdGVkXQ==");
    assert!(own["certificate_chain"]["inline_bytes"].is_string());
    assert!(!text.contains("PRIVATE KEY"));
    let key = std::fs::read_to_string(mesh.ca().join("ca-key.pem"));
    let key = key.unwrap_or_else(|_| panic!("{:?}", std::fs::read_dir(mesh.ca())));
    let secret = key.lines().nth(1).unwrap();
    assert!(!text.contains(secret));
}

#[test]
fn log_levels_change_while_running() {
    let (mesh, caller) = mesh();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let answer = wayline.admin("POST", "/logging?level=debug");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("debug"), "{}", answer.text());
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    let _ = Request::get("/").send(tunnel.address);
    eventually("a debug line", || {
        wayline.process.stderr().contains("DEBUG").then_some(())
    });
    assert_eq!(wayline.admin("GET", "/logging?level=info").status, 200);
    assert!(wayline.admin("GET", "/logging").text().contains("debug"));
    assert_eq!(wayline.admin("POST", "/logging?level=loud").status, 400);
}

#[test]
fn quitquitquit_drains_and_ends() {
    let (mesh, _) = mesh();
    let mut wayline = mesh.start();
    assert_ne!(wayline.admin("GET", "/quitquitquit").status, 200);
    assert!(wayline.is_ready());
    assert_eq!(wayline.admin("POST", "/quitquitquit").status, 200);
    assert_eq!(wayline.process.wait().code(), Some(0));
}

#[test]
fn the_admin_port_does_not_answer_to_other_sites() {
    let (mesh, _) = mesh();
    let wayline = mesh.start();
    let admin = wayline.address(port::ADMIN);
    for request in [
        Request::get("/config_dump").host("rebound.example.com"),
        Request::new("POST", "/quitquitquit")
            .host(&admin.to_string())
            .header("Origin", "http://evil.example.com"),
    ] {
        assert_eq!(request.send(admin).status, 403, "{request:?}");
    }
    assert!(wayline.is_ready());
    // What changes something is not on the ports that are open to everybody.
    for port in [port::METRICS, port::STATUS] {
        for target in ["/quitquitquit", "/logging?level=debug", "/config_dump"] {
            let answer = Request::new("POST", target).send(wayline.address(port));
            assert!(answer.status >= 400, "{port}{target}");
        }
    }
}

#[test]
fn clients_cannot_forge_what_is_logged_or_who_they_are() {
    let (mesh, caller) = mesh();
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    let answer = Request::get("/real")
        .header("X-Envoy-Original-Path", "/forged")
        .header(
            "X-Forwarded-Client-Cert",
            "URI=spiffe://cluster.local/ns/a/sa/admin",
        )
        .header("User-Agent", "a\tb\u{7}")
        .send(tunnel.address);
    assert_eq!(answer.status, 400, "a control character in a header");
    let answer = Request::get("/real?x=%22y")
        .header("X-Envoy-Original-Path", "/forged")
        .header(
            "X-Forwarded-Client-Cert",
            "URI=spiffe://cluster.local/ns/a/sa/admin",
        )
        .send(tunnel.address);
    assert_eq!(answer.status, 200);
    assert_eq!(backend.last().header("x-forwarded-client-cert"), None);
    let line = mesh.logged("via_upstream");
    assert!(line.contains("\"GET /real"), "{line}");
    assert!(!line.contains("/forged"), "{line}");
}
