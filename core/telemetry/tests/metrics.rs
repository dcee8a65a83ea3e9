//! Metrics as a scrape shows them.

#![expect(
    clippy::unwrap_used,
    reason = "tests fail by unwrapping; clippy knows only test functions"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use wayline_model::service::Service;
use wayline_model::workload::{TunnelProtocol, Workload};
use wayline_model::{Hostname, Identity};
use wayline_telemetry::{
    CoreMetrics, DestinationId, DestinationLabels, GrpcStatus, MetricsHub, MetricsSettings, PeerId,
    Reporter, RequestKey, RequestProtocol, RequestSample, ResponseFlag, ResponseFlags,
    SecurityPolicy, TcpKey, WorkloadId, WorkloadLabels,
};

const EVERY_LABEL: [&str; 25] = [
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

fn hub() -> MetricsHub {
    MetricsHub::new("1.2.3", MetricsSettings::default()).unwrap()
}

fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn workload(name: &str, version: &str) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/default/{name}-{version}-x").into(),
        name: format!("{name}-{version}-x").into(),
        namespace: "default".into(),
        addresses: Vec::new(),
        network: "".into(),
        identity: identity(&format!("bookinfo-{name}")),
        tunnel: TunnelProtocol::Hbone,
        node: "".into(),
        workload_name: format!("{name}-{version}").into(),
        canonical_name: name.into(),
        canonical_revision: version.into(),
        app: name.into(),
        version: version.into(),
        cluster: "Kubernetes".into(),
        zone: "".into(),
        ready: true,
    }
}

fn reviews() -> Service {
    Service {
        name: "reviews".into(),
        namespace: "default".into(),
        hostname: Hostname::of_service("reviews", "default", "cluster.local"),
        addresses: Vec::new(),
        network: "".into(),
        ports: Vec::new(),
    }
}

/// The ids of one call from productpage to reviews.
struct Call {
    peer: PeerId,
    destination: DestinationId,
    workload: WorkloadId,
}

impl Call {
    fn on(core: &CoreMetrics) -> Self {
        Self {
            peer: core.intern_peer(WorkloadLabels::of(&workload("productpage", "v1"))),
            destination: core.intern_destination(DestinationLabels::of(&reviews())),
            workload: core.intern_workload(WorkloadLabels::of(&workload("reviews", "v2"))),
        }
    }

    fn ok(&self) -> RequestKey<'_> {
        RequestKey {
            reporter: Reporter::Waypoint,
            peer: &self.peer,
            destination: &self.destination,
            workload: &self.workload,
            response_code: 200,
            flags: ResponseFlags::NONE,
            protocol: RequestProtocol::Http,
            security: SecurityPolicy::MutualTls,
            grpc_status: None,
        }
    }

    fn open(&self) -> TcpKey<'_> {
        TcpKey {
            reporter: Reporter::Waypoint,
            peer: &self.peer,
            destination: &self.destination,
            workload: &self.workload,
            flags: ResponseFlags::NONE,
            security: SecurityPolicy::MutualTls,
        }
    }
}

fn sample(millis: u64, request_bytes: u64, response_bytes: u64) -> RequestSample {
    RequestSample {
        duration: Duration::from_millis(millis),
        request_bytes,
        response_bytes,
    }
}

fn scrape(hub: &MetricsHub) -> String {
    hub.gather_text(Instant::now()).unwrap()
}

/// The lines of one sample name.
fn lines<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .collect()
}

/// The only line of one sample name.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let lines = lines(text, name);
    assert_eq!(lines.len(), 1, "{name}: {lines:#?}");
    lines[0]
}

fn value(line: &str) -> f64 {
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn label<'a>(line: &'a str, name: &str) -> &'a str {
    let start = line.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
    line[start..].split('"').next().unwrap()
}

