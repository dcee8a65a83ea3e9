use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const SHORT: &str = "a3ce929d0e0e4736";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn caller(incoming: &Incoming) -> Option<(String, String)> {
    let (trace, span) = incoming.caller?;
    Some((trace.to_string(), span.to_string()))
}

/// Numbers from 1.
fn counting() -> impl FnMut() -> u64 {
    let mut last = 0;
    move || {
        last += 1;
        last
    }
}

#[test]
fn reads_traceparent_strictly() {
    let good = format!("00-{TRACE}-{SPAN}-01");
    for (text, sampled) in [
        (good.clone(), true),
        (format!("00-{TRACE}-{SPAN}-00"), false),
        (format!("00-{TRACE}-{SPAN}-ff"), true),
        (format!("00-{TRACE}-{SPAN}-02"), false),
        (format!("cc-{TRACE}-{SPAN}-01"), true),
        (format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), true),
    ] {
        let read = Incoming::read(&headers(&[("traceparent", &text)]), TraceHeaders::W3c);
        assert_eq!(
            caller(&read),
            Some((TRACE.to_owned(), SPAN.to_owned())),
            "{text}"
        );
        assert_eq!(read.sampled, Some(sampled), "{text}");
    }
    for bad in [
        String::new(),
        "00".to_owned(),
        good[..54].to_owned(),
        format!("{good}-"),
        format!("{good}-x"),
        format!("{good}0"),
        good.replace("00-", "ff-"),
        good.replace("00-4", "0g-4"),
        good.to_uppercase(),
        good.replace('-', "_"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}-{SPAN}-0x"),
        format!("cc-{TRACE}-{SPAN}-01."),
        format!(" {good}"),
        "é".repeat(30),
    ] {
        let read = Incoming::read(&headers(&[("traceparent", &bad)]), TraceHeaders::W3c);
        assert_eq!(read, Incoming::default(), "{bad:?}");
    }
    let twice = headers(&[("traceparent", &good), ("traceparent", &good)]);
    assert_eq!(
        Incoming::read(&twice, TraceHeaders::W3c),
        Incoming::default()
    );
}

#[test]
fn reads_b3_in_one_header() {
    for (text, expected) in [
        (format!("{TRACE}-{SPAN}"), (TRACE, None, false)),
        (format!("{TRACE}-{SPAN}-1"), (TRACE, Some(true), false)),
        (format!("{TRACE}-{SPAN}-0"), (TRACE, Some(false), false)),
        (format!("{TRACE}-{SPAN}-d"), (TRACE, Some(true), true)),
        (
            format!("{SHORT}-{SPAN}-1-{SPAN}"),
            (SHORT, Some(true), false),
        ),
        (
            format!("{}-{SPAN}-1", TRACE.to_uppercase()),
            (TRACE, Some(true), false),
        ),
    ] {
        let read = Incoming::read(&headers(&[("b3", &text)]), TraceHeaders::B3);
        let (trace, sampled, debug) = expected;
        assert_eq!(
            caller(&read),
            Some((trace.to_owned(), SPAN.to_owned())),
            "{text}"
        );
        assert_eq!((read.sampled, read.debug), (sampled, debug), "{text}");
    }
    for (text, sampled, debug) in [("0", false, false), ("1", true, false), ("d", true, true)] {
        let read = Incoming::read(&headers(&[("b3", text)]), TraceHeaders::B3);
        assert_eq!(
            (read.caller, read.sampled, read.debug),
            (None, Some(sampled), debug)
        );
    }
    for bad in [
        String::new(),
        "2".to_owned(),
        TRACE.to_owned(),
        format!("{TRACE}-"),
        format!("{TRACE}-{SPAN}-"),
        format!("{TRACE}-{SPAN}-2"),
        format!("{TRACE}-{SPAN}-1-"),
        format!("{TRACE}-{SPAN}-1-{SPAN}-"),
        format!("{TRACE}-{SPAN}-{SPAN}"),
        format!("{}-{SPAN}-1", &TRACE[1..]),
        format!("{TRACE}-{}-1", &SPAN[1..]),
        format!("{}-{SPAN}-1", "0".repeat(32)),
        format!("{TRACE}-{SPAN}-1-{TRACE}"),
    ] {
        let read = Incoming::read(&headers(&[("b3", &bad)]), TraceHeaders::B3);
        assert_eq!(read, Incoming::default(), "{bad:?}");
    }
}

#[test]
fn reads_b3_in_several_headers() {
    for (pairs, expected) in [
        (
            vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)],
            (Some(TRACE), None, false),
        ),
        (
            vec![
                ("x-b3-traceid", SHORT),
                ("x-b3-spanid", SPAN),
                ("x-b3-sampled", "1"),
            ],
            (Some(SHORT), Some(true), false),
        ),
        (vec![("x-b3-sampled", "false")], (None, Some(false), false)),
        (vec![("x-b3-flags", "1")], (None, Some(true), true)),
        (
            vec![("x-b3-flags", "1"), ("x-b3-sampled", "0")],
            (None, Some(true), true),
        ),
        // No place in a trace without both ids, but what was decided counts.
        (
            vec![("x-b3-traceid", TRACE), ("x-b3-sampled", "1")],
            (None, Some(true), false),
        ),
        (
            vec![("x-b3-traceid", "xyz"), ("x-b3-spanid", SPAN)],
            (None, None, false),
        ),
        (
            vec![
                ("x-b3-traceid", TRACE),
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
            ],
            (None, None, false),
        ),
        (vec![("x-b3-sampled", "yes")], (None, None, false)),
    ] {
        let read = Incoming::read(&headers(&pairs), TraceHeaders::B3);
        let (trace, sampled, debug) = expected;
        let expected = trace.map(|trace| (trace.to_owned(), SPAN.to_owned()));
        assert_eq!(caller(&read), expected, "{pairs:?}");
        assert_eq!((read.sampled, read.debug), (sampled, debug), "{pairs:?}");
    }
}

