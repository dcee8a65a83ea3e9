//! The table against the specification's words, and against a matcher that knows no index.

use std::cell::RefCell;
use std::collections::HashMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use super::*;
use crate::random::Random;
use crate::request::PathNormalization;
use crate::route::Advantage;
use crate::route::matches::{HeaderMatch, QueryMatch, ValueMatch};
use crate::route::{HeaderEdits, RouteAction};

#[test]
fn more_specific_matches_come_first() {
    let table = table(&[
        ("any", prefix("/")),
        ("short", prefix("/a")),
        ("long", prefix("/a/b/")),
        ("exact", exact("/a/b")),
        ("pattern", regex("/a/b|/z.*")),
        ("zed", prefix("/z/z")),
        (
            "post",
            RouteMatch {
                method: Some(Method::POST),
                ..prefix("/a")
            },
        ),
        ("header", with_header(prefix("/a"), "x-a", "1")),
        ("query", with_query(prefix("/a"), "q", "1")),
        (
            "headers",
            with_header(with_header(prefix("/a"), "x-a", "1"), "x-b", "1"),
        ),
        ("short but demanding", with_header(prefix("/"), "x-c", "1")),
    ]);
    for (method, uri, headers, expected) in [
        ("GET", "/", &[][..], "any"),
        ("GET", "/ab", &[], "any"),
        ("GET", "/a", &[], "short"),
        ("GET", "/a/", &[], "short"),
        ("GET", "/a/x/b", &[], "short"),
        ("GET", "/a/b", &[], "exact"),
        ("GET", "/a/b/", &[], "long"),
        ("GET", "/a/b/c/d", &[], "long"),
        ("GET", "/a/bc", &[], "short"),
        ("GET", "/z/z", &[], "zed"),
        // Istio's order: a regular expression never wins over a prefix, not even over `/`.
        ("GET", "/z", &[], "any"),
        ("POST", "/a", &[("x-a", "1"), ("x-b", "1")], "post"),
        ("GET", "/a", &[("x-a", "1")], "header"),
        ("GET", "/a", &[("x-a", "1"), ("x-b", "1")], "headers"),
        ("GET", "/a?q=1", &[], "query"),
        ("GET", "/a?q=1", &[("x-a", "1")], "header"),
        ("GET", "/a", &[("x-c", "1")], "short"),
        ("GET", "/b", &[("x-c", "1")], "short but demanding"),
    ] {
        let request = request(method, uri, headers);
        assert_eq!(
            found(&table, &request),
            Some(expected),
            "{method} {uri} {headers:?}"
        );
    }
}

#[test]
fn equal_demands_are_decided_by_age_then_name_then_position() {
    let entry = |name: &str, order: RouteOrder| RouteEntry {
        matches: RouteMatch::default(),
        rule: rule(name),
        order,
    };
    let order = |created: &str, namespace: &str, name: &str, rule, matched| RouteOrder {
        created: Some(created.into()),
        namespace: namespace.into(),
        name: name.into(),
        rule,
        matched,
    };
    let old = "2024-01-01T00:00:00Z";
    let new = "2025-01-01T00:00:00Z";
    let ranked = [
        entry("oldest", order(old, "z", "z", 9, 9)),
        // As texts `a-b/x` is before `a/x`.
        entry("name a-b/x", order(new, "a-b", "x", 9, 9)),
        entry("name a/x", order(new, "a", "x", 0, 5)),
        entry("rule 2", order(new, "a", "x", 2, 0)),
        entry("match 1", order(new, "a", "x", 2, 1)),
    ];
    let request = request("GET", "/", &[]);
    for from in 0..ranked.len() {
        let mut entries = ranked[from..].to_vec();
        entries.reverse();
        let table = RouteTable::build(entries);
        assert_eq!(found(&table, &request), Some(&*ranked[from].rule.name));
    }
}

