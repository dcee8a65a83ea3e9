//! What is asked: `to`.

use super::vocabulary::{Case, allow, case, deny, exact, prefix, present, rule, suffix, what, who};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = methods_and_paths();
    cases.extend(hosts_and_ports());
    cases
}

fn methods_and_paths() -> Vec<Case> {
    let to = |what| rule(0, what, who::any());
    vec![
        case(
            "method",
            "{action: ALLOW, rules: [{to: [{operation: {methods: [GET, HEAD]}}]}]}",
            allow([to(what::one_of([
                what::method(exact("GET")),
                what::method(exact("HEAD")),
            ]))]),
        ),
        case(
            "method-prefix",
            "{action: DENY, rules: [{to: [{operation: {methods: ['P*']}}]}]}",
            deny([to(what::method(prefix("P")))]),
        ),
        case(
            "method-suffix",
            "{action: ALLOW, rules: [{to: [{operation: {methods: ['*T']}}]}]}",
            allow([to(what::method(suffix("T")))]),
        ),
        case(
            "method-any",
            "{action: ALLOW, rules: [{to: [{operation: {methods: ['*']}}]}]}",
            allow([to(what::method(present()))]),
        ),
        case(
            "method-not",
            "{action: DENY, rules: [{to: [{operation: {notMethods: [GET, POST]}}]}]}",
            deny([to(what::not(what::one_of([
                what::method(exact("GET")),
                what::method(exact("POST")),
            ])))]),
        ),
        case(
            "path",
            "{action: ALLOW, rules: [{to: [{operation: {paths: [/x, /admin]}}]}]}",
            allow([to(what::one_of([
                what::path(exact("/x")),
                what::path(exact("/admin")),
            ]))]),
        ),
        case(
            "path-deny",
            "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
            deny([to(what::path(exact("/admin")))]),
        ),
        case(
            "path-prefix",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['/x/*']}}]}]}",
            allow([to(what::path(prefix("/x/")))]),
        ),
        case(
            "path-prefix-deny",
            "{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}",
            deny([to(what::path(prefix("/admin")))]),
        ),
        case(
            "path-suffix",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['*.html', '*/photos']}}]}]}",
            allow([to(what::one_of([
                what::path(suffix(".html")),
                what::path(suffix("/photos")),
            ]))]),
        ),
        case(
            "path-any",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['*']}}]}]}",
            allow([to(what::path(present()))]),
        ),
        case(
            "path-not",
            "{action: ALLOW, rules: [{to: [{operation: {notPaths: [/admin, '/files/*']}}]}]}",
            allow([to(what::not(what::one_of([
                what::path(exact("/admin")),
                what::path(prefix("/files/")),
            ])))]),
        ),
        case(
            "path-and-not",
            "{action: DENY, rules: [{to: [{operation: {paths: ['/x*'], notPaths: ['/x/y*']}}]}]}",
            deny([to(what::all([
                what::path(prefix("/x")),
                what::not(what::path(prefix("/x/y"))),
            ]))]),
        ),
        case(
            "path-template-segment",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['/users/{*}/photos']}}]}]}",
            allow([to(what::template("/users/*/photos"))]),
        ),
        case(
            "path-template-two",
            "{action: DENY, rules: [{to: [{operation: {paths: ['/{*}/{*}']}}]}]}",
            deny([to(what::template("/*/*"))]),
        ),
        case(
            "path-template-rest",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['/files/{**}']}}]}]}",
            allow([to(what::template("/files/**"))]),
        ),
        case(
            "path-template-middle",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['/users/{**}/photos', /x]}}]}]}",
            allow([to(what::one_of([
                what::template("/users/**/photos"),
                what::path(exact("/x")),
            ]))]),
        ),
        case(
            "path-template-not",
            "{action: DENY, rules: [{to: [{operation: {notPaths: ['/{*}', '/x/{**}']}}]}]}",
            deny([to(what::not(what::one_of([
                what::template("/*"),
                what::template("/x/**"),
            ])))]),
        ),
    ]
}