#[test]
fn a_request_shows_all_labels_with_istios_values() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    core.record_request(&call.ok(), sample(3, 0, 100));
    let expected = concat!(
        r#"istio_requests_total{reporter="waypoint","#,
        r#"source_workload="productpage-v1",source_canonical_service="productpage","#,
        r#"source_canonical_revision="v1",source_workload_namespace="default","#,
        r#"source_principal="spiffe://cluster.local/ns/default/sa/bookinfo-productpage","#,
        r#"source_app="productpage",source_version="v1",source_cluster="Kubernetes","#,
        r#"destination_workload="reviews-v2",destination_workload_namespace="default","#,
        r#"destination_principal="spiffe://cluster.local/ns/default/sa/bookinfo-reviews","#,
        r#"destination_app="reviews",destination_version="v2","#,
        r#"destination_service="reviews.default.svc.cluster.local","#,
        r#"destination_canonical_service="reviews",destination_canonical_revision="v2","#,
        r#"destination_service_name="reviews",destination_service_namespace="default","#,
        r#"destination_cluster="Kubernetes",request_protocol="http",response_flags="-","#,
        r#"connection_security_policy="mutual_tls",response_code="200","#,
        r#"grpc_response_status=""} 1"#,
    );
    let text = scrape(&hub);
    assert_eq!(line(&text, "istio_requests_total"), expected);
    for name in [
        "istio_request_duration_milliseconds_count",
        "istio_request_bytes_sum",
        "istio_response_bytes_sum",
    ] {
        let line = line(&text, name);
        for wanted in EVERY_LABEL {
            assert!(line.contains(&format!("{wanted}=\"")), "{wanted} in {line}");
        }
    }
}

#[test]
fn a_denied_request_of_an_unknown_workload_keeps_what_is_known() {
    let hub = hub();
    let core = hub.core();
    let cluster: Arc<str> = "Kubernetes".into();
    let peer = core.intern_peer(WorkloadLabels::of_identity(&identity("intruder"), &cluster));
    let destination = core.intern_destination(DestinationLabels::of(&reviews()));
    let nobody = core.intern_workload(WorkloadLabels::unknown(&cluster));
    let key = RequestKey {
        reporter: Reporter::Waypoint,
        peer: &peer,
        destination: &destination,
        workload: &nobody,
        response_code: 0,
        flags: [
            ResponseFlag::DownstreamConnectionTermination,
            ResponseFlag::UpstreamConnectionFailure,
        ]
        .into_iter()
        .collect(),
        protocol: RequestProtocol::Grpc,
        security: SecurityPolicy::MutualTls,
        grpc_status: Some(GrpcStatus::new(14)),
    };
    core.record_request(&key, sample(1, 1, 1));
    let text = scrape(&hub);
    let line = line(&text, "istio_requests_total");
    for (name, expected) in [
        ("source_workload", "unknown"),
        ("source_workload_namespace", "default"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/intruder",
        ),
        ("source_canonical_revision", "latest"),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", "unknown"),
        ("destination_principal", "unknown"),
        ("destination_cluster", "Kubernetes"),
        ("destination_service", "reviews.default.svc.cluster.local"),
        ("response_code", "0"),
        ("response_flags", "UF,DC"),
        ("request_protocol", "grpc"),
        ("grpc_response_status", "14"),
    ] {
        assert_eq!(label(line, name), expected, "{name}");
    }
}

#[test]
fn a_gateway_reports_as_source() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    let key = RequestKey {
        reporter: Reporter::Gateway,
        security: SecurityPolicy::Unknown,
        ..call.ok()
    };
    core.record_request(&key, sample(1, 1, 1));
    let text = scrape(&hub);
    let line = line(&text, "istio_requests_total");
    assert_eq!(label(line, "reporter"), "source");
    assert_eq!(label(line, "connection_security_policy"), "unknown");
}

#[test]
fn cores_are_added_up() {
    let hub = hub();
    let count_on_a_core = |requests: u64| {
        let core = hub.core();
        let call = Call::on(&core);
        for _ in 0..requests {
            core.record_request(&call.ok(), sample(3, 10, 20));
        }
        core.request_series(&call.ok()).record(sample(3, 10, 20));
    };
    std::thread::scope(|scope| {
        for requests in [10, 20, 30] {
            scope.spawn(move || count_on_a_core(requests));
        }
    });
    let text = scrape(&hub);
    assert_eq!(value(line(&text, "istio_requests_total")), 63.0);
    assert_eq!(value(line(&text, "istio_request_bytes_sum")), 630.0);
    assert_eq!(value(line(&text, "istio_response_bytes_sum")), 1260.0);
    assert_eq!(
        value(line(&text, "istio_request_duration_milliseconds_count")),
        63.0
    );
}

