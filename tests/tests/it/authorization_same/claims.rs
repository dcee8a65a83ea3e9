//! What tokens say.

use super::vocabulary::{Case, allow, case, deny, exact, prefix, present, rule, suffix, what, who};

const ISSUER: &str = "https://issuer/x";

pub(super) fn cases() -> Vec<Case> {
    let from = |who| rule(0, what::any(), who);
    vec![
        case(
            "token",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['https://issuer/x/alice']}}]}]}",
            allow([from(who::subject(exact(ISSUER), exact("alice")))]),
        ),
        case(
            "token-any",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}",
            allow([from(who::subject(present(), present()))]),
        ),
        case(
            "token-missing",
            "{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}",
            deny([from(who::not(who::subject(present(), present())))]),
        ),
        case(
            "token-prefix",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['https://issuer/x/*']}}]}]}",
            allow([from(who::subject(exact(ISSUER), present()))]),
        ),
        case(
            "token-prefix-of-subject",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['https://issuer/x/al*']}}]}]}",
            allow([from(who::subject(exact(ISSUER), prefix("al")))]),
        ),
        case(
            "token-suffix",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['*/bob']}}]}]}",
            allow([from(who::subject(present(), exact("bob")))]),
        ),
        case(
            "token-suffix-of-subject",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['*ce']}}]}]}",
            allow([from(who::subject(present(), suffix("ce")))]),
        ),
        case(
            "token-with-slashes",
            "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['https://issuer/x/a/b']}}]}]}",
            allow([from(who::subject(exact("https://issuer/x/a"), exact("b")))]),
        ),
        case(
            "token-with-slashes-deny",
            "{action: DENY, rules: [{from: [{source: {requestPrincipals: ['https://issuer/x/a/b']}}]}]}",
            deny([from(who::subject(exact("https://issuer/x/a"), exact("b")))]),
        )
        .stricter(&["token_slash"]),
        case(
            "token-not",
            "{action: ALLOW, rules: [{from: [{source: {notRequestPrincipals: ['https://issuer/x/alice']}}]}]}",
            allow([from(who::not(who::subject(exact(ISSUER), exact("alice"))))]),
        ),
        case(
            "token-principal-when",
            "{action: ALLOW, rules: [{when: [{key: request.auth.principal, values: ['https://issuer/x/bob']}]}]}",
            allow([from(who::subject(exact(ISSUER), exact("bob")))]),
        ),
        case(
            "audience",
            "{action: ALLOW, rules: [{when: [{key: request.auth.audiences, values: [web, other]}]}]}",
            allow([from(who::claim(&["aud"], [exact("web"), exact("other")]))]),
        ),
        case(
            "audience-not",
            "{action: DENY, rules: [{when: [{key: request.auth.audiences, notValues: [api]}]}]}",
            deny([from(who::not(who::claim(&["aud"], [exact("api")])))]),
        ),
        case(
            "presenter",
            "{action: ALLOW, rules: [{when: [{key: request.auth.presenter, values: ['cli*']}]}]}",
            allow([from(who::claim(&["azp"], [prefix("cli")]))]),
        ),
        case(
            "claim",
            "{action: ALLOW, rules: [{when: [{key: 'request.auth.claims[roles]', values: [admin]}]}]}",
            allow([from(who::claim(&["roles"], [exact("admin")]))]),
        ),
        case(
            "claim-suffix-deny",
            "{action: DENY, rules: [{when: [{key: 'request.auth.claims[roles]', values: ['*min']}]}]}",
            deny([from(who::claim(&["roles"], [suffix("min")]))]),
        ),
        case(
            "claim-nested",
            "{action: ALLOW, rules: [{when: [{key: 'request.auth.claims[deep][level]', values: [high]}]}]}",
            allow([from(who::claim(&["deep", "level"], [exact("high")]))]),
        ),
        case(
            "claim-spaced",
            "{action: ALLOW, rules: [{when: [{key: 'request.auth.claims[scope]', values: [write]}]}]}",
            allow([from(who::claim(&["scope"], [exact("write")]))]),
        ),
        case(
            "claim-present",
            "{action: ALLOW, rules: [{when: [{key: 'request.auth.claims[azp]', values: ['*']}]}]}",
            allow([from(who::claim(&["azp"], [present()]))]),
        ),
        case(
            "claim-not",
            "{action: ALLOW, rules: [{when: [{key: 'request.auth.claims[roles]', notValues: [admin]}]}]}",
            allow([from(who::not(who::claim(&["roles"], [exact("admin")])))]),
        ),
        case(
            "claim-number",
            "{action: ALLOW, rules: [{when: [{key: 'request.auth.claims[level]', values: ['3']}]}]}",
            allow([from(who::claim(&["level"], [exact("3")]))]),
        ),
        case(
            "claim-number-deny",
            "{action: DENY, rules: [{when: [{key: 'request.auth.claims[level]', values: ['3']}]}]}",
            deny([from(who::claim(&["level"], [exact("3")]))]),
        )
        .stricter(&["token_bob"]),
    ]
}
