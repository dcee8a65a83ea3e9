//! Session persistence (Gateway API GEP-1619): a token in a cookie or a header names the endpoint that
//! answered first, and the requests that bring it go there for as long as it is there.
//!
//! The proxy remembers nothing: all replicas read each other's tokens, and a restart loses no session.
//! A token is a wish and no credential; whoever makes one up reaches an endpoint he could have drawn.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

/// How a rule keeps its sessions.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionPersistence {
    /// What carries the token.
    pub carrier: Carrier,
    /// How long a session lasts at most.
    pub absolute: Option<Duration>,
    /// How long a session lasts that is not used.
    pub idle: Option<Duration>,
}

/// What carries a token.
#[derive(Clone, Debug, PartialEq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// The path for which clients send it.
        path: Arc<str>,
        /// How long clients keep it; while they run where it is `None`.
        max_age: Option<Duration>,
    },
    /// A header of both requests and responses.
    Header(HeaderName),
}

/// Which endpoint a session belongs to, since when, and when it was last used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionToken {
    endpoint: u64,
    began: u64,
    used: u64,
}

impl SessionToken {
    /// A session that begins, at a time since the Unix epoch.
    #[must_use]
    pub fn begin(cluster: &str, endpoint: SocketAddr, now: Duration) -> Self {
        Self {
            endpoint: fingerprint(cluster, endpoint),
            began: now.as_secs(),
            used: now.as_secs(),
        }
    }

    /// Whether the session belongs to an endpoint of a cluster.
    #[must_use]
    pub fn is_of(&self, cluster: &str, endpoint: SocketAddr) -> bool {
        self.endpoint == fingerprint(cluster, endpoint)
    }

    /// The same session, used once more.
    #[must_use]
    pub fn used_at(mut self, now: Duration) -> Self {
        self.used = now.as_secs();
        self
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let token = Self {
            endpoint: number()?,
            began: number()?,
            used: number()?,
        };
        parts.next().is_none().then_some(token)
    }
}

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:x}.{:x}", self.endpoint, self.began, self.used)
    }
}

impl SessionPersistence {
    /// The session that a request belongs to, unless it is over.
    #[must_use]
    pub fn token(&self, request: &HeaderMap, now: Duration) -> Option<SessionToken> {
        let token = match &self.carrier {
            Carrier::Header(name) => SessionToken::parse(request.get(name)?.to_str().ok()?)?,
            Carrier::Cookie { name, .. } => request
                .get_all(COOKIE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(';'))
                .filter_map(|pair| pair.trim().split_once('='))
                .find(|(known, _)| *known == &**name)
                .and_then(|(_, value)| SessionToken::parse(value))?,
        };
        let over = |since: u64, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.as_secs().saturating_sub(since) > limit.as_secs())
        };
        // A token from the future would never end.
        let sound = token.began <= token.used && token.used <= now.as_secs() + CLOCK_SKEW;
        let over = over(token.began, self.absolute) || over(token.used, self.idle);
        (sound && !over).then_some(token)
    }

    /// Whether responses must bring a new token although the session goes on.
    #[must_use]
    pub fn is_renewed(&self) -> bool {
        self.idle.is_some()
    }

    /// Gives a client its token.
    pub fn give(&self, token: SessionToken, response: &mut HeaderMap) {
        match &self.carrier {
            Carrier::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(token.to_string()) {
                    response.insert(name.clone(), value);
                }
            }
            Carrier::Cookie {
                name,
                path,
                max_age,
            } => {
                let mut cookie = format!("{name}={token}; Path={path}; HttpOnly");
                if let Some(max_age) = max_age {
                    let left = (token.began + max_age.as_secs()).saturating_sub(token.used);
                    cookie += &format!("; Max-Age={left}");
                }
                if let Ok(value) = HeaderValue::try_from(cookie) {
                    response.append(SET_COOKIE, value);
                }
            }
        }
    }
}

/// Seconds by which the clocks of two replicas may differ.
const CLOCK_SKEW: u64 = 60;

/// FNV-1a: the same in every replica and version, which the standard library's hashers do not promise.
fn fingerprint(cluster: &str, endpoint: SocketAddr) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    };
    cluster.bytes().for_each(&mut add);
    match endpoint.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().into_iter().for_each(&mut add),
        std::net::IpAddr::V6(ip) => ip.octets().into_iter().for_each(&mut add),
    }
    endpoint.port().to_be_bytes().into_iter().for_each(&mut add);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn by_cookie(absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
        SessionPersistence {
            carrier: Carrier::Cookie {
                name: "s".into(),
                path: "/shop".into(),
                max_age: absolute.map(Duration::from_secs),
            },
            absolute: absolute.map(Duration::from_secs),
            idle: idle.map(Duration::from_secs),
        }
    }

    fn request(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "other=1".parse().unwrap());
        headers.append(COOKIE, cookie.parse().unwrap());
        headers
    }

    #[test]
    fn a_token_names_one_endpoint_of_one_cluster() {
        let (one, two) = (
            "10.0.0.1:80".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        );
        let token = SessionToken::begin("a", one, NOW);
        assert!(token.is_of("a", one));
        assert!(!token.is_of("a", two) && !token.is_of("b", one));
        assert_eq!(SessionToken::parse(&token.to_string()), Some(token));
    }

    #[test]
    fn cookies_and_headers_carry_it_there_and_back() {
        let token = SessionToken::begin("a", "10.0.0.1:80".parse().unwrap(), NOW);
        let sessions = by_cookie(Some(60), None);
        let mut response = HeaderMap::new();
        sessions.give(token, &mut response);
        let cookie = response[SET_COOKIE].to_str().unwrap();
        assert_eq!(
            cookie,
            format!("s={token}; Path=/shop; HttpOnly; Max-Age=60")
        );
        let sent = format!("x=y; s={token}; z=1");
        assert_eq!(sessions.token(&request(&sent), NOW), Some(token));

        let sessions = SessionPersistence {
            carrier: Carrier::Header(HeaderName::from_static("x-session")),
            ..by_cookie(None, None)
        };
        let mut both = HeaderMap::new();
        sessions.give(token, &mut both);
        assert_eq!(sessions.token(&both, NOW), Some(token));
    }

    #[test]
    fn sessions_end_and_nonsense_is_none() {
        let token = SessionToken::begin("a", "10.0.0.1:80".parse().unwrap(), NOW);
        let later = |seconds| NOW + Duration::from_secs(seconds);
        let sent = request(&format!("s={token}"));
        assert_eq!(
            by_cookie(Some(60), None).token(&sent, later(60)),
            Some(token)
        );
        assert_eq!(by_cookie(Some(60), None).token(&sent, later(61)), None);
        assert_eq!(by_cookie(None, Some(60)).token(&sent, later(61)), None);
        let used = request(&format!("s={}", token.used_at(later(50))));
        assert!(by_cookie(None, Some(60)).token(&used, later(100)).is_some());
        assert_eq!(
            by_cookie(None, None).token(&used, NOW - Duration::from_secs(3600)),
            None
        );
        for nonsense in ["s=", "s=x", "s=1.2", "s=1.2.3.4", "s=1.5.3"] {
            assert_eq!(
                by_cookie(None, None).token(&request(nonsense), NOW),
                None,
                "{nonsense}"
            );
        }
    }
}
