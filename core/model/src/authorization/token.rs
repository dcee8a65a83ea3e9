//! What policies compare with a verified token.
//!
//! *Must* is Istio's reading to the letter. *May* adds what recipients of the token may make of it: the
//! principal as one text, however many slashes issuer and subject hold, and claims that are numbers
//! or booleans as the text that stands for them, which Envoy never compares.

use std::sync::Arc;

use serde_json::Value;

use super::matcher::Need;
use super::text::TextSet;
use crate::authentication::VerifiedToken;

/// Request principals, `<issuer>/<subject>`.
#[derive(Clone, Debug)]
pub(super) struct PrincipalSet {
    /// As Istio splits them: at the last slash.
    halves: Vec<(TextSet, TextSet)>,
    /// As one text.
    whole: TextSet,
}

impl PrincipalSet {
    pub(super) fn new(values: &[&str]) -> Self {
        Self {
            halves: values.iter().map(|value| halves(value)).collect(),
            whole: TextSet::new(values),
        }
    }

    pub(super) fn matches(&self, token: Option<&VerifiedToken>, need: Need) -> bool {
        let Some((issuer, subject)) = token.and_then(|it| Some((it.issuer()?, it.subject()?)))
        else {
            return false;
        };
        let by_halves = self.halves.iter().any(|(of_issuer, of_subject)| {
            of_issuer.matches(issuer.as_bytes()) && of_subject.matches(subject.as_bytes())
        });
        by_halves
            || (need == Need::May && self.whole.matches(format!("{issuer}/{subject}").as_bytes()))
    }
}

/// What a value asks of issuer and subject (istiod: `requestPrincipalGenerator`).
fn halves(value: &str) -> (TextSet, TextSet) {
    let any = || TextSet::new(["*"]);
    let exact = |text: &str| TextSet::literal([text]);
    if value == "*" {
        return (any(), any());
    }
    let parts = value.rsplit_once('/');
    if value.starts_with('*') {
        return match parts {
            Some((issuer, subject)) => (TextSet::new([issuer]), exact(subject)),
            None => (any(), TextSet::new([value])),
        };
    }
    if value.ends_with('*') {
        return match parts {
            Some((issuer, subject)) => (exact(issuer), TextSet::new([subject])),
            None => (TextSet::new([value]), any()),
        };
    }
    match parts {
        Some((issuer, subject)) => (exact(issuer), exact(subject)),
        None => (exact(value), exact("")),
    }
}

/// Whether the claim at a path is one of the values: a text, a list of texts, or, for the claims that
/// are space-delimited, a word of the text.
pub(super) fn claim_matches(
    token: Option<&VerifiedToken>,
    path: &[Arc<str>],
    set: &TextSet,
    need: Need,
) -> bool {
    let Some((token, claim)) = token.and_then(|token| Some((token, token.claim(path)?))) else {
        return false;
    };
    let may = need == Need::May;
    match claim {
        Value::String(text) if token.is_space_delimited(path) && text.contains(' ') => {
            let mut words = text.split(' ').filter(|word| !word.is_empty());
            words.any(|word| set.matches(word.as_bytes())) || (may && set.matches(text.as_bytes()))
        }
        Value::Array(list) => list.iter().any(|element| scalar_matches(element, set, may)),
        other => scalar_matches(other, set, may),
    }
}

fn scalar_matches(value: &Value, set: &TextSet, may: bool) -> bool {
    match value {
        Value::String(text) => set.matches(text.as_bytes()),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) => may && set.matches(value.to_string().as_bytes()),
        Value::Array(_) | Value::Object(_) => may && set.has_any(),
    }
}