#[test]
fn a_trace_says_by_what_each_match_loses() {
    let order = |created: &str, name: &str, rule| RouteOrder {
        created: Some(created.into()),
        name: name.into(),
        rule,
        ..RouteOrder::default()
    };
    let post = RouteMatch {
        method: Some(Method::POST),
        ..prefix("/a")
    };
    let ranked = [
        (exact("/a/b"), order("1", "a", 0), None),
        (
            prefix("/a/b"),
            order("1", "a", 0),
            Some(Advantage::PathKind),
        ),
        (post, order("1", "a", 0), Some(Advantage::PathLength)),
        (
            with_header(prefix("/a"), "x", "1"),
            order("1", "a", 0),
            Some(Advantage::Method),
        ),
        (
            with_query(prefix("/a"), "q", "1"),
            order("1", "a", 0),
            Some(Advantage::Headers),
        ),
        (prefix("/a"), order("1", "a", 0), Some(Advantage::Query)),
        (prefix("/a"), order("2", "a", 0), Some(Advantage::Age)),
        (prefix("/a"), order("2", "b", 0), Some(Advantage::Name)),
        (prefix("/a"), order("2", "b", 1), Some(Advantage::Position)),
        (regex("/a.*"), order("1", "a", 0), Some(Advantage::PathKind)),
    ];
    let entries = ranked.iter().rev().map(|(matches, order, _)| RouteEntry {
        matches: matches.clone(),
        rule: rule("r"),
        order: order.clone(),
    });
    let table = RouteTable::build(entries.collect());
    let traced = table.trace(&request("POST", "/a/b?q=1", &[("x", "1")]));
    let reasons: Vec<_> = traced.iter().map(|it| it.loses_by).collect();
    assert_eq!(reasons, ranked.map(|(_, _, reason)| reason));
}

#[test]
fn nothing_matches_an_empty_table_or_an_asterisk() {
    assert!(
        RouteTable::default()
            .lookup(&request("GET", "/", &[]))
            .is_none()
    );
    let table = table(&[("any", prefix("/"))]);
    assert!(table.lookup(&request("OPTIONS", "*", &[])).is_none());
}

#[test]
fn repeated_headers_are_joined_and_the_host_is_a_header() {
    let table = table(&[
        ("joined", with_header(prefix("/"), "x-a", "1,2")),
        ("host", with_header(prefix("/"), "host", "reviews:9080")),
    ]);
    let joined = request("GET", "/", &[("x-a", "1"), ("x-a", "2")]);
    assert_eq!(found(&table, &joined), Some("joined"));
    let one = request("GET", "/", &[("x-a", "1")]);
    assert_eq!(found(&table, &one), Some("host"));
}

#[test]
fn query_parameters_match_as_sent_or_decoded_and_the_first_counts() {
    let table = table(&[
        ("space", with_query(prefix("/"), "q", "a b")),
        ("raw", with_query(prefix("/"), "q", "a%2Fb")),
        ("empty", with_query(prefix("/"), "e", "")),
        ("name", with_query(prefix("/"), "ä", "1")),
    ]);
    for (query, expected) in [
        ("q=a+b", Some("space")),
        ("q=a%20b", Some("space")),
        ("x=1&q=a%20b&q=z", Some("space")),
        ("q=z&q=a+b", None),
        ("q=a%2Fb", Some("raw")),
        ("q=a/b", None),
        ("e", Some("empty")),
        ("e=", Some("empty")),
        ("%C3%A4=1", Some("name")),
        ("Q=a+b", None),
        ("q=a%2", None),
    ] {
        let request = request("GET", &format!("/?{query}"), &[]);
        assert_eq!(found(&table, &request), expected, "{query}");
    }
}

#[test]
fn of_repeated_names_in_a_match_the_first_counts() {
    let twice = with_header(with_header(prefix("/"), "x-a", "1"), "X-A", "2");
    let table = table(&[("twice", twice)]);
    assert_eq!(
        found(&table, &request("GET", "/", &[("x-a", "1")])),
        Some("twice")
    );
}

