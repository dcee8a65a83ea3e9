//! When probes are told that traffic is welcome, and what they are told otherwise.

use std::net::TcpListener;

use wayline_proxy::StartError;

use crate::support::{Beginning, Bench, empty, gateway, waypoint};

#[test]
fn a_waypoint_is_ready_with_configuration_certificate_and_listener() {
    let bench = Bench::start(empty(0));
    for (port, path) in [
        ("status", "/healthz/ready"),
        ("metrics", "/healthz/ready"),
        ("admin", "/healthz/ready"),
        ("admin", "/ready"),
    ] {
        let reply = bench.get(port, path);
        assert_eq!(reply.status, 503);
        assert!(reply.body.contains("first snapshot"), "{}", reply.body);
    }
    assert_eq!(bench.json("/server_info")["state"], "PRE_INITIALIZING");

    bench.snapshots.send_replace(waypoint().into());
    let reply = bench.eventually("status", "/healthz/ready", |reply| {
        !reply.body.contains("snapshot") && !reply.body.contains("listener")
    });
    assert_eq!(reply.status, 503);
    assert_eq!(reply.body.lines().count(), 1, "{}", reply.body);
    assert!(reply.body.contains("no certificate"), "{}", reply.body);
    assert_eq!(bench.json("/server_info")["state"], "INITIALIZING");

    bench.certify();
    for port in ["status", "metrics", "admin"] {
        let reply = bench.get(port, "/healthz/ready");
        assert_eq!((reply.status, &*reply.body), (200, "ready\n"));
    }
    assert_eq!(bench.get("admin", "/ready").body, "LIVE\n");
    assert_eq!(bench.json("/server_info")["state"], "LIVE");
}

#[test]
fn a_certificate_that_can_not_be_read_says_why() {
    let bench = Bench::start(waypoint());
    let missing = std::path::Path::new("does-not-exist");
    bench.certificates.reload_from(missing).unwrap_err();
    let reply = bench.get("status", "/healthz/ready");
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("does-not-exist"), "{}", reply.body);
}

#[test]
fn gateways_need_no_certificate_and_empty_configurations_nothing() {
    for snapshot in [gateway(&[0]), empty(1)] {
        let bench = Bench::start(snapshot);
        assert_eq!(bench.get("status", "/healthz/ready").status, 200);
    }
}

#[test]
fn one_closed_port_is_told_and_all_of_them_closed_are_not_ready() {
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = occupied.local_addr().unwrap().port();
    let name = format!("default/shop:{port}");
    let bench = Bench::start(gateway(&[0, port]));

    assert_eq!(bench.get("status", "/healthz/ready").status, 200);
    let shown = bench.get("admin", "/listeners").body;
    let closed = format!("{name}::127.0.0.1:{port}::not open: ");
    assert!(shown.contains(&closed), "{shown}");
    assert!(shown.contains("default/shop:0::127.0.0.1:"), "{shown}");
    let stats = bench.get("admin", "/stats?filter=listener.").body;
    assert!(
        stats.contains(&format!("listener.{name}.open: 0\n")),
        "{stats}"
    );
    assert!(
        stats.contains("listener.default/shop:0.open: 1\n"),
        "{stats}"
    );

    bench.snapshots.send_replace(gateway(&[port]).into());
    let reply = bench.eventually("status", "/healthz/ready", |reply| reply.status == 503);
    assert!(
        reply.body.contains(&format!("listener {name}: ")),
        "{}",
        reply.body
    );

    drop(occupied);
    bench.eventually("status", "/healthz/ready", |reply| reply.status == 200);
}

#[test]
fn a_waypoint_without_its_hbone_port_is_not_ready_whatever_else_is_open() {
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut both = waypoint();
    both.proxies.extend(gateway(&[0]).proxies);
    both.entrances = gateway(&[0]).entrances;
    let bench = Bench::start(Beginning {
        snapshot: both,
        hbone: Some(occupied.local_addr().unwrap()),
        ..Beginning::default()
    });
    bench.certify();
    let reply = bench.get("status", "/healthz/ready");
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("listener hbone: "), "{}", reply.body);

    drop(occupied);
    bench.eventually("status", "/healthz/ready", |reply| reply.status == 200);
}

#[test]
fn open_admin_ports_do_not_make_up_for_closed_ones() {
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = occupied.local_addr().unwrap().port();
    let error = Bench::try_start(gateway(&[port])).err().unwrap();
    assert!(matches!(error, StartError::NoListener(reasons) if reasons.len() == 1));
}

#[test]
fn a_live_process_is_live_though_not_ready() {
    let bench = Bench::start(empty(0));
    assert_eq!(bench.get("status", "/healthz/live").status, 200);
}
