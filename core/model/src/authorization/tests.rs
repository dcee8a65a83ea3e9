//! Istio's truth table, row by row; then the matcher against one that knows no compilation.

mod property;
mod reference;
mod token;

use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::finding::Severity;
use crate::identity::TrustDomain;
use crate::request::PathNormalization;

/// What is asked, and by whom.
struct Case {
    identity: Option<Identity>,
    source: &'static str,
    remote: &'static str,
    destination: Option<&'static str>,
    port: u16,
    sni: Option<&'static str>,
    request: Option<CanonicalRequest>,
    token: Option<VerifiedToken>,
}

impl Case {
    fn get(path: &str) -> Self {
        Self {
            identity: Some("spiffe://cluster.local/ns/foo/sa/app".parse().unwrap()),
            source: "10.0.0.1",
            remote: "192.0.2.1",
            destination: Some("10.96.0.1"),
            port: 9080,
            sni: None,
            request: Some(request("GET", "reviews", path, &[])),
            token: None,
        }
    }

    fn tcp() -> Self {
        Self {
            request: None,
            ..Self::get("/")
        }
    }

    fn by(mut self, identity: &str) -> Self {
        self.identity = match identity {
            "" => None,
            path => Some(format!("spiffe://{path}").parse().unwrap()),
        };
        self
    }

    fn host(mut self, host: &str) -> Self {
        self.request = Some(request("GET", host, "/", &[]));
        self
    }

    fn headers(mut self, headers: &[(&str, &str)]) -> Self {
        self.request = Some(request("GET", "reviews", "/", headers));
        self
    }

    /// With a verified token that says this.
    fn token(mut self, claims: &str) -> Self {
        let claims = serde_json::from_str(claims).unwrap();
        self.token = Some(VerifiedToken::new(claims, Arc::from([Arc::from("words")])));
        self
    }

    fn judge(&self, authorization: &Authorization) -> Judgement {
        authorization.judge(&self.input())
    }

    fn trace<'a>(&self, authorization: &'a Authorization) -> Trace<'a> {
        authorization.trace(&self.input())
    }

    fn input(&self) -> PolicyInput<'_> {
        PolicyInput {
            identity: self.identity.as_ref(),
            source_ip: self.source.parse().unwrap(),
            remote_ip: self.remote.parse().unwrap(),
            destination_ip: self.destination.map(|ip| ip.parse().unwrap()),
            destination_port: self.port,
            sni: self.sni,
            request: self.request.as_ref(),
            token: self.token.as_ref(),
        }
    }

    /// Whether it passes policies given as JSON specs.
    fn passes(&self, specs: &[&str]) -> bool {
        self.passes_all(&compile(specs).0)
    }

    /// Whether it passes, with providers that refuse whatever they are asked about.
    fn passes_all(&self, authorization: &Authorization) -> bool {
        let asked = |group: &CustomRules| group.asks(&self.input()).is_some();
        !authorization.custom().iter().any(asked) && self.judge(authorization).verdict.is_allowed()
    }
}

fn request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> CanonicalRequest {
    let mut map = HeaderMap::new();
    map.insert("host", HeaderValue::from_str(host).unwrap());
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    CanonicalRequest::new(
        method.parse().unwrap(),
        &path.parse().unwrap(),
        Version::HTTP_11,
        map,
        PathNormalization::Base,
    )
    .unwrap()
}

fn policy(name: &str, spec: &str) -> AttachedPolicy {
    AttachedPolicy {
        namespace: "foo".into(),
        name: name.into(),
        spec: Arc::new(serde_json::from_str(spec).unwrap()),
        dry_run: false,
        creation: None,
    }
}

fn mesh() -> MeshSettings {
    MeshSettings {
        trust_domain_aliases: vec![TrustDomain::parse("old-td").unwrap()],
        ..MeshSettings::default()
    }
}

