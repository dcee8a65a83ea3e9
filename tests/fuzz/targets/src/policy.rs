//! AuthorizationPolicies, from their YAML to verdicts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use wayline_model::authorization::{
    AttachedPolicy, Authorization, AuthorizationPolicySpec, PolicyInput, spec::Action,
};
use wayline_model::mesh::MeshSettings;
use wayline_model::request::PathNormalization;
use wayline_model::{CanonicalRequest, Identity};

/// The spec of a policy as YAML: what can be read is judged the same by judge and trace; as a DENY it
/// refuses at least what it would admit as an ALLOW, and compiling it says so where it tightened.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(value) = wayline_control::yaml_value(text) else {
        return;
    };
    let Ok(spec) = serde_json::from_value::<AuthorizationPolicySpec>(value) else {
        return;
    };
    // Written out and read again it is the same.
    let written = serde_json::to_value(&spec).unwrap();
    assert_eq!(
        serde_json::from_value::<AuthorizationPolicySpec>(written).unwrap(),
        spec
    );

    let as_written = compile(spec.clone());
    let [allow, deny] = [Action::Allow, Action::Deny].map(|action| {
        compile(AuthorizationPolicySpec {
            action,
            ..spec.clone()
        })
    });
    let identities: [Option<Identity>; 3] = [
        None,
        Some("spiffe://cluster.local/ns/default/sa/a".parse().unwrap()),
        Some("spiffe://other/ns/team-a/sa/b.c".parse().unwrap()),
    ];
    for identity in &identities {
        for request in [None, Some(request("/admin")), Some(request("/x/y.html?q"))] {
            let input = PolicyInput {
                identity: identity.as_ref(),
                source_ip: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
                remote_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                destination_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))),
                destination_port: 80,
                sni: None,
                request: request.as_ref(),
                token: None,
            };
            let judgement = as_written.judge(&input);
            assert_eq!(as_written.trace(&input).judgement, judgement);
            // What must match may match: no rule admits something and yet fails to refuse it.
            let admitted = allow.judge(&input).verdict.is_allowed();
            let refused = !deny.judge(&input).verdict.is_allowed();
            assert!(!admitted || refused, "{spec:?}");
        }
    }
}

fn compile(spec: AuthorizationPolicySpec) -> Authorization {
    let policy = AttachedPolicy {
        namespace: "default".into(),
        name: "p".into(),
        spec: Arc::new(spec),
        dry_run: false,
        creation: None,
    };
    Authorization::compile(&[policy], &MeshSettings::default()).0
}

fn request(target: &'static str) -> CanonicalRequest {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::HOST, HeaderValue::from_static("a.com:80"));
    headers.append("x-role", HeaderValue::from_static("user"));
    headers.append("x-role", HeaderValue::from_static("admin, b"));
    let uri = Uri::from_static(target);
    let base = PathNormalization::Base;
    CanonicalRequest::new(Method::GET, &uri, Version::HTTP_11, headers, base).unwrap()
}