#[test]
fn many_candidates_for_one_path_are_found_by_header() {
    let mut entries: Vec<(String, RouteMatch)> = (0..500)
        .map(|tenant| {
            let matches = with_header(prefix("/"), "x-env", "prod");
            let matches = with_header(matches, "x-tenant", &format!("t{tenant}"));
            (format!("t{tenant}"), matches)
        })
        .collect();
    entries.push(("rest".to_owned(), with_header(prefix("/"), "x-env", "prod")));
    let table = table(
        &entries
            .iter()
            .map(|(name, m)| (name.as_str(), m.clone()))
            .collect::<Vec<_>>(),
    );
    let tenant = request("GET", "/x", &[("x-env", "prod"), ("x-tenant", "t321")]);
    assert_eq!(found(&table, &tenant), Some("t321"));
    let other = request("GET", "/x", &[("x-env", "prod"), ("x-tenant", "t999")]);
    assert_eq!(found(&table, &other), Some("rest"));
    assert_eq!(
        found(&table, &request("GET", "/x", &[("x-tenant", "t1")])),
        None
    );
}

/// Few names and values, so that matches overlap as often as they miss.
const PATHS: &[&str] = &[
    "/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/a//b", "/b", "/b/a", "//", "/a/b/",
];
const PATTERNS: &[&str] = &["/a.*", "/[ab]", ".*", "/a/b/?", "/b|/a"];
const NAMES: &[&str] = &["x-a", "x-b", "host"];
const VALUES: &[&str] = &["1", "2", "1,2", "reviews:9080"];
const QUERIES: &[&str] = &["p=1", "p=2", "q=1", "p", "q=%31", "q=2"];

#[test]
fn the_table_agrees_with_a_naive_matcher() {
    let mut random = Random::new(2);
    let mut hits = 0;
    for case in 0..4_000 {
        // Now and then so many that one path has more candidates than are tried in turn.
        let size = if random.chance(3) {
            400
        } else {
            1 + random.below(12)
        };
        let mut entries: Vec<RouteEntry> =
            (0..size).map(|at| random_entry(&mut random, at)).collect();
        let reference = entries.clone();
        random.shuffle(&mut entries);
        let table = RouteTable::build(entries);
        let listed = table.entries();
        for _ in 0..8 {
            let request = random_request(&mut random);
            let expected = naive(&reference, &request);
            let first_listed = listed
                .iter()
                .find(|(matches, _)| naive_match(matches, &request))
                .map(|(_, rule)| &*rule.name);
            assert_eq!(
                first_listed, expected,
                "case {case}: {request:?} among {listed:#?}"
            );
            let traced = table.trace(&request);
            let fitting = reference.iter();
            assert_eq!(
                traced.len(),
                fitting
                    .filter(|entry| naive_match(&entry.matches, &request))
                    .count(),
                "case {case}: {request:?} among {reference:#?}"
            );
            assert_eq!(traced.first().map(|it| &*it.entry.rule.name), expected);
            for pair in traced.windows(2) {
                assert!(naive_beats(&pair[0].entry, &pair[1].entry), "{pair:#?}");
                assert!(pair[1].loses_by.is_some());
            }
            hits += usize::from(expected.is_some());
            assert_eq!(
                found(&table, &request),
                expected,
                "case {case}: {request:?} among {reference:#?}"
            );
        }
    }
    assert!(
        (10_000..31_000).contains(&hits),
        "{hits} of 32,000 matched: the generator is lopsided"
    );
}