#[test]
fn histograms_are_cumulative_with_envoys_bounds() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    let series = core.request_series(&call.ok());
    // On a bound, just above it, and above them all.
    series.record(RequestSample {
        duration: Duration::from_micros(500),
        request_bytes: 0,
        response_bytes: u64::MAX / 4,
    });
    series.record(RequestSample {
        duration: Duration::from_micros(501),
        request_bytes: 1,
        response_bytes: 0,
    });
    series.record(RequestSample {
        duration: Duration::from_millis(25),
        request_bytes: 2,
        response_bytes: 0,
    });
    series.record(RequestSample {
        duration: Duration::from_secs(4000),
        request_bytes: 2,
        response_bytes: 0,
    });
    let text = scrape(&hub);

    let buckets = |name: &str| -> Vec<(String, f64)> {
        lines(&text, name)
            .into_iter()
            .map(|line| (label(line, "le").to_owned(), value(line)))
            .collect()
    };
    let duration = buckets("istio_request_duration_milliseconds_bucket");
    let bounds: Vec<&str> = duration.iter().map(|(le, _)| le.as_str()).collect();
    assert_eq!(
        bounds,
        [
            "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000",
            "10000", "30000", "60000", "300000", "600000", "1800000", "3600000", "+Inf"
        ]
    );
    let counts: Vec<f64> = duration.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts[..5], [1.0, 2.0, 2.0, 2.0, 3.0]);
    assert!(counts[5..19].iter().all(|count| *count == 3.0));
    assert_eq!(counts[19], 4.0);
    assert_eq!(
        value(line(&text, "istio_request_duration_milliseconds_sum")),
        0.5 + 0.501 + 25.0 + 4_000_000.0
    );
    assert_eq!(
        value(line(&text, "istio_request_duration_milliseconds_count")),
        4.0
    );

    let request = buckets("istio_request_bytes_bucket");
    assert_eq!(request[0], ("0.5".to_owned(), 1.0));
    assert_eq!(request[1], ("1".to_owned(), 2.0));
    assert_eq!(request[2], ("5".to_owned(), 4.0));
    let response = buckets("istio_response_bytes_bucket");
    assert_eq!(response[18], ("3600000".to_owned(), 3.0));
    assert_eq!(response[19], ("+Inf".to_owned(), 4.0));
}

#[test]
fn tcp_connections_have_their_own_families_and_no_response_code() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    let series = core.tcp_series(&call.open());
    series.opened();
    series.sent(1000);
    series.sent(24);
    series.received(7);
    let text = scrape(&hub);
    let opened = line(&text, "istio_tcp_connections_opened_total");
    assert_eq!(value(opened), 1.0);
    assert_eq!(label(opened, "request_protocol"), "tcp");
    assert_eq!(label(opened, "response_flags"), "-");
    for absent in ["response_code=", "grpc_response_status="] {
        assert!(!opened.contains(absent), "{opened}");
    }
    for wanted in EVERY_LABEL {
        let is_http = wanted == "response_code" || wanted == "grpc_response_status";
        assert!(is_http || opened.contains(&format!("{wanted}=\"")));
    }
    assert_eq!(
        value(line(&text, "istio_tcp_connections_closed_total")),
        0.0
    );
    assert_eq!(value(line(&text, "istio_tcp_sent_bytes_total")), 1024.0);
    assert_eq!(value(line(&text, "istio_tcp_received_bytes_total")), 7.0);
    series.closed();
    let text = scrape(&hub);
    assert_eq!(
        value(line(&text, "istio_tcp_connections_closed_total")),
        1.0
    );
    assert!(lines(&text, "istio_requests_total").is_empty());
}

