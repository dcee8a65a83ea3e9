//! What there is to see on which port, and bounds on those who look.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::{Value, json};
use wayline_model::Finding;
use wayline_proxy::LiveObjects;

use crate::support::{Beginning, Bench, Request, empty, gateway, waypoint};

#[test]
fn every_port_shows_its_own_pages_only() {
    let bench = Bench::start(Beginning {
        snapshot: empty(1),
        objects: Some(Arc::new(Objects)),
        ..Beginning::default()
    });
    let pages = [
        ("/", "admin status metrics"),
        ("/config_dump", "admin"),
        ("/clusters", "admin"),
        ("/wayline/objects", "admin"),
        ("/listeners", "admin"),
        ("/stats", "admin"),
        ("/stats/prometheus", "admin metrics"),
        ("/metrics", "admin metrics"),
        ("/server_info", "admin"),
        ("/ready", "admin"),
        ("/healthz/ready", "admin status metrics"),
        ("/healthz/live", "admin status"),
    ];
    for port in ["admin", "status", "metrics"] {
        let list = bench.get(port, "/").body;
        for (path, ports) in pages {
            let here = ports.split(' ').any(|known| known == port);
            let reply = bench.get(port, path);
            assert_eq!(reply.status, if here { 200 } else { 404 }, "{port}{path}");
            let listed = list
                .lines()
                .any(|line| line.split(' ').next() == Some(path));
            assert_eq!(listed, here, "{port}{path}");
            if !here {
                assert!(reply.body.contains(&list), "{}", reply.body);
            }
        }
    }
}

struct Objects;

impl LiveObjects for Objects {
    fn all(&self) -> Vec<Value> {
        vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "aGlkZGVu"}}),
        ]
    }

    fn unreadable(&self) -> Vec<String> {
        vec!["AuthorizationPolicy default/p".to_owned()]
    }
}

#[test]
fn objects_are_a_list_and_secrets_are_shown_on_request_only() {
    let bench = Bench::start(Beginning {
        snapshot: waypoint(),
        objects: Some(Arc::new(Objects)),
        ..Beginning::default()
    });
    let list = bench.json("/wayline/objects");
    assert_eq!(
        (&list["apiVersion"], &list["kind"]),
        (&json!("v1"), &json!("List"))
    );
    assert_eq!(list["items"][0], Objects.all()[0]);
    assert_eq!(list["items"][1]["data"]["k"], "cmVkYWN0ZWQ=");
    let annotations = &list["metadata"]["annotations"];
    assert_eq!(
        annotations["wayline.dev/unreadable"],
        "AuthorizationPolicy default/p"
    );
    assert!(
        annotations["wayline.dev/gateways"]
            .as_str()
            .unwrap()
            .contains('/')
    );
    let all = bench.json("/wayline/objects?secrets=1");
    assert_eq!(all["items"], json!(Objects.all()));

    let bench = Bench::start(empty(1));
    assert_eq!(bench.get("admin", "/wayline/objects").status, 404);
}