fn random_entry(random: &mut Random, at: usize) -> RouteEntry {
    let path = match random.below(10) {
        0..3 => PathMatch::Exact(random.pick(PATHS).into()),
        3..9 => PathMatch::Prefix(random.pick(PATHS).into()),
        _ => PathMatch::Regex(pattern(random.pick(PATTERNS))),
    };
    let value = |random: &mut Random, values: &[&str]| match random.below(4) {
        0 => ValueMatch::Regex(pattern(random.pick(&["[12]", "1.*", ".*"]))),
        _ => ValueMatch::Exact(random.pick(values).into()),
    };
    let headers = random.some(NAMES, 3);
    let query = random.some(&["p", "q"], 2);
    RouteEntry {
        matches: RouteMatch {
            path,
            headers: headers
                .into_iter()
                .map(|name| HeaderMatch {
                    name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    value: value(random, VALUES),
                })
                .collect(),
            query: query
                .into_iter()
                .map(|name| QueryMatch {
                    name: name.into(),
                    value: value(random, &["1", "2", ""]),
                })
                .collect(),
            method: random
                .chance(30)
                .then(|| random.pick(&["GET", "POST"]).parse().unwrap()),
        },
        rule: rule(&format!("rule {at}")),
        order: RouteOrder {
            created: random
                .chance(50)
                .then(|| random.pick(&["2024", "2025"]).into()),
            namespace: random.pick(&["a", "a-b"]).into(),
            name: random.pick(&["x", "y"]).into(),
            rule: at,
            matched: 0,
        },
    }
}

/// Compiles each pattern once: the test makes tens of thousands.
fn pattern(written: &'static str) -> CompiledPattern {
    thread_local! {
        static KNOWN: RefCell<HashMap<&'static str, CompiledPattern>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let pattern = known
            .entry(written)
            .or_insert_with(|| CompiledPattern::new(written).unwrap());
        pattern.clone()
    })
}

fn random_request(random: &mut Random) -> CanonicalRequest {
    let method = random.pick(&["GET", "POST", "PUT"]);
    let uri = format!(
        "{}?{}",
        random.pick(PATHS),
        random.some(QUERIES, 3).join("&")
    );
    let headers: Vec<(&str, &str)> = random
        .some(&NAMES[..2], 4)
        .into_iter()
        .map(|name| (name, random.pick(VALUES)))
        .collect();
    request(method, &uri, &headers)
}

/// The specification word by word: filter, then keep whatever nothing else beats.
fn naive<'a>(entries: &'a [RouteEntry], request: &CanonicalRequest) -> Option<&'a str> {
    let mut best: Option<&RouteEntry> = None;
    for entry in entries
        .iter()
        .filter(|entry| naive_match(&entry.matches, request))
    {
        if best.is_none_or(|best| naive_beats(entry, best)) {
            best = Some(entry);
        }
    }
    best.map(|entry| &*entry.rule.name)
}

fn naive_match(matches: &RouteMatch, request: &CanonicalRequest) -> bool {
    let path = request.path();
    let value = |wanted: &ValueMatch, value: &str| match wanted {
        ValueMatch::Exact(expected) => **expected == *value,
        ValueMatch::Regex(pattern) => pattern.matches(value.as_bytes()),
    };
    let path_fits = match &matches.path {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Prefix(prefix) => {
            let mut prefix = prefix.to_string();
            while prefix.ends_with('/') {
                prefix.pop();
            }
            path == prefix || path.starts_with(&format!("{prefix}/"))
        }
        PathMatch::Regex(pattern) => pattern.matches(path.as_bytes()),
    };
    let headers_fit = naive_distinct(&matches.headers, |h| h.name.as_str())
        .into_iter()
        .all(|header| {
            let sent: Vec<&str> = match header.name.as_str() {
                "host" => vec![request.authority.as_str()],
                name => request
                    .headers
                    .get_all(name)
                    .iter()
                    .map(|v| v.to_str().unwrap())
                    .collect(),
            };
            !sent.is_empty() && value(&header.value, &sent.join(","))
        });
    let query_fits = naive_distinct(&matches.query, |q| &q.name)
        .into_iter()
        .all(|wanted| {
            let query = request.query().unwrap_or_default().replace("%31", "1");
            let first = query.split('&').find_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (*name == *wanted.name).then(|| value.to_owned())
            });
            first.is_some_and(|sent| value(&wanted.value, &sent))
        });
    let method_fits = matches
        .method
        .as_ref()
        .is_none_or(|method| method == request.method);
    path_fits && headers_fit && query_fits && method_fits
}