#[test]
fn every_part_of_the_key_tells_series_apart() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    let cluster: Arc<str> = "Kubernetes".into();
    let other_peer = core.intern_peer(WorkloadLabels::unknown(&cluster));
    let other_destination = core.intern_destination(DestinationLabels::unknown());
    let other_workload = core.intern_workload(WorkloadLabels::unknown(&cluster));
    let ok = call.ok();
    let keys = [
        ok,
        RequestKey {
            reporter: Reporter::Gateway,
            ..ok
        },
        RequestKey {
            peer: &other_peer,
            ..ok
        },
        RequestKey {
            destination: &other_destination,
            ..ok
        },
        RequestKey {
            workload: &other_workload,
            ..ok
        },
        RequestKey {
            response_code: 503,
            ..ok
        },
        RequestKey {
            flags: ResponseFlag::NoHealthyUpstream.into(),
            ..ok
        },
        RequestKey {
            protocol: RequestProtocol::Grpc,
            ..ok
        },
        RequestKey {
            security: SecurityPolicy::None,
            ..ok
        },
        RequestKey {
            grpc_status: Some(GrpcStatus::new(0)),
            ..ok
        },
    ];
    for key in &keys {
        core.record_request(key, sample(1, 1, 1));
    }
    let text = scrape(&hub);
    let lines = lines(&text, "istio_requests_total");
    assert_eq!(lines.len(), keys.len(), "{lines:#?}");
    assert!(lines.iter().all(|line| value(line) == 1.0));
}

#[test]
fn idle_series_vanish_and_come_back_from_zero() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    let start = Instant::now();
    let minutes = |n: u64| start + Duration::from_secs(60 * n);
    let shown = |at| {
        let text = hub.gather_text(at).unwrap();
        let lines = lines(&text, "istio_requests_total");
        lines.first().map(|line| value(line))
    };

    core.record_request(&call.ok(), sample(1, 1, 1));
    assert_eq!(shown(start), Some(1.0));
    core.record_request(&call.ok(), sample(1, 1, 1));
    assert_eq!(shown(minutes(50)), Some(2.0));
    core.maintain();
    assert_eq!(shown(minutes(100)), Some(2.0), "it moved at minute 50");
    core.maintain();
    assert_eq!(shown(minutes(111)), Some(2.0), "the core has not let go");
    core.maintain();
    assert_eq!(shown(minutes(112)), None);
    core.record_request(&call.ok(), sample(1, 1, 1));
    assert_eq!(shown(minutes(113)), Some(1.0));
}

#[test]
fn a_sum_does_not_shrink_when_one_core_lets_go() {
    let hub = hub();
    let (one, other) = (hub.core(), hub.core());
    let (call_one, call_other) = (Call::on(&one), Call::on(&other));
    let start = Instant::now();
    let hour = Duration::from_secs(60 * 60);
    one.record_request(&call_one.ok(), sample(1, 1, 1));
    other.record_request(&call_other.ok(), sample(1, 1, 1));
    hub.sweep(start);
    hub.sweep(start + hour);
    one.maintain();
    // The other core counts on before it was asked to let go, and the first one comes back.
    other.record_request(&call_other.ok(), sample(1, 1, 1));
    one.record_request(&call_one.ok(), sample(1, 1, 1));
    let text = hub.gather_text(start + hour).unwrap();
    assert_eq!(value(line(&text, "istio_requests_total")), 4.0);
    assert_eq!(value(line(&text, "istio_request_bytes_sum")), 4.0);
    other.maintain();
    let text = hub.gather_text(start + hour).unwrap();
    assert_eq!(value(line(&text, "istio_requests_total")), 4.0);
}

#[test]
fn a_series_that_somebody_holds_is_never_lost() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    let start = Instant::now();
    let hour = Duration::from_secs(60 * 60);
    let open = core.tcp_series(&call.open());
    open.opened();
    for n in 0..4 {
        hub.sweep(start + hour * n);
        core.maintain();
    }
    open.closed();
    let text = hub.gather_text(start + hour * 5).unwrap();
    assert_eq!(
        value(line(&text, "istio_tcp_connections_opened_total")),
        1.0
    );
    assert_eq!(
        value(line(&text, "istio_tcp_connections_closed_total")),
        1.0
    );
}

