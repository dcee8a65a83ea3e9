//! What policies compare, and which values make sense for it.

use std::sync::Arc;

use http::header::HeaderName;

use super::network::NetworkSet;
use super::template::PathTemplate;

/// What a list of values is compared with, before its values are read.
pub(super) enum Kind {
    Principal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    /// The authority as a header: as it is written, case included.
    Authority,
    Method,
    Path,
    Header(HeaderName),
    /// `<issuer>/<subject>` of a verified token.
    RequestPrincipal,
    /// A claim of a verified token, by path.
    Claim(Vec<Arc<str>>),
    Unsupported,
}

impl Kind {
    /// The kind a `when` key asks for.
    pub(super) fn of_key(key: &str) -> Self {
        match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace,
            "source.principal" => Self::Principal,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.trustDomain" => Self::TrustDomain,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Claim(vec!["aud".into()]),
            "request.auth.presenter" => Self::Claim(vec!["azp".into()]),
            _ => match key.strip_prefix("request.auth.claims") {
                Some(path) => claim_path(path).map_or(Self::Unsupported, Self::Claim),
                None => key
                    .strip_prefix("request.headers[")
                    .and_then(|name| name.strip_suffix(']'))
                    .map_or(Self::Unsupported, Self::of_header),
            },
        }
    }

    /// Envoy keeps authority, method and path among the headers, and so do policies.
    fn of_header(name: &str) -> Self {
        match name {
            ":authority" => Self::Authority,
            ":method" => Self::Method,
            _ => match HeaderName::from_bytes(name.as_bytes()) {
                Ok(http::header::HOST) => Self::Authority,
                Ok(name) => Self::Header(name),
                Err(_) => Self::Unsupported,
            },
        }
    }

    /// Whether only a token tells it.
    pub(super) fn is_of_token(&self) -> bool {
        matches!(self, Self::RequestPrincipal | Self::Claim(_))
    }

    /// Whether a value can be understood; else why not, and what to do.
    pub(super) fn check(&self, value: &str) -> Result<(), (&'static str, &'static str)> {
        if value.is_empty() {
            return Err(("is empty", "use `*` for whatever is present"));
        }
        match self {
            Self::SourceIp | Self::RemoteIp | Self::DestinationIp => {
                NetworkSet::parse(value).map(drop).ok_or((
                    "is no address and no network",
                    "write 10.0.0.0/8 or 10.1.2.3",
                ))
            }
            Self::DestinationPort => match value.parse::<u16>() {
                Ok(1..) => Ok(()),
                _ => Err(("is no port", "write a number between 1 and 65535")),
            },
            Self::Principal if value.starts_with("spiffe://") => Err((
                "begins with spiffe://, which principals are written without",
                "leave `spiffe://` out",
            )),
            Self::ServiceAccount => {
                let mut parts = value.split('/');
                let complete = parts.by_ref().take(2).all(|part| !part.is_empty());
                if value.contains('*') || !complete || parts.next().is_some() {
                    return Err((
                        "is no service account",
                        "write <account> or <namespace>/<account>, without wildcards",
                    ));
                }
                Ok(())
            }
            Self::Path if PathTemplate::is_meant(value) => PathTemplate::parse(value)
                .map(drop)
                .map_err(|reason| ("is no path template", reason)),
            _ => Ok(()),
        }
    }
}

/// The names in `[a][b]`; `None` where it is not of that form.
fn claim_path(text: &str) -> Option<Vec<Arc<str>>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<Arc<str>> = inner.split("][").map(Arc::from).collect();
    let is_name = |name: &Arc<str>| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(is_name).then_some(names)
}
