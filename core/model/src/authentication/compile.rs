//! From RequestAuthentications to rules, and what makes one invalid.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName};

use super::spec::JwtRuleSpec;
use super::{
    AttachedAuthentication, Authentication, Jwks, JwksLocation, JwtRule, KeySource,
    RequestAuthenticationSpec, TokenLocation,
};
use crate::finding::Finding;
use crate::mesh::duration_ms;
use crate::names::ObjectRef;

/// How long a request waits for keys where its rule does not say (Istio).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers that the proxy itself lives by: no claim is written there.
const RESERVED: [&str; 5] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
];

pub(super) fn compile(attached: &[AttachedAuthentication]) -> (Authentication, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut rules = Vec::new();
    for one in attached {
        for (index, spec) in one.spec.jwt_rules.iter().enumerate() {
            rules.push(Arc::new(rule(&one.object, index, spec, &mut findings)));
        }
    }
    rules.sort_by(|a, b| {
        let key = |rule: &JwtRule| (Arc::clone(&rule.issuer), rule.object.clone(), rule.index);
        key(a).cmp(&key(b))
    });
    (Authentication { rules }, findings)
}

/// What makes a RequestAuthentication invalid by itself (as Istio's own validation has it), as field
/// and reason.
#[must_use]
pub fn problems(spec: &RequestAuthenticationSpec) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        let at = |field: &str| format!("spec.jwtRules[{index}].{field}");
        let mut problem = |field: &str, reason: &str| problems.push((at(field), reason.to_owned()));
        if rule.issuer.is_empty() {
            problem("issuer", "a rule must name its issuer");
        }
        if rule.audiences.iter().any(|it| it.is_empty()) {
            problem("audiences", "an audience must not be empty");
        }
        if let Some(uri) = &rule.jwks_uri
            && let Err(reason) = check_uri(uri)
        {
            problem("jwksUri", reason);
        }
        if rule.jwks_uri.is_none() && rule.jwks.is_none() && check_uri(&rule.issuer).is_err() {
            problem(
                "issuer",
                "without jwks and jwksUri the keys are found by the issuer, which must then be a \
                 http or https URL",
            );
        }
        for (at, header) in rule.from_headers.iter().enumerate() {
            if header_name(&header.name).is_none() {
                problem(&format!("fromHeaders[{at}].name"), "it is no header name");
            }
        }
        for (field, names) in [
            ("fromParams", &rule.from_params),
            ("fromCookies", &rule.from_cookies),
            ("spaceDelimitedClaims", &rule.space_delimited_claims),
        ] {
            if names.iter().any(|it| it.is_empty()) {
                problem(field, "a name must not be empty");
            }
        }
        if let Some(name) = &rule.output_payload_to_header
            && output_name(name).is_none()
        {
            problem("outputPayloadToHeader", "it is no header that may be set");
        }
        for (at, output) in rule.output_claim_to_headers.iter().enumerate() {
            if output_name(&output.header).is_none() {
                let field = format!("outputClaimToHeaders[{at}].header");
                problem(&field, "it is no header that may be set");
            }
            if output.claim.is_empty() {
                let field = format!("outputClaimToHeaders[{at}].claim");
                problem(&field, "it must name a claim");
            }
        }
        if let Some(timeout) = &rule.timeout
            && duration_ms(timeout).is_none_or(|ms| ms == 0)
        {
            problem("timeout", "it must be a duration such as 5s");
        }
    }
    problems
}

fn check_uri(text: &str) -> Result<(), &'static str> {
    let uri: http::Uri = text.parse().map_err(|_| "it is no URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("it must be a http or https URL");
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') => Ok(()),
        _ => Err("it must name a host, and no user"),
    }
}

fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
}

fn output_name(name: &str) -> Option<HeaderName> {
    header_name(name).filter(|name| !RESERVED.contains(&name.as_str()))
}

fn rule(
    object: &ObjectRef,
    index: usize,
    spec: &JwtRuleSpec,
    findings: &mut Vec<Finding>,
) -> JwtRule {
    let timeout = spec.timeout.as_deref().and_then(duration_ms);
    JwtRule {
        object: object.clone(),
        index,
        issuer: Arc::clone(&spec.issuer),
        audiences: spec.audiences.clone(),
        keys: keys(object, index, spec, findings),
        locations: locations(spec),
        forward_original_token: spec.forward_original_token,
        output_payload_to_header: spec
            .output_payload_to_header
            .as_deref()
            .and_then(output_name),
        output_claims: spec
            .output_claim_to_headers
            .iter()
            .filter_map(|output| {
                let path = output.claim.split('.').map(Arc::from).collect();
                Some((output_name(&output.header)?, path))
            })
            .collect(),
        timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
        space_delimited_claims: spec.space_delimited_claims.as_slice().into(),
    }
}

fn keys(
    object: &ObjectRef,
    index: usize,
    spec: &JwtRuleSpec,
    findings: &mut Vec<Finding>,
) -> KeySource {
    let Some(text) = &spec.jwks else {
        return KeySource::Remote(match &spec.jwks_uri {
            Some(uri) => JwksLocation::Uri(Arc::clone(uri)),
            None => JwksLocation::Discovery(Arc::clone(&spec.issuer)),
        });
    };
    let mut report = |finding: Finding| {
        findings.push(
            finding
                .on(object)
                .field(format!("spec.jwtRules[{index}].jwks")),
        );
    };
    let set = match Jwks::parse(text.as_bytes()) {
        Ok(set) => {
            for reason in &set.left_out {
                report(Finding::error(format!("{reason}; it verifies nothing")));
            }
            if set.keys.is_empty() && set.left_out.is_empty() {
                let reason = "it holds no key; every token of the issuer is rejected";
                report(Finding::error(reason));
            }
            set
        }
        Err(error) => {
            let reason = format!("{error}; every token of the issuer is rejected");
            report(Finding::error(reason).remedy("write a JSON Web Key Set (RFC 7517)"));
            Jwks::default()
        }
    };
    KeySource::Inline(Arc::new(set))
}

