//! Who asks: `from`.

use super::vocabulary::{
    Case, allow, case, deny, exact, prefix, present, regex, rule, suffix, what, who,
};

const A: &str = "ns/default/sa/a";

pub(super) fn cases() -> Vec<Case> {
    let from = |who| rule(0, what::any(), who);
    vec![
        case(
            "principal",
            "{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]}",
            allow([from(who::ours(A, exact))]),
        ),
        case(
            "principals",
            "{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a, cluster.local/ns/other/sa/b]}}]}]}",
            allow([from(who::one_of([
                who::ours(A, exact),
                who::ours("ns/other/sa/b", exact),
            ]))]),
        ),
        case(
            "principal-prefix",
            "{action: ALLOW, rules: [{from: [{source: {principals: ['cluster.local/ns/default/*']}}]}]}",
            allow([from(who::ours("ns/default/", prefix))]),
        ),
        case(
            "principal-suffix",
            "{action: ALLOW, rules: [{from: [{source: {principals: ['*/sa/a']}}]}]}",
            allow([from(who::peer(suffix("/sa/a")))]),
        ),
        case(
            "principal-any",
            "{action: ALLOW, rules: [{from: [{source: {principals: ['*']}}]}]}",
            allow([from(who::peer(present()))]),
        ),
        case(
            "principal-deny",
            "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]}",
            deny([from(who::ours(A, exact))]),
        ),
        case(
            "principal-not",
            "{action: ALLOW, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/default/sa/a]}}]}]}",
            allow([from(who::not(who::ours(A, exact)))]),
        ),
        case(
            "principal-not-suffix-deny",
            "{action: DENY, rules: [{from: [{source: {notPrincipals: ['*/sa/a']}}]}]}",
            deny([from(who::not(who::peer(suffix("/sa/a"))))]),
        ),
        case(
            "principal-and-not",
            "{action: ALLOW, rules: [{from: [{source: {principals: ['*'], notPrincipals: [cluster.local/ns/other/sa/b]}}]}]}",
            allow([from(who::all([
                who::peer(present()),
                who::not(who::ours("ns/other/sa/b", exact)),
            ]))]),
        ),
        case(
            "namespace",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}]}",
            allow([from(who::namespace("default"))]),
        ),
        case(
            "namespace-prefix",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: ['team-*']}}]}]}",
            allow([from(who::namespace("team-.*"))]),
        ),
        case(
            "namespace-suffix-deny",
            "{action: DENY, rules: [{from: [{source: {namespaces: ['*-a']}}]}]}",
            deny([from(who::namespace(".*-a"))]),
        ),
        case(
            "namespace-middle",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: ['t*-a']}}]}]}",
            allow([from(who::namespace("t.*-a"))]),
        ),
        case(
            "namespace-any",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: ['*']}}]}]}",
            allow([from(who::namespace(".*"))]),
        ),
        case(
            "namespace-not",
            "{action: ALLOW, rules: [{from: [{source: {notNamespaces: [default, shop]}}]}]}",
            allow([from(who::not(who::one_of([
                who::namespace("default"),
                who::namespace("shop"),
            ])))]),
        ),
        case(
            "account",
            "{action: ALLOW, rules: [{from: [{source: {serviceAccounts: [team-a/reader]}}]}]}",
            allow([from(who::account("team-a", "reader"))]),
        ),
        case(
            "account-of-own-namespace",
            "{action: ALLOW, rules: [{from: [{source: {serviceAccounts: [a]}}]}]}",
            allow([from(who::account("default", "a"))]),
        ),
        case(
            "account-dotted",
            "{action: DENY, rules: [{from: [{source: {serviceAccounts: [shop/a.b]}}]}]}",
            deny([from(who::account("shop", "a\\.b"))]),
        ),
        case(
            "account-not",
            "{action: ALLOW, rules: [{from: [{source: {notServiceAccounts: [shop/a.b, a]}}]}]}",
            allow([from(who::not(who::one_of([
                who::account("shop", "a\\.b"),
                who::account("default", "a"),
            ])))]),
        ),
        case(
            "trust-domain",
            "{action: ALLOW, rules: [{from: [{source: {trustDomains: [old.domain]}}]}]}",
            // An alias of the mesh's own domain means every name of it.
            allow([from(who::ours("", prefix))]),
        ),
        case(
            "trust-domain-of-nobody",
            "{action: ALLOW, rules: [{from: [{source: {trustDomains: [foreign]}}]}]}",
            allow([from(who::peer(prefix("spiffe://foreign/")))]),
        ),
        case(
            "trust-domain-any",
            "{action: ALLOW, rules: [{from: [{source: {trustDomains: ['*']}}]}]}",
            allow([from(who::peer(regex("spiffe://[^/]+/.*")))]),
        ),
        case(
            "trust-domain-not",
            "{action: DENY, rules: [{from: [{source: {notTrustDomains: [foreign]}}]}]}",
            deny([from(who::not(who::peer(prefix("spiffe://foreign/"))))]),
        ),
        case(
            "several-sources",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: [other]}}, {source: {principals: ['*/sa/a.b']}}]}]}",
            allow([from(who::one_of([
                who::namespace("other"),
                who::peer(suffix("/sa/a.b")),
            ]))]),
        ),
        case(
            "several-fields",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: [default, other], serviceAccounts: [other/b]}}]}]}",
            allow([from(who::all([
                who::one_of([who::namespace("default"), who::namespace("other")]),
                who::account("other", "b"),
            ]))]),
        ),
        case(
            "source-address",
            "{action: ALLOW, rules: [{from: [{source: {ipBlocks: [CALLER]}}]}]}",
            allow([from(who::source("CALLER/32"))]),
        ),
        case(
            "source-network",
            "{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, NETWORK/24]}}]}]}",
            deny([from(who::one_of([
                who::source("10.0.0.0/8"),
                who::source("NETWORK/24"),
            ]))]),
        ),
        case(
            "source-address-not",
            "{action: ALLOW, rules: [{from: [{source: {notIpBlocks: [CALLER/32]}}]}]}",
            allow([from(who::not(who::source("CALLER/32")))]),
        ),
        case(
            "remote-address",
            "{action: ALLOW, rules: [{from: [{source: {remoteIpBlocks: [CALLER]}}]}]}",
            allow([from(who::remote("CALLER/32"))]),
        ),
        case(
            "remote-address-not",
            "{action: DENY, rules: [{from: [{source: {notRemoteIpBlocks: [NETWORK/24]}}]}]}",
            deny([from(who::not(who::remote("NETWORK/24")))]),
        ),
    ]
}