#[test]
fn a_full_core_counts_what_it_drops() {
    let settings = MetricsSettings {
        max_series: 3,
        ..MetricsSettings::default()
    };
    let hub = MetricsHub::new("1.2.3", settings).unwrap();
    let core = hub.core();
    let call = Call::on(&core);
    for response_code in 200..210 {
        let key = RequestKey {
            response_code,
            ..call.ok()
        };
        core.record_request(&key, sample(1, 1, 1));
    }
    let text = scrape(&hub);
    assert_eq!(lines(&text, "istio_requests_total").len(), 3);
    let dropped = line(&text, "wayline_metrics_dropped_series_total");
    assert_eq!(value(dropped), 7.0);
    core.record_request(&call.ok(), sample(1, 1, 1));
    let text = scrape(&hub);
    let known = lines(&text, "istio_requests_total");
    assert_eq!(known.iter().map(|line| value(line)).sum::<f64>(), 4.0);
}

#[test]
fn the_process_tells_about_itself() {
    let hub = hub();
    let process = hub.process();
    process.set_config_generation(42);
    process.set_config_findings(2, 3);
    process.refused("plain_text");
    process.refused("plain_text");
    let identity = "spiffe://cluster.local/ns/default/sa/waypoint";
    process.set_cert_expiry(
        identity,
        Some(UNIX_EPOCH + Duration::from_secs(1_900_000_000)),
    );
    let first = process.connection("hbone");
    let second = process.connection("hbone");
    drop(first);
    let text = scrape(&hub);
    for expected in [
        r#"istio_build{component="proxy",tag="1.2.3"} 1"#,
        "wayline_config_generation 42",
        r#"wayline_config_findings{severity="error"} 2"#,
        r#"wayline_config_findings{severity="hint"} 3"#,
        r#"wayline_refusals_total{reason="plain_text"} 2"#,
        r#"wayline_connections{entrance="hbone"} 1"#,
        r#"wayline_cert_expiry_seconds{identity="spiffe://cluster.local/ns/default/sa/waypoint"} 1900000000"#,
        "wayline_access_log_dropped_total 0",
        "wayline_metrics_dropped_series_total 0",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected}");
    }
    drop(second);
    process.set_cert_expiry(identity, None);
    let text = scrape(&hub);
    assert_eq!(value(line(&text, "wayline_connections")), 0.0);
    assert!(lines(&text, "wayline_cert_expiry_seconds").is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_figures_are_plausible() {
    let text = scrape(&hub());
    let shown = |name| value(line(&text, name));
    assert!(shown("process_resident_memory_bytes") > 1_000_000.0);
    assert!(shown("process_open_fds") >= 3.0);
    assert!(shown("process_max_fds") >= shown("process_open_fds"));
    assert!(shown("process_start_time_seconds") > 1_600_000_000.0);
    assert!(shown("process_cpu_seconds_total") >= 0.0);
}

#[test]
fn every_family_declares_its_type_once() {
    let hub = hub();
    let core = hub.core();
    let call = Call::on(&core);
    core.record_request(&call.ok(), sample(1, 1, 1));
    core.tcp_series(&call.open()).opened();
    let text = scrape(&hub);
    for expected in [
        "# TYPE istio_requests_total counter",
        "# TYPE istio_request_duration_milliseconds histogram",
        "# TYPE istio_request_bytes histogram",
        "# TYPE istio_response_bytes histogram",
        "# TYPE istio_tcp_sent_bytes_total counter",
        "# TYPE istio_tcp_received_bytes_total counter",
        "# TYPE istio_tcp_connections_opened_total counter",
        "# TYPE istio_tcp_connections_closed_total counter",
        "# TYPE istio_build gauge",
    ] {
        let count = text.lines().filter(|line| *line == expected).count();
        assert_eq!(count, 1, "{expected}");
    }
}
