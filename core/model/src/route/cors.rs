//! Cross-origin sharing (CORS) as a rule grants it: which origins may read what, ready as headers.
//!
//! A preflight (Fetch standard, §3.2.2) is answered here whatever its origin: a backend that grants more
//! than the rule does is not asked.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

/// What a rule grants to other origins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cors {
    /// Who may read responses.
    pub origins: Vec<OriginMatch>,
    /// Whether requests may carry cookies and credentials.
    pub credentials: bool,
    /// Methods beyond those that need no grant.
    pub methods: Grant,
    /// Request headers beyond those that need no grant.
    pub headers: Grant,
    /// `access-control-expose-headers`: response headers that scripts may see.
    pub expose: Option<HeaderValue>,
    /// Seconds for which a browser may remember the answer to a preflight.
    pub max_age: u32,
}

/// An origin, or many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OriginMatch {
    /// `*`.
    Any,
    /// `scheme://host[:port]` in lower case, without the scheme's own port.
    Exact(Box<str>),
    /// `scheme://*suffix`: any host that ends so, with that port.
    Hosts {
        /// `https://`.
        prefix: Box<str>,
        /// What follows the wildcard: `.example.com`, `.example.com:8443`, or nothing.
        suffix: Box<str>,
    },
}

/// What a preflight is granted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Grant {
    /// Only what needs no grant.
    #[default]
    Nothing,
    /// `*`: whatever is asked for.
    Any,
    /// A list, as a header's value.
    List(HeaderValue),
}

impl Cors {
    /// The whole answer to a preflight; `None` where the request is none.
    #[must_use]
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Response<()>> {
        let origin = request.get(header::ORIGIN)?;
        let asked = request.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if *method != Method::OPTIONS {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        if !self.allows(origin) {
            vary(headers);
            return Some(response);
        }
        self.identify(origin, headers);
        let also = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        self.grant(
            &self.methods,
            Some(asked),
            header::ACCESS_CONTROL_ALLOW_METHODS,
            headers,
        );
        self.grant(
            &self.headers,
            also,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            headers,
        );
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        Some(response)
    }

    /// Lets the origin of a request read its response.
    pub fn share(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        if !self.allows(origin) {
            return;
        }
        self.identify(origin, response);
        if let Some(expose) = &self.expose {
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// Whether a value of `origin` is one that may read.
    #[must_use]
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        self.origins.iter().any(|it| it.matches(origin))
    }

    fn identify(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        let any = self.origins.contains(&OriginMatch::Any);
        // Browsers take no wildcard where credentials are sent.
        let value = if any && !self.credentials {
            HeaderValue::from_static("*")
        } else {
            vary(headers);
            origin.clone()
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
        if self.credentials {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        } else {
            headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        }
    }

    fn grant(
        &self,
        grant: &Grant,
        asked: Option<&HeaderValue>,
        name: HeaderName,
        headers: &mut HeaderMap,
    ) {
        let value = match grant {
            Grant::Nothing => None,
            Grant::List(list) => Some(list.clone()),
            Grant::Any if self.credentials => asked.cloned(),
            Grant::Any => Some(HeaderValue::from_static("*")),
        };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

impl OriginMatch {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(origin),
            Self::Hosts { prefix, suffix } => {
                let Some((scheme, host)) = origin.split_at_checked(prefix.len()) else {
                    return false;
                };
                let Some((name, end)) = host
                    .len()
                    .checked_sub(suffix.len())
                    .and_then(|at| host.split_at_checked(at))
                else {
                    return false;
                };
                // What the wildcard stands for holds no port of its own.
                scheme.eq_ignore_ascii_case(prefix)
                    && end.eq_ignore_ascii_case(suffix)
                    && !name.is_empty()
                    && !name.contains([':', '/'])
            }
        }
    }
}

/// The answer depends on who asks: caches must know.
fn vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(prefix: &str, suffix: &str) -> OriginMatch {
        OriginMatch::Hosts {
            prefix: prefix.into(),
            suffix: suffix.into(),
        }
    }

    #[test]
    fn origins_match_as_written() {
        let exact = OriginMatch::Exact("https://a.example".into());
        let sub = hosts("https://", ".a.example");
        let port = hosts("https://", ".a.example:8443");
        let all = hosts("https://", "");
        for (origin, expected) in [
            ("https://a.example", [true, false, false, true]),
            ("https://A.example", [true, false, false, true]),
            ("https://x.a.example", [false, true, false, true]),
            ("https://y.x.A.example", [false, true, false, true]),
            ("https://.a.example", [false, false, false, true]),
            ("https://x.a.example:8443", [false, false, true, false]),
            ("https://x:1.a.example", [false, false, false, false]),
            ("https://xa.example", [false, false, false, true]),
            ("http://x.a.example", [false, false, false, false]),
            ("https://a.example.evil", [false, false, false, true]),
            ("null", [false, false, false, false]),
            ("", [false, false, false, false]),
        ] {
            let found = [&exact, &sub, &port, &all].map(|it| it.matches(origin));
            assert_eq!(found, expected, "{origin}");
        }
    }
}