#[test]
fn the_providers_own_format_counts_first() {
    let both = headers(&[
        ("traceparent", &format!("00-{TRACE}-{SPAN}-01")),
        ("b3", &format!("{SHORT}-{SPAN}-0")),
        ("x-b3-traceid", "1111111111111111"),
        ("x-b3-spanid", "2222222222222222"),
    ]);
    let of = |ours| caller(&Incoming::read(&both, ours)).unwrap().0;
    assert_eq!(of(TraceHeaders::W3c), TRACE);
    assert_eq!(of(TraceHeaders::B3), SHORT);
    assert_eq!(of(TraceHeaders::B3AndW3c), SHORT);
    // A decision alone does not outweigh a trace.
    let mixed = headers(&[
        ("traceparent", &format!("00-{TRACE}-{SPAN}-01")),
        ("b3", "0"),
    ]);
    let read = Incoming::read(&mixed, TraceHeaders::B3);
    assert_eq!(caller(&read).unwrap().0, TRACE);
    assert_eq!(read.sampled, Some(true));
}

#[test]
fn writes_what_the_provider_asks_for() {
    let write = |ours, short, sampled| {
        let mut headers = headers(&[("tracestate", "of=nobody"), ("x-b3-parentspanid", SPAN)]);
        let incoming = Incoming::read(&headers, ours);
        SpanContext::new(&incoming, sampled, short, counting()).write(&mut headers, ours);
        let mut written: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        written.sort();
        written
    };
    assert_eq!(
        write(TraceHeaders::B3, false, true),
        [
            "tracestate: of=nobody",
            "x-b3-sampled: 1",
            "x-b3-spanid: 0000000000000003",
            "x-b3-traceid: 00000000000000010000000000000002",
        ]
    );
    assert_eq!(
        write(TraceHeaders::B3AndW3c, true, false),
        [
            "traceparent: 00-00000000000000000000000000000001-0000000000000002-00",
            "x-b3-sampled: 0",
            "x-b3-spanid: 0000000000000002",
            "x-b3-traceid: 0000000000000001",
        ]
    );
    assert_eq!(
        write(TraceHeaders::W3c, false, true),
        [
            "traceparent: 00-00000000000000010000000000000002-0000000000000003-01",
            &format!("x-b3-parentspanid: {SPAN}"),
        ]
    );
}

#[test]
fn whatever_carries_the_trace_names_our_span() {
    let other = "11111111111111111111111111111111-2222222222222222-1";
    let mut request = headers(&[
        ("traceparent", &format!("00-{TRACE}-{SPAN}-03")),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
        ("b3", other),
    ]);
    let incoming = Incoming::read(&request, TraceHeaders::W3c);
    let context = SpanContext::new(&incoming, true, false, || 0xabc);
    assert_eq!(trace_state(&request, &context).as_deref(), Some("a=1,b=2"));
    context.write(&mut request, TraceHeaders::W3c);
    assert_eq!(
        request["traceparent"],
        format!("00-{TRACE}-0000000000000abc-03").as_str()
    );
    assert_eq!(request.get_all("tracestate").iter().count(), 2);
    assert_eq!(request["x-b3-spanid"], "0000000000000abc");
    assert_eq!(request["x-b3-parentspanid"], SPAN);
    assert_eq!(request["b3"], other);
}

#[test]
fn what_was_written_is_read_again() {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed ^ seed >> 29
    };
    for round in 0..2_000 {
        let ours = [TraceHeaders::B3, TraceHeaders::B3AndW3c, TraceHeaders::W3c][round % 3];
        let mut headers = HeaderMap::new();
        if random() & 1 == 0 {
            headers.insert("b3", HeaderValue::from_static("d"));
        }
        let mut parent: Option<SpanContext> = None;
        for _hop in 0..3 {
            let incoming = Incoming::read(&headers, ours);
            let sampled = incoming.sampled.unwrap_or_else(|| random() & 1 == 0);
            let context = SpanContext::new(&incoming, sampled, random() & 1 == 0, &mut random);
            context.write(&mut headers, ours);
            if let Some(parent) = parent {
                assert_eq!(context.trace_id, parent.trace_id);
                assert_eq!(context.parent, Some(parent.span_id));
                assert_eq!(context.sampled, parent.sampled);
                assert_eq!(context.debug, parent.debug);
            }
            let read = Incoming::read(&headers, ours);
            assert_eq!(read.caller, Some((context.trace_id, context.span_id)));
            assert_eq!(read.sampled, Some(sampled));
            parent = Some(context);
        }
    }
}
