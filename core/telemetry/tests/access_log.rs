//! Access logs as a reader of the file sees them.

#![expect(
    clippy::unwrap_used,
    reason = "tests fail by unwrapping; clippy knows only test functions"
)]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Version};
use wayline_model::mesh::{AccessLogEncoding, AccessLogSettings};
use wayline_telemetry::access_log::{FormatError, WriterSettings};
use wayline_telemetry::{
    AccessLog, AccessLogFiles, AccessLogFormat, MetricsHub, MetricsSettings, Record, ResponseFlag,
};

fn compile(
    encoding: AccessLogEncoding,
    format: Option<&str>,
) -> Result<AccessLogFormat, FormatError> {
    AccessLogFormat::compile(&AccessLogSettings {
        file: "/dev/stdout".into(),
        encoding,
        format: format.map(Into::into),
    })
}

fn written(format: &AccessLogFormat, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    format.write(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn text(format: &str, record: &Record<'_>) -> String {
    written(
        &compile(AccessLogEncoding::Text, Some(format)).unwrap(),
        record,
    )
}

fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_bytes(value).unwrap();
            (http::HeaderName::from_static(name), value)
        })
        .collect()
}

fn empty() -> Record<'static> {
    let start = UNIX_EPOCH + Duration::from_millis(1_715_000_000_123);
    Record::new(start, Duration::from_micros(12_900))
}

/// A request to reviews that went well.
fn with_record(look: impl FnOnce(&Record<'_>)) {
    let request_headers = headers(&[
        ("user-agent", b"curl/8.14.1"),
        ("x-forwarded-for", b"10.1.2.3"),
        ("x-request-id", b"6b9d0a1c-6f0e-9b1c-8d5e-0123456789ab"),
    ]);
    let response_headers = headers(&[("content-type", b"application/json")]);
    look(&Record {
        upstream_service_time: Some(Duration::from_millis(11)),
        method: Some(&Method::GET),
        authority: Some("reviews:9080"),
        path: Some("/reviews/0?u=1"),
        protocol: Some(Version::HTTP_11),
        request_headers: Some(&request_headers),
        response_headers: Some(&response_headers),
        response_code: 200,
        details: Some("via_upstream"),
        bytes_received: 5,
        bytes_sent: 295,
        upstream_host: Some("10.244.0.17:9080".parse().unwrap()),
        upstream_cluster: Some("outbound|9080||reviews.default.svc.cluster.local"),
        upstream_local_address: Some("10.244.0.5:43210".parse().unwrap()),
        downstream_local_address: Some("10.96.9.9:9080".parse().unwrap()),
        downstream_remote_address: Some("[fd00::1]:5555".parse().unwrap()),
        route_name: Some("default/reviews/0"),
        ..empty()
    });
}

#[test]
fn the_default_text_line_is_istios() {
    let format = compile(AccessLogEncoding::Text, None).unwrap();
    let expected = concat!(
        r#"[2024-05-06T12:53:20.123Z] "GET /reviews/0?u=1 HTTP/1.1" 200 - via_upstream - "-" "#,
        r#"5 295 12 11 "10.1.2.3" "curl/8.14.1" "6b9d0a1c-6f0e-9b1c-8d5e-0123456789ab" "#,
        r#""reviews:9080" "10.244.0.17:9080" outbound|9080||reviews.default.svc.cluster.local "#,
        "10.244.0.5:43210 10.96.9.9:9080 [fd00::1]:5555 - default/reviews/0\n",
    );
    with_record(|record| assert_eq!(written(&format, record), expected));
}

#[test]
fn a_connection_of_opaque_bytes_shows_dashes_and_a_zero() {
    let format = compile(AccessLogEncoding::Text, Some("")).unwrap();
    let record = Record {
        flags: ResponseFlag::UpstreamConnectionFailure.into(),
        connection_termination: Some("upstream connect failed"),
        upstream_transport_failure: Some("connection refused"),
        requested_server_name: Some("db.example.com"),
        ..empty()
    };
    let expected = concat!(
        r#"[2024-05-06T12:53:20.123Z] "- - -" 0 UF - upstream_connect_failed "#,
        r#""connection refused" 0 0 12 - "-" "-" "-" "-" "-" - - - - db.example.com -"#,
        "\n"
    );
    assert_eq!(written(&format, &record), expected);
}

#[test]
fn what_peers_send_does_not_make_a_line_longer_than_anybody_reads() {
    let agent = [&[b'a'; 2000][..], &[0xff; 8000]].concat();
    let mut request_headers = HeaderMap::new();
    request_headers.insert("user-agent", HeaderValue::from_bytes(&agent).unwrap());
    request_headers.insert(
        "x-forwarded-for",
        HeaderValue::from_bytes(&[0xff; 9000]).unwrap(),
    );
    request_headers.insert(
        "x-request-id",
        HeaderValue::from_bytes(&[b'"'; 9000]).unwrap(),
    );
    let path = format!("/{}", "x".repeat(50_000));
    for encoding in [AccessLogEncoding::Text, AccessLogEncoding::Json] {
        let record = Record {
            path: Some(&path),
            authority: Some(&path),
            request_headers: Some(&request_headers),
            ..empty()
        };
        let line = written(&compile(encoding, None).unwrap(), &record);
        assert!(line.len() <= 8192 && line.ends_with('\n'), "{}", line.len());
        if encoding == AccessLogEncoding::Json {
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
        }
        // What a format asks for, it gets.
        let asked = compile(AccessLogEncoding::Text, Some("%REQ(:PATH):20000%\n")).unwrap();
        assert_eq!(written(&asked, &record).len(), 20_001);
    }
}

#[test]
fn the_default_json_object_has_istios_keys_and_types() {
    let format = compile(AccessLogEncoding::Json, None).unwrap();
    with_record(|record| {
        let line = written(&format, record);
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "start_time": "2024-05-06T12:53:20.123Z",
            "route_name": "default/reviews/0",
            "method": "GET",
            "path": "/reviews/0?u=1",
            "protocol": "HTTP/1.1",
            "response_code": 200,
            "response_flags": "-",
            "response_code_details": "via_upstream",
            "connection_termination_details": null,
            "bytes_received": 5,
            "bytes_sent": 295,
            "duration": 12,
            "upstream_service_time": "11",
            "x_forwarded_for": "10.1.2.3",
            "user_agent": "curl/8.14.1",
            "request_id": "6b9d0a1c-6f0e-9b1c-8d5e-0123456789ab",
            "authority": "reviews:9080",
            "upstream_host": "10.244.0.17:9080",
            "upstream_cluster": "outbound|9080||reviews.default.svc.cluster.local",
            "upstream_local_address": "10.244.0.5:43210",
            "downstream_local_address": "10.96.9.9:9080",
            "downstream_remote_address": "[fd00::1]:5555",
            "requested_server_name": null,
            "upstream_transport_failure_reason": null,
        });
        assert_eq!(object, expected);
    });
}

