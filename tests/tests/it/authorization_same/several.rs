//! Several policies, none, policies on trial and those that only mark.

use super::vocabulary::{
    Case, allow, audit, case, deny, exact, none, prefix, rule, shadow_allow, shadow_deny, what, who,
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = enforced();
    cases.extend(marking());
    cases
}

fn enforced() -> Vec<Case> {
    let get = || what::method(exact("GET"));
    let admin = || what::path(prefix("/admin"));
    vec![
        none("nothing"),
        case("allow-nothing", "{}", allow([])),
        case("allow-without-rules", "{action: ALLOW, rules: []}", allow([])),
        case(
            "allow-all",
            "{rules: [{}]}",
            allow([rule(0, what::any(), who::any())]),
        ),
        case(
            "deny-all",
            "{action: DENY, rules: [{}]}",
            deny([rule(0, what::any(), who::any())]),
        ),
        case("deny-nothing", "{action: DENY}", deny([])),
        none("deny-and-allow")
            .policy("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .policy("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}")
            .filter(deny([rule(0, admin(), who::any()).of(1)]))
            .filter(allow([rule(0, get(), who::any())])),
        none("two-allow")
            .policy("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .policy("{action: ALLOW, rules: [{from: [{source: {namespaces: [other]}}]}, {to: [{operation: {methods: [POST]}}]}]}")
            .filter(allow([
                rule(0, get(), who::any()),
                rule(0, what::any(), who::namespace("other")).of(1),
                rule(1, what::method(exact("POST")), who::any()).of(1),
            ])),
        none("two-deny")
            .policy("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}")
            .policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', notValues: ['*']}]}, {from: [{source: {namespaces: [other]}}]}]}")
            .filter(deny([
                rule(0, admin(), who::any()),
                rule(0, what::any(), who::not(who::has_header("x-role"))).of(1),
                rule(1, what::any(), who::namespace("other")).of(1),
            ])),
        none("allow-nothing-beside-allow")
            .policy("{}")
            .policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .filter(allow([rule(0, get(), who::any()).of(1)])),
        none("deny-nothing-beside-allow")
            .policy("{action: DENY}")
            .policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .filter(deny([]))
            .filter(allow([rule(0, get(), who::any()).of(1)])),
        case(
            "many-rules",
            "{rules: [{to: [{operation: {paths: [/nowhere]}}]}, {to: [{operation: {paths: [/x]}}]}, {to: [{operation: {methods: [PUT]}}]}, {to: [{operation: {paths: ['/x*']}}]}, {from: [{source: {namespaces: [shop]}}]}]}",
            allow([
                rule(0, what::path(exact("/nowhere")), who::any()),
                rule(1, what::path(exact("/x")), who::any()),
                rule(2, what::method(exact("PUT")), who::any()),
                rule(3, what::path(prefix("/x")), who::any()),
                rule(4, what::any(), who::namespace("shop")),
            ]),
        ),
    ]
}

fn marking() -> Vec<Case> {
    let get = || what::method(exact("GET"));
    let admin = || what::path(prefix("/admin"));
    vec![
        none("trial-of-deny")
            .dry_run("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}")
            .filter(shadow_deny([rule(0, admin(), who::any())])),
        none("trial-of-allow")
            .dry_run("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .filter(shadow_allow([rule(0, get(), who::any())])),
        none("trial-of-both")
            .dry_run("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .dry_run("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}")
            .filter(shadow_deny([rule(0, admin(), who::any()).of(1)]))
            .filter(shadow_allow([rule(0, get(), who::any())])),
        none("trial-beside-the-enforced")
            .policy("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .dry_run("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}")
            .dry_run("{action: ALLOW, rules: [{from: [{source: {namespaces: [other]}}]}]}")
            .filter(shadow_deny([rule(0, admin(), who::any()).of(1)]))
            .filter(shadow_allow([rule(
                0,
                what::any(),
                who::namespace("other"),
            )
            .of(2)]))
            .filter(allow([rule(0, get(), who::any())])),
        none("trial-of-allow-nothing")
            .dry_run("{}")
            .filter(shadow_allow([])),
        case(
            "audit",
            "{action: AUDIT, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}",
            audit([rule(0, admin(), who::any())]),
        ),
        none("audit-and-allow")
            .policy("{action: AUDIT, rules: [{from: [{source: {namespaces: [default]}}]}]}")
            .policy("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
            .filter(audit([rule(0, what::any(), who::namespace("default"))]))
            .filter(allow([rule(0, get(), who::any()).of(1)])),
    ]
}
