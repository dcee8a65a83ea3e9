//! Conditions on tokens, row by row of Istio's table.

use super::*;

const TOKEN: &str = r#"{"iss":"https://idp/x","sub":"alice","aud":["a","b"],"azp":"app",
    "scope":"read write","words":"one two","text":"one two","roles":["user","admin"],"admin":true,
    "level":3,"realm":{"roles":["deep"],"name":"n"},"empty":"","none":null}"#;

fn with_token() -> Case {
    Case::get("/").token(TOKEN)
}

/// ALLOW and DENY with the same list, for one request: whether ALLOW admits, whether DENY refuses.
fn readings(case: &Case, make: &dyn Fn(&str) -> String) -> (bool, bool) {
    let (must, may) = (
        case.passes(&[&make("ALLOW")]),
        !case.passes(&[&make("DENY")]),
    );
    (must, may)
}

#[test]
fn request_principals_are_split_at_the_last_slash() {
    for (value, must, may) in [
        ("https://idp/x/alice", true, true),
        ("*", true, true),
        ("https://idp/x/*", true, true),
        ("https://idp/x/al*", true, true),
        ("*/alice", true, true),
        ("*/x/alice", true, true),
        ("*alice", true, true),
        ("https://*", false, true),
        ("https:*", true, true),
        ("https://idp/x", false, false),
        ("https://idp/x/ali", false, false),
        ("https://idp/x/bob", false, false),
        ("https://idp/*", false, true),
        ("alice", false, false),
    ] {
        let list = format!(r#"{{"requestPrincipals":["{value}"]}}"#);
        let make = |action: &str| source(action, &list);
        assert_eq!(readings(&with_token(), &make), (must, may), "{value}");
        let list = format!(r#"{{"notRequestPrincipals":["{value}"]}}"#);
        let make = |action: &str| source(action, &list);
        assert_eq!(readings(&with_token(), &make), (!may, !must), "not {value}");
        let condition = format!(r#"{{"key":"request.auth.principal","values":["{value}"]}}"#);
        let make = |action: &str| when(action, &condition);
        assert_eq!(readings(&with_token(), &make), (must, may), "when {value}");
    }
}

#[test]
fn two_principals_of_one_spelling_are_told_apart() {
    let other = Case::get("/").token(r#"{"iss":"a","sub":"b/c"}"#);
    let make = |action: &str| source(action, r#"{"requestPrincipals":["a/b/c"]}"#);
    assert_eq!(readings(&other, &make), (false, true));
    let same = Case::get("/").token(r#"{"iss":"a/b","sub":"c"}"#);
    assert_eq!(readings(&same, &make), (true, true));
}

#[test]
fn without_a_token_nothing_matches_and_every_negation_does() {
    for anonymous in [Case::get("/"), Case::get("/").token(r#"{"iss":"i"}"#)] {
        let list = |name: &str| format!(r#"{{"{name}":["*"]}}"#);
        let positive = |action: &str| source(action, &list("requestPrincipals"));
        assert_eq!(readings(&anonymous, &positive), (false, false));
        let negative = |action: &str| source(action, &list("notRequestPrincipals"));
        assert_eq!(readings(&anonymous, &negative), (true, true));
    }
    for key in [
        "claims[x]",
        "claims[x][y]",
        "audiences",
        "presenter",
        "principal",
    ] {
        let condition = |list: &str| format!(r#"{{"key":"request.auth.{key}","{list}":["*"]}}"#);
        let positive = |action: &str| when(action, &condition("values"));
        assert_eq!(
            readings(&Case::get("/"), &positive),
            (false, false),
            "{key}"
        );
        let negative = |action: &str| when(action, &condition("notValues"));
        assert_eq!(readings(&Case::get("/"), &negative), (true, true), "{key}");
    }
}

#[test]
fn claims_are_texts_and_lists_of_them() {
    for (key, value, must, may) in [
        ("claims[iss]", "https://idp/x", true, true),
        ("audiences", "b", true, true),
        ("audiences", "c", false, false),
        ("claims[aud]", "a", true, true),
        ("presenter", "app", true, true),
        ("presenter", "ap*", true, true),
        ("claims[roles]", "admin", true, true),
        ("claims[roles]", "*min", true, true),
        ("claims[roles]", "root", false, false),
        ("claims[realm][roles]", "deep", true, true),
        ("claims[realm][name]", "n", true, true),
        ("claims[realm]", "n", false, false),
        ("claims[realm]", "*", false, true),
        ("claims[realm][roles][deep]", "*", false, false),
        ("claims[scope]", "write", true, true),
        ("claims[scope]", "read write", false, true),
        ("claims[words]", "two", true, true),
        ("claims[text]", "two", false, false),
        ("claims[text]", "one two", true, true),
        ("claims[admin]", "true", false, true),
        ("claims[level]", "3", false, true),
        ("claims[level]", "4", false, false),
        ("claims[empty]", "*", false, false),
        ("claims[none]", "*", false, false),
    ] {
        let condition = format!(r#"{{"key":"request.auth.{key}","values":["{value}"]}}"#);
        let make = |action: &str| when(action, &condition);
        assert_eq!(readings(&with_token(), &make), (must, may), "{key} {value}");
        let condition = format!(r#"{{"key":"request.auth.{key}","notValues":["{value}"]}}"#);
        let make = |action: &str| when(action, &condition);
        assert_eq!(
            readings(&with_token(), &make),
            (!may, !must),
            "{key} not {value}"
        );
    }
}

#[test]
fn a_token_does_not_belong_to_opaque_bytes() {
    let bytes = Case {
        token: with_token().token,
        ..Case::tcp()
    };
    let make = |action: &str| source(action, r#"{"requestPrincipals":["*"]}"#);
    assert_eq!(readings(&bytes, &make), (false, true));
}