#[test]
fn a_users_json_object_may_nest_and_mix() {
    let template = r#"{"who":{"ua":"%REQ(USER-AGENT)%","note":"a \"b\" %METHOD_%"}}"#;
    assert_eq!(
        compile(AccessLogEncoding::Json, Some(template)).unwrap_err(),
        FormatError::UnknownOperator("METHOD_".into())
    );
    let template = concat!(
        r#"{"a":{"line":"%REQ(:METHOD)% \"%REQ(:PATH)%\" %REQ(X-ABSENT)%"},"#,
        r#""b":[1,true,null,"%BYTES_SENT%"],"c":"100%%"}"#
    );
    let format = compile(AccessLogEncoding::Json, Some(template)).unwrap();
    with_record(|record| {
        let object: serde_json::Value = serde_json::from_str(&written(&format, record)).unwrap();
        let expected = serde_json::json!({
            "a": {"line": "GET \"/reviews/0?u=1\" -"},
            "b": [1, true, null, 295],
            "c": "100%",
        });
        assert_eq!(object, expected);
    });
    for bad in ["[]", "\"%REQ(A)%\"", "{", "plain"] {
        let error = compile(AccessLogEncoding::Json, Some(bad)).unwrap_err();
        assert!(matches!(error, FormatError::Json(_)), "{bad}: {error}");
    }
}