#[test]
fn methods_that_do_not_fit_are_refused_with_those_that_do() {
    let bench = Bench::start(empty(1));
    for (method, path, allow) in [
        ("POST", "/config_dump", "GET, HEAD"),
        ("DELETE", "/stats", "GET, HEAD"),
        ("POST", "/healthz/ready", "GET, HEAD"),
        ("GET", "/quitquitquit", "POST"),
        ("HEAD", "/quitquitquit", "POST"),
        ("GET", "/healthcheck/fail", "POST"),
        ("PUT", "/healthcheck/ok", "POST"),
        ("PUT", "/logging", "GET, HEAD, POST"),
    ] {
        let reply = bench.ask("admin", method, path);
        assert_eq!(reply.status, 405, "{method} {path}");
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(bench.get("status", "/healthz/ready").status, 200);
}

#[test]
fn head_answers_as_get_without_the_body() {
    let bench = Bench::start(empty(1));
    for path in ["/healthz/ready", "/listeners", "/nowhere"] {
        let (get, head) = (bench.get("admin", path), bench.ask("admin", "HEAD", path));
        assert_eq!(head.status, get.status);
        let length = get.body.len().to_string();
        assert_eq!(head.header("content-length"), Some(&*length));
        assert_eq!(head.body, "");
    }
}

#[test]
fn a_loopback_admin_port_answers_to_loopback_names_only() {
    let bench = Bench::start(empty(1));
    let ask = |port, host: &str| {
        let request = Request::new("GET", "/healthz/ready").bare();
        request
            .header(format!("Host: {host}"))
            .send(bench.port(port))
            .status
    };
    for host in ["localhost:15000", "127.0.0.1", "[::1]:15000"] {
        assert_eq!(ask("admin", host), 200, "{host}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example:15000", "10.0.0.1"] {
        assert_eq!(ask("admin", host), 403, "{host}");
        // Probes and Prometheus come by the address of the Pod.
        assert_eq!(ask("status", host), 200, "{host}");
        assert_eq!(ask("metrics", host), 200, "{host}");
    }
}

#[test]
fn metrics_tell_of_configuration_findings_and_certificate() {
    let bench = Bench::start(waypoint());
    let issued = bench.certify();
    let findings = vec![
        Finding::error("one"),
        Finding::error("two"),
        Finding::hint("three"),
    ];
    bench.findings.send_replace(Arc::new(findings));
    bench
        .snapshots
        .send_replace(Arc::new(wayline_model::Snapshot {
            generation: 7,
            ..waypoint()
        }));

    for (port, path) in [
        ("metrics", "/stats/prometheus"),
        ("metrics", "/metrics"),
        ("admin", "/stats/prometheus"),
        ("admin", "/stats?format=prometheus"),
    ] {
        let reply = bench.get(port, path);
        let kind = reply.header("content-type").unwrap();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        for line in [
            "wayline_config_generation 7\n",
            "wayline_config_findings{severity=\"error\"} 2\n",
            "wayline_config_findings{severity=\"hint\"} 1\n",
            "istio_build{component=\"proxy\",tag=\"test\"} 1\n",
        ] {
            assert!(reply.body.contains(line), "{line} in {}", reply.body);
        }
        let identity = "spiffe://cluster.local/ns/default/sa/waypoint";
        let expiry = format!("wayline_cert_expiry_seconds{{identity=\"{identity}\"}} ");
        assert!(reply.body.contains(&expiry), "{}", reply.body);
    }
    let stats = bench.get("admin", "/stats").body;
    for line in [
        "config.findings.error: 2\n",
        "wayline_config_generation: 7\n",
        "server.live: 1\n",
        "server.state: 0\n",
        "cluster_manager.active_clusters: 2\n",
        "listener.hbone.open: 1\n",
    ] {
        assert!(stats.contains(line), "{line} in {stats}");
    }
    let only = bench.json("/stats?format=json&filter=server.live");
    assert_eq!(only["stats"][0]["name"], "server.live");
    assert_eq!(only["stats"].as_array().unwrap().len(), 1);
    drop(issued);
}

#[test]
fn listeners_clusters_and_the_node_are_shown_as_envoy_shows_them() {
    let bench = Bench::start(waypoint());
    let hbone = bench.port("hbone");
    let listeners = bench.get("admin", "/listeners").body;
    for name in ["hbone", "admin", "status", "metrics"] {
        let line = format!("{name}::{}\n", bench.port(name));
        assert!(listeners.contains(&line), "{line} in {listeners}");
    }
    let listeners = bench.json("/listeners?format=json");
    let statuses = listeners["listener_statuses"].as_array().unwrap();
    let shown = statuses.iter().find(|it| it["name"] == "hbone").unwrap();
    assert_eq!(
        shown["local_address"]["socket_address"]["port_value"],
        hbone.port()
    );

    let name = "outbound|9080||reviews.default.svc.cluster.local";
    let clusters = bench.get("admin", "/clusters").body;
    assert!(clusters.contains(&format!("{name}::127.0.0.1:9080::health_flags::healthy\n")));
    assert!(clusters.contains(&format!("{name}::127.0.0.2:9080::zone::zone-a\n")));
    let clusters = bench.json("/clusters?format=json");
    let statuses = clusters["cluster_statuses"].as_array().unwrap();
    let shown = statuses.iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(shown["host_statuses"].as_array().unwrap().len(), 2);

    let node = &bench.json("/server_info")["node"];
    let id = "waypoint~127.0.0.1~waypoint.default~default.svc.cluster.local";
    assert_eq!(node["id"], id);

    let mut both = gateway(&[0]);
    let bench = Bench::start(both.clone());
    let node = &bench.json("/server_info")["node"];
    let router = "router~127.0.0.1~shop.default~default.svc.cluster.local";
    assert_eq!(node["id"], router);
    both.proxies.extend(waypoint().proxies);
    let bench = Bench::start(both);
    assert_eq!(bench.json("/server_info")["node"]["id"], id);
}

#[test]
fn large_requests_are_refused() {
    let bench = Bench::start(empty(1));
    let admin = bench.port("admin");
    let body = |size| {
        Request::new("POST", "/healthcheck/ok")
            .body(vec![b'x'; size])
            .send(admin)
    };
    assert_eq!(body(64 << 10).status, 200);
    assert_eq!(body((64 << 10) + 1).status, 413);
    let long = Request::new("GET", "/").header(format!("X-Long: {}", "x".repeat(64 << 10)));
    assert_eq!(long.send(admin).status, 431);
    let many = (0..100).fold(Request::new("GET", "/"), |request, at| {
        request.header(format!("X-{at}: 1"))
    });
    assert_eq!(many.send(admin).status, 431);
}

#[test]
fn clients_that_hold_one_port_do_not_hold_the_others() {
    let bench = Bench::start(empty(1));
    let held: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(bench.port("metrics")).unwrap())
        .collect();
    assert_eq!(bench.get("status", "/healthz/ready").status, 200);
    assert_eq!(bench.get("admin", "/config_dump").status, 200);
    drop(held);
    assert_eq!(bench.get("metrics", "/metrics").status, 200);
}

#[test]
fn a_connection_is_kept_for_further_requests() {
    let bench = Bench::start(empty(1));
    let mut stream = TcpStream::connect(bench.port("status")).unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut received = String::new();
        while !received.ends_with("live\n") {
            let mut chunk = [0; 512];
            let read = stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "closed after {received}");
            received.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
        assert!(received.starts_with("HTTP/1.1 200 "), "{received}");
    }
}