fn naive_beats(one: &RouteEntry, other: &RouteEntry) -> bool {
    let rank = |entry: &RouteEntry| match &entry.matches.path {
        PathMatch::Exact(_) => (3, 0),
        PathMatch::Prefix(prefix) => (2, prefix.trim_end_matches('/').len()),
        PathMatch::Regex(pattern) => (1, pattern.as_str().len()),
    };
    let sizes = |entry: &RouteEntry| {
        let headers = naive_distinct(&entry.matches.headers, |h| h.name.as_str()).len();
        let query = naive_distinct(&entry.matches.query, |q| &q.name).len();
        (usize::from(entry.matches.method.is_some()), headers, query)
    };
    if rank(one) != rank(other) {
        return rank(one) > rank(other);
    }
    if sizes(one) != sizes(other) {
        return sizes(one) > sizes(other);
    }
    let age = |entry: &RouteEntry| entry.order.created.as_deref().unwrap_or("").to_owned();
    if age(one) != age(other) {
        return age(one) < age(other);
    }
    let name = |entry: &RouteEntry| format!("{}/{}", entry.order.namespace, entry.order.name);
    if name(one) != name(other) {
        return name(one) < name(other);
    }
    one.order.rule < other.order.rule
}

fn naive_distinct<T>(items: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut kept: Vec<&T> = Vec::new();
    for item in items {
        if kept.iter().all(|known| name(known) != name(item)) {
            kept.push(item);
        }
    }
    kept
}

fn table(entries: &[(&str, RouteMatch)]) -> RouteTable {
    let entries = entries.iter().map(|(name, matches)| RouteEntry {
        matches: matches.clone(),
        rule: rule(name),
        order: RouteOrder::default(),
    });
    RouteTable::build(entries.collect())
}

fn found<'a>(table: &'a RouteTable, request: &CanonicalRequest) -> Option<&'a str> {
    table.lookup(request).map(|rule| &*rule.name)
}

fn rule(name: &str) -> Arc<RouteRule> {
    Arc::new(RouteRule {
        name: name.into(),
        route: None,
        action: RouteAction::Fail {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: "test".into(),
        },
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cors: None,
        external_auth: None,
    })
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix(path.into()),
        ..RouteMatch::default()
    }
}

fn exact(path: &str) -> RouteMatch {
    RouteMatch {
        path: PathMatch::Exact(path.into()),
        ..RouteMatch::default()
    }
}

fn regex(pattern: &str) -> RouteMatch {
    RouteMatch {
        path: PathMatch::Regex(CompiledPattern::new(pattern).unwrap()),
        ..RouteMatch::default()
    }
}

fn with_header(mut matches: RouteMatch, name: &str, value: &str) -> RouteMatch {
    matches.headers.push(HeaderMatch {
        name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
        value: ValueMatch::Exact(value.into()),
    });
    matches
}

fn with_query(mut matches: RouteMatch, name: &str, value: &str) -> RouteMatch {
    matches.query.push(QueryMatch {
        name: name.into(),
        value: ValueMatch::Exact(value.into()),
    });
    matches
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> CanonicalRequest {
    let mut map = HeaderMap::new();
    map.insert("host", HeaderValue::from_static("reviews:9080"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    CanonicalRequest::new(
        method.parse().unwrap(),
        &uri.parse().unwrap(),
        Version::HTTP_11,
        map,
        PathNormalization::None,
    )
    .unwrap()
}
