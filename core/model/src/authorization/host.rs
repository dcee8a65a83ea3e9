//! The readings of an authority.
//!
//! `Secret.com:8080`, `secret.com` and `secret.com.` lead to the same place. What refuses must see
//! through the difference, what admits must not rely on it: *must* takes the authority as it was sent
//! (in lower case, for hosts have none), *may* also takes it without port, without trailing dot, and
//! with the port the request came in on.

use std::io::Write;

use crate::defence::stands;
use crate::request::Authority;

use super::text::TextSet;

/// The longest authority, its dot and a port: [`Authority::parse`] admits 261 bytes.
const ROOM: usize = 288;

/// An authority in lower case, and its host with a port.
pub(super) struct HostReadings {
    sent: [u8; ROOM],
    sent_length: usize,
    host_length: usize,
    /// Without trailing dots.
    name_length: usize,
    with_port: [u8; ROOM],
    with_port_length: usize,
}

impl HostReadings {
    /// `port` is the one the request came in on.
    pub(super) fn new(authority: &Authority, port: u16) -> Self {
        let mut sent = [0; ROOM];
        let text = authority.as_str().as_bytes();
        let sent_length = text.len().min(ROOM);
        for (lower, byte) in sent.iter_mut().zip(text) {
            *lower = match stands("host-case") {
                true => byte.to_ascii_lowercase(),
                false => *byte,
            };
        }
        let host_length = authority.host().len().min(sent_length);
        let host = &sent[..host_length];
        let dots = host.iter().rev().take_while(|b| **b == b'.').count();
        let name_length = host_length - dots;

        let mut with_port = [0; ROOM];
        with_port[..name_length].copy_from_slice(&sent[..name_length]);
        let mut rest = &mut with_port[name_length..];
        let room = rest.len();
        // There is room: 261 bytes, a colon and five digits.
        let _ = write!(rest, ":{}", authority.port().unwrap_or(port));
        let with_port_length = name_length + (room - rest.len());
        Self {
            sent,
            sent_length,
            host_length,
            name_length,
            with_port,
            with_port_length,
        }
    }

    /// Whether the authority as sent is in a set of lower-case hosts.
    pub(super) fn must_match(&self, hosts: &TextSet) -> bool {
        hosts.matches(&self.sent[..self.sent_length])
    }

    /// Whether any reading of it is.
    pub(super) fn may_match(&self, hosts: &TextSet) -> bool {
        if !stands("host-readings") {
            return self.must_match(hosts);
        }
        self.must_match(hosts)
            || hosts.matches(&self.sent[..self.host_length])
            || (self.name_length < self.host_length
                && hosts.matches(&self.sent[..self.name_length]))
            || hosts.matches(&self.with_port[..self.with_port_length])
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn readings(authority: &str, host: &str) -> (bool, bool) {
        let authority = Authority::parse(HeaderValue::from_str(authority).unwrap()).unwrap();
        let readings = HostReadings::new(&authority, 80);
        let hosts = TextSet::new([host]);
        (readings.may_match(&hosts), readings.must_match(&hosts))
    }

    #[test]
    fn refusing_sees_through_ports_dots_and_case() {
        for (sent, host, may, must) in [
            ("secret.com", "secret.com", true, true),
            ("SECRET.com", "secret.com", true, true),
            ("secret.com:8080", "secret.com", true, false),
            ("secret.com:080", "secret.com", true, false),
            ("secret.com.", "secret.com", true, false),
            ("secret.com.:80", "secret.com", true, false),
            ("secret.com.:80", "secret.com:80", true, false),
            ("secret.com:080", "secret.com:80", true, false),
            ("secret.com", "secret.com:80", true, false),
            ("secret.com", "secret.com:81", false, false),
            ("secret.com:8080", "secret.com:8080", true, true),
            ("secret.com:8080", "secret.com:80", false, false),
            ("a.secret.com:8080", "*.secret.com", true, false),
            ("secret.com:8080", "secret.*", true, true),
            ("[::1]:80", "[::1]", true, false),
            ("other.com", "secret.com", false, false),
            ("other.com", "*", true, true),
        ] {
            assert_eq!(readings(sent, host), (may, must), "{sent} against {host}");
        }
        let longest = format!("{}.:65535", "a".repeat(254));
        assert_eq!(readings(&longest, &"a".repeat(254)), (true, false));
    }
}