fn compile(specs: &[&str]) -> (Authorization, Vec<Finding>) {
    let specs = specs.iter().enumerate();
    let policies: Vec<_> = specs
        .map(|(at, spec)| policy(&format!("p{at}"), spec))
        .collect();
    Authorization::compile(&policies, &mesh())
}

const ALLOW_ALL: &str = r#"{"rules":[{}]}"#;
const ALLOW_NONE: &str = "{}";
const DENY_ALL: &str = r#"{"action":"DENY","rules":[{}]}"#;
const DENY_NONE: &str = r#"{"action":"DENY"}"#;

fn source(action: &str, source: &str) -> String {
    format!(r#"{{"action":"{action}","rules":[{{"from":[{{"source":{source}}}]}}]}}"#)
}

fn operation(action: &str, operation: &str) -> String {
    format!(r#"{{"action":"{action}","rules":[{{"to":[{{"operation":{operation}}}]}}]}}"#)
}

fn when(action: &str, condition: &str) -> String {
    format!(r#"{{"action":"{action}","rules":[{{"when":[{condition}]}}]}}"#)
}

#[test]
fn deny_comes_before_allow_and_one_allow_must_match() {
    let get = Case::get("/a");
    assert!(get.passes(&[]));
    assert!(get.passes(&[ALLOW_ALL]));
    assert!(get.passes(&[ALLOW_NONE, ALLOW_ALL]));
    assert!(!get.passes(&[ALLOW_ALL, DENY_ALL]));
    let other = operation("ALLOW", r#"{"paths":["/b"]}"#);
    assert!(!get.passes(&[&other]));
    assert!(get.passes(&[&other, &operation("ALLOW", r#"{"paths":["/a"]}"#)]));
    assert!(get.passes(&[r#"{"action":"AUDIT","rules":[{}]}"#]));
}

#[test]
fn missing_rules_never_match_and_empty_rules_always_do() {
    let get = Case::get("/a");
    assert!(!get.passes(&[ALLOW_NONE]));
    assert!(!get.passes(&[r#"{"rules":[]}"#]));
    assert!(get.passes(&[DENY_NONE]));
    assert!(!get.passes(&[DENY_ALL]));
    assert!(get.passes(&[r#"{"rules":[{"from":[]}]}"#]));
    for empty in ["{}", r#"{"source":{}}"#] {
        let rule = format!(r#"{{"rules":[{{"from":[{empty}]}}]}}"#);
        let (authorization, findings) = compile(&[&rule]);
        assert!(get.judge(&authorization).verdict.is_allowed());
        assert_eq!(findings[0].severity, Severity::Hint);
    }
}

#[test]
fn values_are_alternatives_and_fields_are_not() {
    let get = Case::get("/a");
    assert!(get.passes(&[&operation("ALLOW", r#"{"paths":["/b","/a"]}"#)]));
    assert!(get.passes(&[&operation("ALLOW", r#"{"paths":["/a"],"methods":["GET"]}"#)]));
    assert!(!get.passes(&[&operation(
        "ALLOW",
        r#"{"paths":["/a"],"methods":["POST"]}"#
    )]));
    assert!(get.passes(&[&operation("ALLOW", r#"{"paths":["/*"],"notPaths":["/b"]}"#)]));
    assert!(!get.passes(&[&operation("ALLOW", r#"{"paths":["/*"],"notPaths":["/a"]}"#)]));
    let entries = r#"{"rules":[{"from":[{"source":{"namespaces":["bar"]}},{"source":{"namespaces":["foo"]}}],
        "to":[{"operation":{"ports":["1"]}},{"operation":{"ports":["9080"]}}],
        "when":[{"key":"source.ip","values":["10.0.0.0/8"]},{"key":"destination.port","notValues":["1"]}]}]}"#;
    assert!(get.passes(&[entries]));
    assert!(!get.passes(&[&entries.replace("notValues", "values")]));
}

#[test]
fn identities_are_compared_by_their_parts() {
    let td = |path: &str| format!("cluster.local/{path}");
    for (list, caller, passes) in [
        (
            r#""principals":["cluster.local/ns/foo/sa/app"]"#,
            td("ns/foo/sa/app"),
            true,
        ),
        (
            r#""principals":["cluster.local/ns/foo/*"]"#,
            td("ns/foo/sa/app"),
            true,
        ),
        (r#""principals":["*/sa/app"]"#, td("ns/bar/sa/app"), true),
        (r#""principals":["*"]"#, td("ns/bar/sa/app"), true),
        (r#""principals":["*"]"#, String::new(), false),
        // Aliases stand for the mesh, in either direction, and nobody else does.
        (
            r#""principals":["cluster.local/ns/foo/sa/app"]"#,
            "old-td/ns/foo/sa/app".into(),
            true,
        ),
        (
            r#""principals":["old-td/ns/foo/sa/app"]"#,
            td("ns/foo/sa/app"),
            true,
        ),
        (
            r#""principals":["*-td/ns/foo/sa/app"]"#,
            td("ns/foo/sa/app"),
            true,
        ),
        (
            r#""principals":["other/ns/foo/sa/app"]"#,
            td("ns/foo/sa/app"),
            false,
        ),
        (
            r#""principals":["cluster.local/ns/foo/sa/app"]"#,
            "other/ns/foo/sa/app".into(),
            false,
        ),
        (
            r#""notPrincipals":["cluster.local/ns/foo/sa/app"]"#,
            "old-td/ns/foo/sa/app".into(),
            false,
        ),
        (
            r#""trustDomains":["cluster.local"]"#,
            "old-td/ns/foo/sa/app".into(),
            true,
        ),
        (
            r#""trustDomains":["cluster.local"]"#,
            "other/ns/foo/sa/app".into(),
            false,
        ),
        (
            r#""trustDomains":["cluster*"]"#,
            "old-td/ns/foo/sa/app".into(),
            true,
        ),
        (
            r#""trustDomains":["oth*"]"#,
            "other/ns/foo/sa/app".into(),
            true,
        ),
        (
            r#""notTrustDomains":["old-td"]"#,
            td("ns/foo/sa/app"),
            false,
        ),
        // I01, I02: names are no patterns.
        (
            r#""serviceAccounts":["foo/a.b"]"#,
            td("ns/foo/sa/axb"),
            false,
        ),
        (
            r#""serviceAccounts":["foo/a.b"]"#,
            td("ns/foo/sa/a.b"),
            true,
        ),
        (r#""serviceAccounts":["app"]"#, td("ns/foo/sa/app"), true),
        (r#""serviceAccounts":["app"]"#, td("ns/bar/sa/app"), false),
        (r#""namespaces":["n[1]"]"#, td("ns/n1/sa/app"), false),
        (r#""namespaces":["foo"]"#, td("ns/foo-evil/sa/app"), false),
        (r#""namespaces":["foo*"]"#, td("ns/foo-evil/sa/app"), true),
        (r#""namespaces":["f*-e*l"]"#, td("ns/foo-evil/sa/app"), true),
        (r#""namespaces":["foo"]"#, td("ns/bar/sa/foo"), false),
        (r#""namespaces":["foo"]"#, String::new(), false),
        (r#""notNamespaces":["foo"]"#, String::new(), true),
    ] {
        let case = Case::get("/").by(&caller);
        let allow = source("ALLOW", &format!("{{{list}}}"));
        assert_eq!(case.passes(&[&allow]), passes, "{caller} with {list}");
        let deny = source("DENY", &format!("{{{list}}}"));
        assert_eq!(case.passes(&[&deny]), !passes, "{caller} denied by {list}");
    }
}

#[test]
fn cluster_local_means_the_mesh_whatever_its_name() {
    let mesh = MeshSettings {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        ..MeshSettings::default()
    };
    let allow = source("ALLOW", r#"{"principals":["cluster.local/ns/foo/sa/app"]}"#);
    let (authorization, _) = Authorization::compile(&[policy("p", &allow)], &mesh);
    let own = Case::get("/").by("example.org/ns/foo/sa/app");
    assert!(own.judge(&authorization).verdict.is_allowed());
}

#[test]
fn keys_that_are_not_known_tighten() {
    let get = Case::get("/");
    let keys = [
        "request.auth.claims",
        "request.auth.claims[]",
        "request.auth.claims[a",
        "request.auth.claims[a]b[c]",
        "request.auth.issuer",
        "experimental.envoy.filters.a.b[c]",
        "source.namspace",
        "request.headers",
        "request.headers[]",
        "request.headers[:path]",
    ];
    for key in keys {
        for list in ["values", "notValues"] {
            let condition = format!(r#"{{"key":"{key}","{list}":["x"]}}"#);
            assert!(!get.passes(&[&when("ALLOW", &condition)]), "{condition}");
            assert!(!get.passes(&[&when("DENY", &condition)]), "{condition}");
            let (_, findings) = compile(&[&when("DENY", &condition)]);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].severity, Severity::Error);
            let field = findings[0].field.as_deref().unwrap();
            assert!(field.starts_with("spec.rules[0].when[0]."), "{field}");
        }
    }
}

#[test]
fn values_that_can_not_be_understood_tighten_and_are_named() {
    for (kind, list) in [
        ("source", r#"{"ipBlocks":["10.0.0.0/33"]}"#),
        ("source", r#"{"notRemoteIpBlocks":["here"]}"#),
        ("source", r#"{"serviceAccounts":["foo/*"]}"#),
        ("source", r#"{"notServiceAccounts":["a/b/c"]}"#),
        (
            "source",
            r#"{"principals":["spiffe://cluster.local/ns/foo/sa/app"]}"#,
        ),
        ("source", r#"{"namespaces":[""]}"#),
        ("operation", r#"{"ports":["http"]}"#),
        ("operation", r#"{"notPorts":["0"]}"#),
        ("operation", r#"{"paths":["/{id}"]}"#),
        ("operation", r#"{"notPaths":["/{**}/{*}"]}"#),
    ] {
        let make = if kind == "source" { source } else { operation };
        for action in ["ALLOW", "DENY"] {
            let (authorization, findings) = compile(&[&make(action, list)]);
            assert!(
                !Case::get("/x").judge(&authorization).verdict.is_allowed(),
                "{action} {list}"
            );
            assert_eq!(findings.len(), 1, "{list}: {findings:?}");
            assert!(findings[0].remedy.is_some());
            assert_eq!(
                findings[0].object.as_deref(),
                Some("AuthorizationPolicy foo/p0")
            );
        }
    }
    assert!(!Case::get("/").passes(&[&when("DENY", r#"{"key":"source.ip"}"#)]));
    // A value beside the one that is understood does no harm where it is an alternative.
    let mixed = r#"{"paths":["/x","/{id}"]}"#;
    assert!(Case::get("/x").passes(&[&operation("ALLOW", mixed)]));
    assert!(!Case::get("/y").passes(&[&operation("ALLOW", mixed)]));
}

#[test]
fn opaque_bytes_are_denied_by_http_rules_and_never_allowed_by_them() {
    let tcp = Case::tcp();
    for list in [
        r#"{"paths":["/a"]}"#,
        r#"{"notPaths":["/a"]}"#,
        r#"{"methods":["GET"]}"#,
        r#"{"notHosts":["a"]}"#,
    ] {
        assert!(!tcp.passes(&[&operation("ALLOW", list)]), "{list}");
        assert!(!tcp.passes(&[&operation("DENY", list)]), "{list}");
    }
    let header = r#"{"key":"request.headers[x]","notValues":["a"]}"#;
    assert!(!tcp.passes(&[&when("ALLOW", header)]));
    assert!(!tcp.passes(&[&when("DENY", header)]));
    let mixed = r#"{"paths":["/a"],"ports":["1"]}"#;
    assert!(tcp.passes(&[&operation("DENY", mixed)]));
    assert!(tcp.passes(&[&operation("ALLOW", r#"{"ports":["9080"]}"#)]));
}

#[test]
fn addresses_ports_and_sni() {
    let case = Case {
        sni: Some("a.example.com"),
        source: "::ffff:10.0.0.1",
        ..Case::get("/")
    };
    for (condition, passes) in [
        (r#"{"key":"source.ip","values":["10.0.0.0/8"]}"#, true),
        (r#"{"key":"remote.ip","values":["10.0.0.0/8"]}"#, false),
        (r#"{"key":"remote.ip","notValues":["192.0.2.1"]}"#, false),
        (r#"{"key":"destination.ip","values":["10.96.0.1"]}"#, true),
        (r#"{"key":"destination.port","values":["9080"]}"#, true),
        (r#"{"key":"destination.port","values":["15008"]}"#, false),
        (
            r#"{"key":"connection.sni","values":["*.example.com"]}"#,
            true,
        ),
        (r#"{"key":"source.namespace","values":["foo"]}"#, true),
        (
            r#"{"key":"source.principal","notValues":["*/sa/app"]}"#,
            false,
        ),
        (
            r#"{"key":"source.serviceAccount","values":["foo/app"]}"#,
            true,
        ),
        (
            r#"{"key":"source.trustDomain","values":["cluster.local"]}"#,
            true,
        ),
    ] {
        assert_eq!(
            case.passes(&[&when("ALLOW", condition)]),
            passes,
            "{condition}"
        );
        assert_eq!(
            case.passes(&[&when("DENY", condition)]),
            !passes,
            "{condition}"
        );
    }
    let blocks = r#"{"ipBlocks":["10.0.0.1"],"notRemoteIpBlocks":["10.0.0.0/8"]}"#;
    assert!(case.passes(&[&source("ALLOW", blocks)]));
    // Where the client named no address, one may have been meant.
    let unnamed = Case {
        destination: None,
        ..Case::get("/")
    };
    let anywhere = r#"{"key":"destination.ip","values":["0.0.0.0/0"]}"#;
    assert!(!unnamed.passes(&[&when("ALLOW", anywhere)]));
    assert!(!unnamed.passes(&[&when("DENY", anywhere)]));
    // Without SNI nothing is present.
    let sni = r#"{"key":"connection.sni","values":["*"]}"#;
    assert!(!Case::get("/").passes(&[&when("ALLOW", sni)]));
}

#[test]
fn hosts_refuse_in_every_reading_and_admit_as_written() {
    let deny = operation("DENY", r#"{"hosts":["Secret.com"]}"#);
    let allow = operation("ALLOW", r#"{"hosts":["Secret.com"]}"#);
    let unless = operation("ALLOW", r#"{"notHosts":["secret.com"]}"#);
    for (host, denied, allowed) in [
        ("SECRET.com", true, true),
        ("secret.com:8080", true, false),
        ("secret.com:080", true, false),
        ("secret.com.", true, false),
        ("secret.com.:80", true, false),
        ("secret.com.evil", false, false),
        ("other.com", false, false),
    ] {
        let case = Case::get("/").host(host);
        assert_eq!(!case.passes(&[&deny]), denied, "DENY on {host}");
        assert_eq!(case.passes(&[&allow]), allowed, "ALLOW on {host}");
        assert_eq!(
            case.passes(&[&unless]),
            !denied,
            "ALLOW but for it on {host}"
        );
        let header = when(
            "DENY",
            r#"{"key":"request.headers[Host]","values":["secret.com"]}"#,
        );
        assert_eq!(!case.passes(&[&header]), denied, "DENY by header on {host}");
    }
}

#[test]
fn headers_refuse_by_any_line_and_admit_by_all() {
    let condition = |list: &str, value: &str| {
        format!(r#"{{"key":"request.headers[X-Role]","{list}":["{value}"]}}"#)
    };
    for (sent, list, value, may, must) in [
        (&[][..], "values", "admin", false, false),
        (&["admin"], "values", "admin", true, true),
        (&["Admin"], "values", "admin", false, false),
        // N01, N02: several lines, and lists.
        (&["user", "admin"], "values", "admin", true, false),
        (&["user,admin"], "values", "admin", true, false),
        (&["user, admin"], "values", "admin", true, false),
        (&["user", "admin"], "values", "user,admin", true, false),
        (&["admin", "admin"], "values", "admin", true, true),
        (&["user,admin"], "values", "user*", true, true),
        // N05: presence is presence, also of nothing.
        (&[""], "values", "*", true, true),
        (&[], "values", "*", false, false),
        (&[], "notValues", "admin", true, true),
        (&["user,admin"], "notValues", "admin", true, false),
        (&["user", "admin"], "notValues", "user", true, false),
        (&["user"], "notValues", "user", false, false),
    ] {
        let headers: Vec<_> = sent.iter().map(|value| ("x-role", *value)).collect();
        let case = Case::get("/").headers(&headers);
        let condition = condition(list, value);
        assert_eq!(
            !case.passes(&[&when("DENY", &condition)]),
            may,
            "DENY {condition} on {sent:?}"
        );
        assert_eq!(
            case.passes(&[&when("ALLOW", &condition)]),
            must,
            "ALLOW {condition} on {sent:?}"
        );
    }
    // A user agent is a sentence, whatever commas it holds.
    let agent = Case::get("/").headers(&[("user-agent", "Mozilla (KHTML, curl)")]);
    let curl = r#"{"key":"request.headers[user-agent]","values":["curl*"]}"#;
    assert!(agent.passes(&[&when("DENY", curl)]));
}

#[test]
fn paths_are_judged_normalised_and_without_query() {
    let deny = operation("DENY", r#"{"paths":["/admin"]}"#);
    for (path, refused) in [
        ("/admin", true),
        ("/admin?", true),
        ("/admin?x=1", true),
        ("/x/../adm%69n", true),
        (r"/x\..\admin", true),
        ("//admin", false),
        ("/Admin", false),
        ("/admin/", false),
        ("/admin;x=1", false),
    ] {
        assert_eq!(!Case::get(path).passes(&[&deny]), refused, "{path}");
    }
    let template = operation("ALLOW", r#"{"paths":["/users/{*}","/files/{**}"]}"#);
    assert!(Case::get("/users/1").passes(&[&template]));
    assert!(Case::get("/files/a/b").passes(&[&template]));
    assert!(!Case::get("/users/1/x").passes(&[&template]));
}

#[test]
fn dry_run_policies_only_tell() {
    let mut deny = policy("would-deny", DENY_ALL);
    deny.dry_run = true;
    let mut allow = policy("would-allow", ALLOW_NONE);
    allow.dry_run = true;

    let (authorization, _) = Authorization::compile(&[deny], &mesh());
    assert!(!authorization.is_empty());
    let judgement = Case::get("/").judge(&authorization);
    assert_eq!(judgement.verdict, Verdict::Allow(None));
    let marks = judgement.marks.unwrap();
    let Some(Verdict::Deny(Some(rule))) = marks.dry_run() else {
        panic!("{marks:?}");
    };
    assert_eq!(rule.to_string(), "ns[foo]-policy[would-deny]-rule[0]");
    assert_eq!(marks.dry_run_allow, None);

    let (authorization, _) = Authorization::compile(&[allow], &mesh());
    let judgement = Case::get("/").judge(&authorization);
    assert_eq!(judgement.verdict, Verdict::Allow(None));
    let marks = judgement.marks.unwrap();
    assert_eq!(marks.dry_run(), Some(&Verdict::Deny(None)));
    assert_eq!(marks.dry_run_deny, None);

    assert_eq!(Case::get("/").judge(&compile(&[ALLOW_ALL]).0).marks, None);
}

#[test]
fn custom_refuses_what_it_would_have_asked_about() {
    let custom = operation("CUSTOM", r#"{"paths":["/admin"]}"#);
    assert!(!Case::get("/admin").passes(&[&custom]));
    assert!(Case::get("/").passes(&[&custom]));
    let (authorization, findings) = compile(&[&custom]);
    assert_eq!(findings[0].severity, Severity::Error);
    assert!(authorization.custom()[0].provider().is_err());
    // Nobody is asked about opaque bytes.
    let judgement = Case::tcp().judge(&authorization);
    assert!(matches!(judgement.verdict, Verdict::Deny(Some(_))));
}

#[test]
fn custom_rules_are_asked_by_provider() {
    let mesh = serde_json::json!({"extensionProviders": [
        {"name": "one", "envoyExtAuthzGrpc": {"service": "a.b", "port": 1}},
        {"name": "two", "envoyExtAuthzHttp": {"service": "a.b", "port": 2}},
    ]});
    let (mesh, findings) = MeshSettings::from_value(&mesh);
    assert_eq!(findings, []);
    let of = |name: &str, provider: &str, path: &str| {
        let spec = operation("CUSTOM", &format!(r#"{{"paths":["{path}"]}}"#));
        let spec = spec.replace(
            r#""action":"CUSTOM""#,
            &format!(r#""action":"CUSTOM","provider":{{"name":"{provider}"}}"#),
        );
        policy(name, &spec)
    };
    let mut dry = of("d", "none", "/d");
    dry.dry_run = true;
    let policies = [
        of("a", "two", "/a"),
        of("b", "one", "/b"),
        of("c", "two", "/c"),
        dry,
    ];
    let (authorization, findings) = Authorization::compile(&policies, &mesh);
    assert!(
        findings.iter().all(|it| it.severity == Severity::Hint),
        "{findings:?}"
    );
    let names: Vec<&str> = authorization
        .custom()
        .iter()
        .map(|it| &**it.name())
        .collect();
    assert_eq!(names, ["one", "two"]);
    for (path, one, two) in [
        ("/a", false, true),
        ("/b", true, false),
        ("/c", false, true),
        ("/d", false, false),
    ] {
        let case = Case::get(path);
        let asked: Vec<bool> = authorization
            .custom()
            .iter()
            .map(|group| group.asks(&case.input()).is_some())
            .collect();
        assert_eq!(asked, [one, two], "{path}");
        assert!(case.judge(&authorization).verdict.is_allowed());
    }
}

#[test]
fn audit_marks_and_changes_nothing() {
    let audit = operation("AUDIT", r#"{"paths":["/admin"]}"#);
    let (authorization, findings) = compile(&[&audit]);
    assert!(findings.is_empty() && !authorization.is_empty());
    let judgement = Case::get("/admin").judge(&authorization);
    assert!(judgement.verdict.is_allowed());
    assert_eq!(
        judgement.marks.unwrap().audited.unwrap().to_string(),
        "ns[foo]-policy[p0]-rule[0]"
    );
    let marks = Case::get("/").judge(&authorization).marks.unwrap();
    assert_eq!((marks.is_audit_asked, marks.audited), (true, None));
}

#[test]
fn deny_all_refuses_and_says_why() {
    let authorization = Authorization::deny_all("the policy foo/p never was valid");
    assert!(!authorization.is_empty());
    assert_eq!(
        Case::get("/").judge(&authorization).verdict,
        Verdict::Deny(None)
    );
    assert!(authorization.denied_because().is_some());
    assert!(Authorization::default().is_empty());
    assert!(compile(&[DENY_NONE]).0.is_empty());
    assert!(!compile(&[ALLOW_NONE]).0.is_empty());
}
