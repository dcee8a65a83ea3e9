//! Request authentication: whose tokens a target takes, compiled when configuration changes.
//!
//! As in Istio the rules of all RequestAuthentications at a target are pooled; a request without a
//! token passes, one with a token that no rule accepts does not. Verifying signatures belongs to the
//! native filter; fetching keys to the control side. This room says which keys are wanted
//! ([`JwksLocation`]) and what a verified token tells policies ([`VerifiedToken`]).

mod book;
mod compile;
pub mod jwks;
pub mod spec;
mod token;

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;

use crate::finding::Finding;
use crate::names::ObjectRef;

pub use book::{JwksBook, REFETCH_INTERVAL, RemoteJwks};
pub use compile::problems;
pub use jwks::Jwks;
pub use spec::RequestAuthenticationSpec;
pub use token::VerifiedToken;

/// One RequestAuthentication that applies to a target.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachedAuthentication {
    /// The object.
    pub object: ObjectRef,
    /// What it says.
    pub spec: Arc<RequestAuthenticationSpec>,
}

/// The rules of one target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Authentication {
    rules: Vec<Arc<JwtRule>>,
}

/// Whose tokens are taken, from where, under which keys.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// The RequestAuthentication it stands in.
    pub object: ObjectRef,
    /// Its index there, from 0.
    pub index: usize,
    /// The claim `iss`, compared as it is.
    pub issuer: Arc<str>,
    /// Of which `aud` must name one; none means any.
    pub audiences: Vec<Arc<str>>,
    /// Where its keys are.
    pub keys: KeySource,
    /// Where its tokens may be found.
    pub locations: Vec<TokenLocation>,
    /// Whether the token goes on to the backend.
    pub forward_original_token: bool,
    /// Header that gets the payload, in base64url.
    pub output_payload_to_header: Option<HeaderName>,
    /// Headers that get claims, with the path of each.
    pub output_claims: Vec<(HeaderName, Vec<Arc<str>>)>,
    /// How long a request may wait for keys that are on their way.
    pub timeout: Duration,
    /// Claims that hold several values separated by spaces, besides those that always do.
    pub space_delimited_claims: Arc<[Arc<str>]>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// Written in the rule.
    Inline(Arc<Jwks>),
    /// To be fetched.
    Remote(JwksLocation),
}

/// Keys that have to be fetched.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum JwksLocation {
    /// `jwksUri`.
    Uri(Arc<str>),
    /// The issuer: its OpenID configuration names the address (OpenID Connect Discovery 1.0, §4).
    Discovery(Arc<str>),
}

impl std::fmt::Display for JwksLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::Discovery(issuer) => write!(f, "the OpenID configuration of {issuer}"),
        }
    }
}

/// A place in a request that may hold a token.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum TokenLocation {
    /// A header, behind a prefix.
    Header(HeaderName, Arc<str>),
    /// A parameter of the query.
    Param(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

impl Authentication {
    /// Compiles what applies to one target; the order of objects does not matter. A rule whose keys
    /// can not be read stays: it rejects the tokens of its issuer.
    #[must_use]
    pub fn compile(attached: &[AttachedAuthentication]) -> (Self, Vec<Finding>) {
        compile::compile(attached)
    }

    /// The rules, by issuer.
    #[must_use]
    pub fn rules(&self) -> &[Arc<JwtRule>] {
        &self.rules
    }

    /// Whether no token is looked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}