#[test]
fn nobody_can_forge_a_line_or_end_a_field() {
    // What a header may hold, tab and bytes above 0x7f included; a path may come from elsewhere.
    let request_headers = headers(&[("user-agent", b"a\" 200 \\\t\xff\xc2\x9b31m\xc3\xa9")]);
    let record = Record {
        path: Some("/\r\n[2024] \u{2028}\u{7f}\u{0}"),
        request_headers: Some(&request_headers),
        requested_server_name: Some("x\ny"),
        details: Some("a b\nc\"d"),
        ..empty()
    };
    assert_eq!(
        text("\"%REQ(USER-AGENT)%\"", &record),
        "\"a\\\" 200 \\\\\\x09\\xff\\xc2\\x9b31m\u{e9}\"\n"
    );
    assert_eq!(
        text(
            "%REQ(:PATH)% %REQUESTED_SERVER_NAME% %RESPONSE_CODE_DETAILS%",
            &record
        ),
        "/\\x0d\\x0a[2024] \\xe2\\x80\\xa8\\x7f\\x00 x\\x0ay a_b_c\\\"d\n"
    );

    for (sent, shown) in [("a\"b", "a\\\"b"), ("a\\", "a\\\\")] {
        let record = Record {
            authority: Some(sent),
            ..empty()
        };
        assert_eq!(text("%REQ(:AUTHORITY)%", &record), format!("{shown}\n"));
    }

    let format = compile(AccessLogEncoding::Json, None).unwrap();
    let line = written(&format, &record);
    assert_eq!(line.matches('\n').count(), 1);
    assert!(
        !line.contains(|c: char| c != '\n' && c.is_control()),
        "{line:?}"
    );
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["path"], "/\r\n[2024] \u{2028}\u{7f}\u{0}");
    assert_eq!(object["user_agent"], "a\" 200 \\\t\u{fffd}\u{9b}31m\u{e9}");
}

#[test]
fn operators_take_alternatives_lengths_and_parts() {
    with_record(|record| {
        for (format, expected) in [
            ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):8%", "/reviews"),
            ("%REQ(X-NO?User-Agent):4%", "curl"),
            ("%REQ(X-NO?X-NEITHER)%", "-"),
            ("%REQ_WITHOUT_QUERY(:PATH)%", "/reviews/0"),
            ("%REQ(host)%", "reviews:9080"),
            ("%RESP(content-type)%", "application/json"),
            ("%RESP(:STATUS)%", "200"),
            ("%TRAILER(x)%", "-"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "fd00::1"),
            ("%DOWNSTREAM_REMOTE_PORT%", "5555"),
            ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.244.0.17"),
            (
                "%UPSTREAM_CLUSTER%",
                "outbound|9080||reviews.default.svc.cluster.local",
            ),
            ("%START_TIME(%s.%3f)%", "1715000000.123"),
            ("100%% of %DURATION%ms", "100% of 12ms"),
            ("%GRPC_STATUS%", "-"),
        ] {
            assert_eq!(text(format, record), format!("{expected}\n"), "{format}");
        }
    });
    let trailers = headers(&[("grpc-status", b"14")]);
    let record = Record {
        response_trailers: Some(&trailers),
        original_path: Some("/before"),
        path: Some("/after"),
        ..empty()
    };
    assert_eq!(
        text(
            "%GRPC_STATUS% %GRPC_STATUS_NUMBER% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\n",
            &record
        ),
        "Unavailable 14 /before\n"
    );
}

#[test]
fn a_response_header_can_not_pretend_a_service_time() {
    let response_headers = headers(&[("x-envoy-upstream-service-time", b"1 \"x\" 2")]);
    let record = Record {
        response_headers: Some(&response_headers),
        ..empty()
    };
    assert_eq!(
        text("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", &record),
        "-\n"
    );
}

#[test]
fn a_format_that_we_cannot_honour_is_refused_by_name() {
    let refusal = |format| compile(AccessLogEncoding::Text, Some(format)).unwrap_err();
    assert_eq!(
        refusal("%REQ(A)% %CEL(request.path)%"),
        FormatError::UnknownOperator("CEL".into())
    );
    assert!(
        refusal("%FILTER_STATE(x)%")
            .to_string()
            .contains("%FILTER_STATE%")
    );
    assert!(matches!(refusal("%REQ%"), FormatError::Argument { .. }));
    assert!(matches!(
        refusal("%DURATION(x)%"),
        FormatError::Argument { .. }
    ));
    assert!(matches!(
        refusal("%DURATION:5%"),
        FormatError::Argument { .. }
    ));
    assert_eq!(refusal("%REQ(a b)%"), FormatError::Header("a b".into()));
    assert!(matches!(
        refusal("ab %REQ(x"),
        FormatError::Syntax { at: 3, .. }
    ));
    for bad in ["%", "100% of", "%REQ(a):x%", "%REQ(a)", "%PROTOCOL"] {
        let error = refusal(bad);
        assert!(
            matches!(error, FormatError::Syntax { .. }),
            "{bad}: {error}"
        );
    }
    assert!(matches!(
        refusal("%START_TIME(%J)%"),
        FormatError::Time { .. }
    ));
    assert_eq!(refusal(&"x".repeat(70_000)), FormatError::TooLong(70_000));
}