fn hosts_and_ports() -> Vec<Case> {
    let to = |what| rule(0, what, who::any());
    vec![
        case(
            "host",
            "{action: ALLOW, rules: [{to: [{operation: {hosts: [shop.example.com]}}]}]}",
            allow([to(what::host(exact("shop.example.com")))]),
        ),
        case(
            "host-deny",
            "{action: DENY, rules: [{to: [{operation: {hosts: [Shop.example.com]}}]}]}",
            deny([to(what::host(exact("Shop.example.com")))]),
        )
        .stricter(&["host_port_80", "host_port_8080", "host_dot"]),
        case(
            "host-prefix",
            "{action: ALLOW, rules: [{to: [{operation: {hosts: ['shop.*']}}]}]}",
            allow([to(what::host(prefix("shop.")))]),
        ),
        case(
            "host-suffix",
            "{action: ALLOW, rules: [{to: [{operation: {hosts: ['*.example.com']}}]}]}",
            allow([to(what::host(suffix(".example.com")))]),
        ),
        case(
            "host-suffix-deny",
            "{action: DENY, rules: [{to: [{operation: {hosts: ['*.example.com']}}]}]}",
            deny([to(what::host(suffix(".example.com")))]),
        )
        .stricter(&["host_port_80", "host_port_8080", "host_dot"]),
        case(
            "host-any",
            "{action: ALLOW, rules: [{to: [{operation: {hosts: ['*']}}]}]}",
            allow([to(what::host(present()))]),
        ),
        case(
            "host-with-port",
            "{action: ALLOW, rules: [{to: [{operation: {hosts: ['shop.example.com:8080']}}]}]}",
            allow([to(what::host(exact("shop.example.com:8080")))]),
        ),
        case(
            "host-with-port-deny",
            "{action: DENY, rules: [{to: [{operation: {hosts: ['shop.example.com:80']}}]}]}",
            deny([to(what::host(exact("shop.example.com:80")))]),
        )
        .stricter(&["host", "host_upper", "host_dot"]),
        case(
            "host-not",
            "{action: ALLOW, rules: [{to: [{operation: {notHosts: [shop.example.com]}}]}]}",
            allow([to(what::not(what::host(exact("shop.example.com"))))]),
        )
        .stricter(&["host_port_80", "host_port_8080", "host_dot"]),
        case(
            "host-not-deny",
            "{action: DENY, rules: [{to: [{operation: {notHosts: [shop.example.com]}}]}]}",
            deny([to(what::not(what::host(exact("shop.example.com"))))]),
        ),
        case(
            "port",
            "{action: ALLOW, rules: [{to: [{operation: {ports: ['80', '443']}}]}]}",
            allow([to(what::one_of([what::port(80), what::port(443)]))]),
        ),
        case(
            "port-of-the-pod",
            "{action: ALLOW, rules: [{to: [{operation: {ports: ['23917']}}]}]}",
            allow([to(what::port(23917))]),
        ),
        case(
            "port-not",
            "{action: DENY, rules: [{to: [{operation: {notPorts: ['80']}}]}]}",
            deny([to(what::not(what::port(80)))]),
        ),
        case(
            "several-operations",
            "{action: ALLOW, rules: [{to: [{operation: {methods: [POST]}}, {operation: {paths: [/admin], hosts: ['*']}}]}]}",
            allow([to(what::one_of([
                what::method(exact("POST")),
                what::all([what::path(exact("/admin")), what::host(present())]),
            ]))]),
        ),
        case(
            "all-of-an-operation",
            "{action: ALLOW, rules: [{to: [{operation: {methods: [GET], paths: [/x], hosts: ['*.example.com'], ports: ['80']}}]}]}",
            allow([to(what::all([
                what::method(exact("GET")),
                what::path(exact("/x")),
                what::host(suffix(".example.com")),
                what::port(80),
            ]))]),
        ),
        case(
            "source-and-operation",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}], to: [{operation: {notMethods: [DELETE]}}]}]}",
            allow([rule(
                0,
                what::not(what::method(exact("DELETE"))),
                who::namespace("default"),
            )]),
        ),
    ]
}
