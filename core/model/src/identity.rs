//! SPIFFE identities as Istio writes them: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
//!
//! An identity is parsed once, where a certificate is verified, and compared by its parts ever
//! after; no pattern is ever built from a name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The scheme every identity starts with.
const SCHEME: &str = "spiffe://";

/// The longest SPIFFE identifier accepted, in bytes (SPIFFE-ID §2.3).
const MAX_LENGTH: usize = 2048;

/// A trust domain name, e.g. `cluster.local`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain: 1 to 255 characters of `a-z`, `0-9`, `.`, `-`, `_` (SPIFFE-ID §2.1).
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        let fits = !name.is_empty()
            && name.len() <= 255
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if !fits {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// Istio's default, `cluster.local`.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a workload is: trust domain, Kubernetes namespace and service account.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Identity {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
    uri: Arc<str>,
}

impl Identity {
    /// Builds an identity from its parts; fails when a part could not stand in a SPIFFE path.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        uri.parse()
    }

    /// The trust domain that vouches for it.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The whole identifier with scheme, as certificates and metrics show it.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The identifier without `spiffe://`, as AuthorizationPolicy principals are written.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Parses exactly five segments: trust domain, `ns`, namespace, `sa`, service account.
    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        if uri.len() > MAX_LENGTH {
            return Err(IdentityError::TooLong(uri.len()));
        }
        let Some(path) = uri.strip_prefix(SCHEME) else {
            return Err(IdentityError::Scheme(uri.to_owned()));
        };
        let segments: Vec<&str> = path.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = segments[..] else {
            return Err(IdentityError::Shape(uri.to_owned()));
        };
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(IdentityError::Shape(uri.to_owned()));
        }
        Ok(Self {
            trust_domain: TrustDomain::parse(trust_domain)?,
            namespace: namespace.into(),
            service_account: service_account.into(),
            uri: uri.into(),
        })
    }
}

/// SPIFFE-ID §2.2: letters, digits, `.`, `-`, `_`; never empty, `.` or `..`.
fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Why a text is not an Istio SPIFFE identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// The identifier does not begin with `spiffe://`.
    #[error("`{0}` is not a SPIFFE identity: it must begin with spiffe://")]
    Scheme(String),
    /// The identifier has not exactly the five segments Istio uses.
    #[error(
        "`{0}` is not an Istio identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    Shape(String),
    /// The trust domain holds a character outside `a-z 0-9 . - _`, or is empty or too long.
    #[error("`{0}` is not a trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// The identifier is longer than SPIFFE allows.
    #[error("a SPIFFE identity has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_five_segments_and_nothing_else() {
        let id: Identity = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain().as_str(), "cluster.local");
        assert_eq!(id.namespace(), "default");
        assert_eq!(id.service_account(), "bookinfo-productpage");
        assert_eq!(
            id.principal(),
            "cluster.local/ns/default/sa/bookinfo-productpage"
        );

        for bad in [
            "cluster.local/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/sa/c",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/b%2f",
            "spiffe://td/NS/a/sa/b",
            "spiffe://Td/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad} was accepted");
        }
    }
}