struct Bench {
    hub: MetricsHub,
    files: AccessLogFiles,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(settings: WriterSettings) -> Self {
        let hub = MetricsHub::new("test", MetricsSettings::default()).unwrap();
        let files = AccessLogFiles::new(settings, hub.process().access_log_dropped().clone());
        Self {
            hub,
            files,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn log(&self, path: &Path) -> AccessLog {
        let format = compile(AccessLogEncoding::Text, Some("%REQ(:PATH)% %BYTES_SENT%")).unwrap();
        AccessLog::new(
            Arc::new(format),
            self.files.open(path.to_str().unwrap()).unwrap(),
        )
    }

    fn dropped(&self) -> u64 {
        self.hub.process().access_log_dropped().get()
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn numbered(bytes_sent: u64) -> Record<'static> {
    Record {
        path: Some("/some/path"),
        bytes_sent,
        ..empty()
    }
}

#[test]
fn lines_of_all_cores_reach_the_file_whole() {
    let bench = Bench::new(WriterSettings {
        batch_bytes: 500,
        ..WriterSettings::default()
    });
    let path = bench.folder.path().join("access.log");
    fs::write(&path, "kept\n").unwrap();
    std::thread::scope(|scope| {
        for core in 0..4_u64 {
            let log = bench.log(&path);
            scope.spawn(move || {
                for n in 0..1000 {
                    log.log(&numbered(core * 1000 + n));
                }
            });
        }
    });
    assert!(bench.files.drain(PATIENCE));
    let content = fs::read_to_string(&path).unwrap();
    let mut lines = content.lines();
    assert_eq!(lines.next(), Some("kept"));
    let mut numbers: Vec<u64> = lines
        .map(|line| line.strip_prefix("/some/path ").unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..4000));
    assert_eq!(bench.dropped(), 0);
}

#[test]
fn a_rotated_file_is_opened_anew_on_request() {
    let bench = Bench::new(WriterSettings::default());
    let path = bench.folder.path().join("access.log");
    let rotated = bench.folder.path().join("access.log.1");
    let log = bench.log(&path);
    log.log(&numbered(1));
    log.flush();
    assert!(bench.files.drain(PATIENCE));
    fs::rename(&path, &rotated).unwrap();
    log.log(&numbered(2));
    log.flush();
    assert!(bench.files.drain(PATIENCE));
    bench.files.reopen();
    log.log(&numbered(3));
    log.flush();
    assert!(bench.files.drain(PATIENCE));
    assert_eq!(
        fs::read_to_string(&rotated).unwrap(),
        "/some/path 1\n/some/path 2\n"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "/some/path 3\n");
}

#[test]
fn one_file_has_one_writer() {
    let bench = Bench::new(WriterSettings::default());
    let path = bench.folder.path().join("access.log");
    let one = bench.log(&path);
    let other = bench.log(&path);
    assert!(Arc::ptr_eq(one.writer(), other.writer()));
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let bench = Bench::new(WriterSettings::default());
    let folder = bench.folder.path().to_str().unwrap();
    let error = bench.files.open(folder).unwrap_err();
    assert!(error.to_string().contains(folder), "{error}");
}

/// Neither a pipe that nobody has opened nor one that nobody reads makes `log` wait: were it so,
/// this test would not end, because the reader only starts when all is logged.
#[test]
fn a_blocked_sink_costs_lines_and_never_the_one_who_logs() {
    const LINES: u64 = 100_000;
    let bench = Bench::new(WriterSettings {
        queue_bytes: 100_000,
        batch_bytes: 1000,
    });
    let path = bench.folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());

    let log = bench.log(&path);
    for n in 0..LINES {
        log.log(&numbered(n));
    }
    log.flush();
    let dropped = bench.dropped();
    assert!(dropped > LINES / 2, "{dropped} lines were dropped");
    assert!(!bench.files.drain(Duration::from_millis(1)));

    // Now it is open, and still nobody reads: the pipe itself takes a little.
    let mut pipe = fs::File::open(&path).unwrap();
    for n in 0..LINES {
        log.log(&numbered(n));
    }
    drop(log);
    let mut content = String::new();
    pipe.read_to_string(&mut content).unwrap();
    let read = content.lines().count() as u64;
    assert_eq!(read + bench.dropped(), 2 * LINES);
    assert!(content.lines().all(|line| line.starts_with("/some/path ")));
}
