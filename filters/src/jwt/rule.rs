//! One rule, ready to use: whether it is meant for a token, whether the token is good, and what a good
//! one brings about.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use wayline_chain::RequestContext;
use wayline_model::authentication::{JwtRule, KeySource, TokenLocation, VerifiedToken};
use wayline_model::defence::stands;

use super::find;
use super::keys::KeySet;
use super::refusal::Refusal;
use super::remote::{RemoteKeySet, RemoteKeys};
use super::token::Token;
use super::{keep, set_header};

/// How far clocks may be apart, in seconds (Envoy's default).
const SKEW: u64 = 60;

/// One rule.
pub(super) struct Rule {
    rule: Arc<JwtRule>,
    audiences: Vec<Box<str>>,
    keys: Keys,
}

enum Keys {
    Inline(Rc<KeySet>),
    Remote(RemoteKeySet),
}

/// Whether a token is good.
pub(super) enum Check {
    Good,
    Bad(Refusal),
    /// It may be, under keys that can be asked for; else it is refused like this.
    NeedsKeys {
        refusal: Refusal,
    },
}

impl Rule {
    pub(super) fn new(rule: &Arc<JwtRule>, remote: &RemoteKeys) -> Self {
        Self {
            audiences: rule.audiences.iter().map(|it| bare(it).into()).collect(),
            keys: match &rule.keys {
                KeySource::Inline(set) => Keys::Inline(Rc::new(KeySet::new(set))),
                KeySource::Remote(location) => {
                    Keys::Remote(RemoteKeySet::new(location.clone(), remote))
                }
            },
            rule: Arc::clone(rule),
        }
    }

    /// Whether the rule is about tokens of this issuer, found in this place.
    pub(super) fn is_meant(&self, token: &Token<'_>, place: &TokenLocation) -> bool {
        *self.rule.issuer == *token.issuer() && self.rule.locations.contains(place)
    }

    /// Judges times, audience and signature, in Envoy's order.
    pub(super) fn check(&self, token: &Token<'_>, now: u64) -> Check {
        let timely = stands("token-times");
        if timely
            && token
                .not_before
                .is_some_and(|at| at > now.saturating_add(SKEW))
        {
            return Check::Bad(Refusal::NotYetValid);
        }
        if timely
            && token
                .expires
                .is_some_and(|at| now > at.saturating_add(SKEW))
        {
            return Check::Bad(Refusal::Expired);
        }
        if !self.admits_audience(token) {
            return Check::Bad(Refusal::Audience);
        }
        match &self.keys {
            Keys::Inline(keys) => keys.verify(token).map_or_else(Check::Bad, |()| Check::Good),
            Keys::Remote(remote) => {
                let current = remote.current();
                let Some(keys) = current.keys else {
                    let refusal = Refusal::NoKeys;
                    return match current.may_come {
                        true => Check::NeedsKeys { refusal },
                        false => Check::Bad(refusal),
                    };
                };
                match keys.verify(token) {
                    Ok(()) => Check::Good,
                    // A key that is not known may be a new one. A bad signature under a known key is
                    // no reason to ask.
                    Err(refusal @ (Refusal::UnknownKey | Refusal::NoValidKeys))
                        if current.may_come =>
                    {
                        Check::NeedsKeys { refusal }
                    }
                    Err(refusal) => Check::Bad(refusal),
                }
            }
        }
    }

    /// Asks for the rule's keys and waits for them, but no longer than the rule allows.
    pub(super) fn fetched(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        let Keys::Remote(remote) = &self.keys else {
            return Box::pin(std::future::ready(()));
        };
        let fetched = remote.fetched();
        let timeout = self.rule.timeout;
        Box::pin(async move {
            // Late keys are no keys: the request is judged with what is known then.
            let _ = tokio::time::timeout(timeout, fetched).await;
        })
    }

    /// Takes a good token: tells everybody what it says, and takes it away unless it shall go on.
    pub(super) fn accept(
        &self,
        token: Token<'_>,
        place: &TokenLocation,
        context: &mut RequestContext,
    ) {
        if !self.rule.forward_original_token {
            find::remove(place, context);
        }
        if let Some(name) = &self.rule.output_payload_to_header {
            set_header(context, name, token.payload);
        }
        let delimited = Arc::clone(&self.rule.space_delimited_claims);
        let verified = VerifiedToken::new(token.claims, delimited);
        for (name, path) in &self.rule.output_claims {
            if let Some(text) = verified.claim(path).and_then(as_header) {
                set_header(context, name, &text);
            }
        }
        keep(context, verified);
    }

    fn admits_audience(&self, token: &Token<'_>) -> bool {
        if self.audiences.is_empty() || !stands("token-audience") {
            return true;
        }
        let named = |text: &Value| {
            let text = text.as_str().map(bare);
            text.is_some_and(|text| self.audiences.iter().any(|it| **it == *text))
        };
        match token.claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(named),
            Some(one) => named(one),
            None => false,
        }
    }
}

/// An audience without scheme and trailing slash, as Envoy compares them.
fn bare(audience: &str) -> &str {
    let bare = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// A claim as a header's text: lists and objects as JSON in base64url.
fn as_header(claim: &Value) -> Option<String> {
    match claim {
        Value::Null => None,
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Bool(_) | Value::Number(_) => Some(claim.to_string()),
        Value::Array(_) | Value::Object(_) => Some(URL_SAFE_NO_PAD.encode(claim.to_string())),
    }
}
