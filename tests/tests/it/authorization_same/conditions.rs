//! Under which conditions: `when`.

use super::vocabulary::{Case, allow, case, deny, exact, prefix, present, rule, suffix, what, who};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = headers();
    cases.extend(attributes());
    cases
}

fn headers() -> Vec<Case> {
    let role = |matcher| rule(0, what::any(), who::header("x-role", matcher));
    vec![
        case(
            "header",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', values: [user]}]}]}",
            allow([role(exact("user"))]),
        )
        .stricter(&["role_twice"]),
        case(
            "header-deny",
            "{action: DENY, rules: [{when: [{key: 'request.headers[X-Role]', values: [admin]}]}]}",
            deny([rule(0, what::any(), who::header("X-Role", exact("admin")))]),
        )
        .stricter(&["role_list"]),
        case(
            "header-prefix",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', values: ['us*']}]}]}",
            allow([role(prefix("us"))]),
        )
        .stricter(&["role_twice"]),
        case(
            "header-prefix-deny",
            "{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: ['adm*']}]}]}",
            deny([role(prefix("adm"))]),
        )
        .stricter(&["role_list"]),
        case(
            "header-suffix",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', values: ['*min']}]}]}",
            allow([role(suffix("min"))]),
        )
        .stricter(&["role_twice"]),
        case(
            "header-present",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', values: ['*']}]}]}",
            allow([rule(0, what::any(), who::has_header("x-role"))]),
        ),
        case(
            "header-absent",
            "{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', notValues: ['*']}]}]}",
            deny([rule(0, what::any(), who::not(who::has_header("x-role")))]),
        ),
        case(
            "header-not",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', notValues: [admin]}]}]}",
            allow([rule(0, what::any(), who::not(who::header("x-role", exact("admin"))))]),
        )
        .stricter(&["role_list"]),
        case(
            "header-not-deny",
            "{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', notValues: [user]}]}]}",
            deny([rule(0, what::any(), who::not(who::header("x-role", exact("user"))))]),
        )
        .stricter(&["role_twice"]),
        case(
            "header-and-not",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', values: ['*'], notValues: ['adm*']}]}]}",
            allow([rule(
                0,
                what::any(),
                who::all([
                    who::has_header("x-role"),
                    who::not(who::header("x-role", prefix("adm"))),
                ]),
            )]),
        )
        .stricter(&["role_list"]),
        case(
            "header-of-method",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[:method]', values: [GET]}]}]}",
            allow([rule(0, what::any(), who::header(":method", exact("GET")))]),
        ),
        case(
            "header-of-authority",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[:authority]', values: [shop.example.com]}]}]}",
            allow([rule(
                0,
                what::any(),
                who::header(":authority", exact("shop.example.com")),
            )]),
        ),
    ]
}

fn attributes() -> Vec<Case> {
    vec![
        case(
            "when-source-address",
            "{action: DENY, rules: [{when: [{key: source.ip, values: [CALLER]}]}]}",
            deny([rule(0, what::any(), who::source("CALLER/32"))]),
        ),
        case(
            "when-remote-address",
            "{action: ALLOW, rules: [{when: [{key: remote.ip, values: [NETWORK/24], notValues: [CALLER]}]}]}",
            allow([rule(
                0,
                what::any(),
                who::all([
                    who::remote("NETWORK/24"),
                    who::not(who::remote("CALLER/32")),
                ]),
            )]),
        ),
        case(
            "when-namespace",
            "{action: ALLOW, rules: [{when: [{key: source.namespace, values: [default, 'sh*']}]}]}",
            allow([rule(
                0,
                what::any(),
                who::one_of([who::namespace("default"), who::namespace("sh.*")]),
            )]),
        ),
        case(
            "when-namespace-not",
            "{action: DENY, rules: [{when: [{key: source.namespace, notValues: [default]}]}]}",
            deny([rule(0, what::any(), who::not(who::namespace("default")))]),
        ),
        case(
            "when-principal",
            "{action: ALLOW, rules: [{when: [{key: source.principal, values: [cluster.local/ns/other/sa/b, '*/a.b']}]}]}",
            allow([rule(
                0,
                what::any(),
                who::one_of([
                    who::ours("ns/other/sa/b", exact),
                    who::peer(suffix("/a.b")),
                ]),
            )]),
        ),
        case(
            "when-account",
            "{action: ALLOW, rules: [{when: [{key: source.serviceAccount, values: [shop/a.b]}]}]}",
            allow([rule(0, what::any(), who::account("shop", "a\\.b"))]),
        ),
        case(
            "when-trust-domain",
            "{action: DENY, rules: [{when: [{key: source.trustDomain, notValues: [cluster.local]}]}]}",
            deny([rule(0, what::any(), who::not(who::ours("", prefix)))]),
        ),
        case(
            "when-destination",
            "{action: ALLOW, rules: [{when: [{key: destination.ip, values: [10.96.0.0/16]}]}]}",
            allow([rule(0, what::address("10.96.0.0/16"), who::any())]),
        ),
        case(
            "when-destination-deny",
            "{action: DENY, rules: [{when: [{key: destination.ip, notValues: [10.97.0.0/16]}]}]}",
            deny([rule(0, what::not(what::address("10.97.0.0/16")), who::any())]),
        ),
        case(
            "when-port",
            "{action: ALLOW, rules: [{when: [{key: destination.port, values: ['80']}]}]}",
            allow([rule(0, what::port(80), who::any())]),
        ),
        case(
            "when-port-not",
            "{action: ALLOW, rules: [{when: [{key: destination.port, notValues: ['80']}]}]}",
            allow([rule(0, what::not(what::port(80)), who::any())]),
        ),
        case(
            "when-server-name",
            "{action: ALLOW, rules: [{when: [{key: connection.sni, values: [shop.example.com, '*']}]}]}",
            allow([rule(
                0,
                what::one_of([
                    what::server_name(exact("shop.example.com")),
                    what::server_name(present()),
                ]),
                who::any(),
            )]),
        ),
        case(
            "when-server-name-not",
            "{action: DENY, rules: [{when: [{key: connection.sni, notValues: ['*.example.com']}]}]}",
            deny([rule(
                0,
                what::not(what::server_name(suffix(".example.com"))),
                who::any(),
            )]),
        ),
        case(
            "when-several",
            "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-role]', values: ['*']}, {key: source.namespace, values: [default]}, {key: destination.port, values: ['80']}]}]}",
            allow([rule(
                0,
                what::port(80),
                who::all([who::has_header("x-role"), who::namespace("default")]),
            )]),
        ),
        case(
            "from-to-and-when",
            "{action: DENY, rules: [{from: [{source: {namespaces: [default]}}], to: [{operation: {paths: ['/x*']}}], when: [{key: 'request.headers[x-role]', notValues: [admin]}]}]}",
            deny([rule(
                0,
                what::path(prefix("/x")),
                who::all([
                    who::namespace("default"),
                    who::not(who::header("x-role", exact("admin"))),
                ]),
            )]),
        )
        .stricter(&["role_twice"]),
    ]
}