/// Istio's defaults count only where no place at all is named.
fn locations(spec: &JwtRuleSpec) -> Vec<TokenLocation> {
    let headers = spec.from_headers.iter().filter_map(|header| {
        let name = header_name(&header.name)?;
        Some(TokenLocation::Header(name, Arc::clone(&header.prefix)))
    });
    let params = spec.from_params.iter().cloned().map(TokenLocation::Param);
    let cookies = spec.from_cookies.iter().cloned().map(TokenLocation::Cookie);
    let named: Vec<TokenLocation> = headers.chain(params).chain(cookies).collect();
    if !named.is_empty() {
        return named;
    }
    vec![
        TokenLocation::Header(AUTHORIZATION, "Bearer ".into()),
        TokenLocation::Param("access_token".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rule: &str) -> RequestAuthenticationSpec {
        serde_json::from_str(&format!("{{\"jwtRules\":[{rule}]}}")).unwrap()
    }

    fn compiled(rule: &str) -> (Authentication, Vec<Finding>) {
        let attached = AttachedAuthentication {
            object: ObjectRef::new("RequestAuthentication", "foo", "jwt"),
            spec: Arc::new(spec(rule)),
        };
        Authentication::compile(&[attached])
    }

    #[test]
    fn what_istio_refuses_is_invalid() {
        for (rule, field) in [
            (r#"{}"#, "issuer"),
            (r#"{"issuer":"nobody"}"#, "issuer"),
            (
                r#"{"issuer":"i","jwksUri":"file:///etc/passwd"}"#,
                "jwksUri",
            ),
            (
                r#"{"issuer":"i","jwksUri":"https://a:b@c/keys"}"#,
                "jwksUri",
            ),
            (r#"{"issuer":"i","jwksUri":"keys"}"#, "jwksUri"),
            (r#"{"issuer":"i","jwks":"","audiences":[""]}"#, "audiences"),
            (
                r#"{"issuer":"i","jwks":"","fromHeaders":[{"name":"a b"}]}"#,
                "fromHeaders[0].name",
            ),
            (
                r#"{"issuer":"i","jwks":"","fromParams":[""]}"#,
                "fromParams",
            ),
            (
                r#"{"issuer":"i","jwks":"","outputPayloadToHeader":"Host"}"#,
                "outputPayloadToHeader",
            ),
            (
                r#"{"issuer":"i","jwks":"","outputClaimToHeaders":[{"header":"x"}]}"#,
                "outputClaimToHeaders[0].claim",
            ),
            (
                r#"{"issuer":"i","jwks":"","outputClaimToHeaders":[{"header":"\n","claim":"a"}]}"#,
                "outputClaimToHeaders[0].header",
            ),
            (r#"{"issuer":"i","jwks":"","timeout":"soon"}"#, "timeout"),
        ] {
            let found = problems(&spec(rule));
            let expected = format!("spec.jwtRules[0].{field}");
            assert!(
                found.iter().any(|(at, _)| *at == expected),
                "{rule}: {found:?}"
            );
        }
        for good in [
            r#"{"issuer":"https://accounts.example.com"}"#,
            r#"{"issuer":"i","jwksUri":"http://keys.example.com:8080/x?y=z","timeout":"0.5s"}"#,
            r#"{"issuer":"i","jwks":"{}","fromCookies":["c"]}"#,
        ] {
            assert_eq!(problems(&spec(good)), [], "{good}");
        }
    }

    #[test]
    fn default_places_count_where_none_is_named() {
        let places = |rule: &str| compiled(rule).0.rules()[0].locations.clone();
        let defaults = places(r#"{"issuer":"i","jwks":"{\"keys\":[]}"}"#);
        assert_eq!(
            defaults,
            [
                TokenLocation::Header(AUTHORIZATION, "Bearer ".into()),
                TokenLocation::Param("access_token".into())
            ]
        );
        let named = places(r#"{"issuer":"i","jwks":"","fromCookies":["c"]}"#);
        assert_eq!(named, [TokenLocation::Cookie("c".into())]);
    }

    #[test]
    fn keys_come_from_the_rule_then_its_uri_then_its_issuer() {
        let source = |rule: &str| compiled(rule).0.rules()[0].keys.clone();
        assert!(matches!(
            source(r#"{"issuer":"https://i","jwks":"x","jwksUri":"https://k"}"#),
            KeySource::Inline(_)
        ));
        assert_eq!(
            source(r#"{"issuer":"https://i","jwksUri":"https://k"}"#),
            KeySource::Remote(JwksLocation::Uri("https://k".into()))
        );
        assert_eq!(
            source(r#"{"issuer":"https://i"}"#),
            KeySource::Remote(JwksLocation::Discovery("https://i".into()))
        );
    }

    #[test]
    fn keys_that_can_not_be_read_are_found_and_the_rule_stays() {
        for bad in ["x", r#"{\"keys\":[]}"#, r#"{\"keys\":[{\"kty\":\"oct\"}]}"#] {
            let (authentication, findings) =
                compiled(&format!(r#"{{"issuer":"i","jwks":"{bad}"}}"#));
            assert_eq!(authentication.rules().len(), 1);
            assert_eq!(findings.len(), 1, "{bad}");
        }
    }
}
