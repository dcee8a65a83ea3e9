//! The authority of a request: whom the client asked for.

use http::header::HeaderValue;

use super::RequestError;
use crate::defence::stands;

/// Host and optional port, validated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    text: HeaderValue,
    host_length: u16,
    port: Option<u16>,
}

impl Authority {
    /// Parses `host`, `host:port` or `[v6]:port`: no user info, no path, no list, ASCII only.
    pub fn parse(text: HeaderValue) -> Result<Self, RequestError> {
        if !stands("authority") {
            return Ok(Self {
                host_length: u16::try_from(text.len()).unwrap_or_default(),
                text,
                port: None,
            });
        }
        let bytes = text.as_bytes();
        let bad = |reason| Err(RequestError::Authority(reason));
        if bytes.is_empty() || bytes.len() > 255 + 6 {
            return bad("it is empty or longer than 261 bytes");
        }
        let host_length = if bytes[0] == b'[' {
            let Some(end) = memchr::memchr(b']', bytes) else {
                return bad("a bracket is not closed");
            };
            if std::str::from_utf8(&bytes[1..end])
                .ok()
                .and_then(|inside| inside.parse::<std::net::Ipv6Addr>().ok())
                .is_none()
            {
                return bad("what stands in brackets is not an IPv6 address");
            }
            end + 1
        } else {
            let end = memchr::memchr(b':', bytes).unwrap_or(bytes.len());
            let fits = end > 0
                && bytes[..end]
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            if !fits {
                return bad("the host is empty or holds a character that no host has");
            }
            end
        };
        let port = match &bytes[host_length..] {
            [] => None,
            [b':', digits @ ..] if !digits.is_empty() && digits.len() <= 5 => {
                let mut port: u32 = 0;
                for digit in digits {
                    if !digit.is_ascii_digit() {
                        return bad("the port is not a number");
                    }
                    port = port * 10 + u32::from(digit - b'0');
                }
                match u16::try_from(port) {
                    Ok(port) if port > 0 => Some(port),
                    _ => return bad("the port is not between 1 and 65535"),
                }
            }
            _ => return bad("the port is empty or too long"),
        };
        // Bounded by 261 above.
        let host_length = host_length as u16;
        Ok(Self {
            text,
            host_length,
            port,
        })
    }

    /// The authority as sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // What `parse` accepts is ASCII.
        self.text.to_str().unwrap_or_default()
    }

    /// As a header value, e.g. for `host`.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.text
    }

    /// The host as sent, with brackets where it is IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        let length = usize::from(self.host_length);
        self.as_str().get(..length).unwrap_or_default()
    }

    /// The port, if one was sent.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}
