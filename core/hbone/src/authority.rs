//! Where a tunnel leads: the `:authority` of a CONNECT, read strictly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wayline_model::Hostname;

/// The longest host accepted, in bytes (RFC 1035 §2.3.4).
const MAX_HOST: usize = 255;

/// The longest label of a host, in bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// The target of a CONNECT: an address and port, or a service's host name and port.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TunnelAuthority {
    /// `10.0.0.1:80`, `[fd00::1]:80`: what ztunnel sends.
    IpPort(SocketAddr),
    /// `reviews.default.svc.cluster.local:9080`: what gateways of other networks send.
    Host {
        /// The name, in lower case.
        host: Hostname,
        /// The port, never 0.
        port: u16,
    },
}

impl TunnelAuthority {
    /// Parses `host:port`. There is one way to write a target: a port without sign or leading
    /// zero, IPv6 in brackets and without zone, no IPv4 in IPv6's clothes, no user, no trailing
    /// dot, no name that could be taken for an address.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(AuthorityError::Port(shown(text)));
        };
        let port = parse_port(port).ok_or_else(|| AuthorityError::Port(shown(text)))?;
        let refused = || AuthorityError::Host(shown(text));

        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(refused)?;
            let ip: Ipv6Addr = inner.parse().map_err(|_| refused())?;
            if ip.to_ipv4_mapped().is_some() {
                return Err(AuthorityError::MappedAddress(ip));
            }
            return Ok(Self::IpPort(SocketAddr::new(IpAddr::V6(ip), port)));
        }
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Self::IpPort(SocketAddr::new(IpAddr::V4(ip), port)));
        }
        if !is_host_name(host) {
            return Err(refused());
        }
        Ok(Self::Host {
            host: Hostname::new(host),
            port,
        })
    }

    /// The port, 1 to 65535.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::IpPort(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl fmt::Display for TunnelAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpPort(address) => write!(f, "{address}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Why an `:authority` is not a target.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthorityError {
    /// CONNECT without `:authority`.
    #[error("CONNECT without :authority; name the target as host:port")]
    Missing,
    /// The port is missing or not 1 to 65535 in plain digits.
    #[error("`{0}` has no valid port; write host:port with a port from 1 to 65535")]
    Port(String),
    /// The host is neither an address nor a host name.
    #[error(
        "`{0}` names no host; write an IPv4 address, [IPv6 address] or DNS name before the port"
    )]
    Host(String),
    /// An IPv4 address written as IPv6: it would slip past rules written for the address.
    #[error("{0} is an IPv4 address written as IPv6; write it as IPv4")]
    MappedAddress(Ipv6Addr),
}

fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if !plain {
        return None;
    }
    text.parse().ok()
}

fn is_host_name(host: &str) -> bool {
    let labels_fit = host.split('.').all(|label| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    host.len() <= MAX_HOST && labels_fit && !is_number(host.rsplit('.').next().unwrap_or_default())
}

/// Whether resolvers would read a last label as part of an IPv4 address (`127.1`, `0x7f000001`).
fn is_number(label: &str) -> bool {
    let hexadecimal = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || label.bytes().all(|b| b.is_ascii_digit())
}

/// What of a peer's text goes into a message.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_names() {
        for (text, expected) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:65535", "[fd00::1]:65535"),
            ("[FD00:0::1]:1", "[fd00::1]:1"),
            (
                "Reviews.Default.svc.cluster.local:9080",
                "reviews.default.svc.cluster.local:9080",
            ),
            ("a_b.example:443", "a_b.example:443"),
        ] {
            let parsed = TunnelAuthority::parse(text).unwrap();
            assert_eq!(parsed.to_string(), expected);
        }
        let address = TunnelAuthority::parse("10.0.0.1:80").unwrap();
        assert!(matches!(address, TunnelAuthority::IpPort(_)));
    }

    #[test]
    fn refuses_whatever_could_be_read_in_two_ways() {
        let long_label = format!("{}.example:80", "a".repeat(64));
        let long_host = format!("{}example:80", "a.".repeat(125));
        for text in [
            "",
            "reviews",
            "reviews:",
            ":80",
            "reviews:0",
            "reviews:080",
            "reviews:+80",
            "reviews:65536",
            "reviews:8o",
            "user@reviews:80",
            "reviews.:80",
            ".reviews:80",
            "re..views:80",
            "-reviews:80",
            "reviews/x:80",
            "re views:80",
            "r\u{e9}views:80",
            "*.example:80",
            "fd00::1:80",
            "[fd00::1:80",
            "[fd00::1%eth0]:80",
            "[fd00::1%25eth0]:80",
            "[::ffff:127.0.0.1]:80",
            "[10.0.0.1]:80",
            "[reviews]:80",
            "127.1:80",
            "2130706433:80",
            "0x7f000001:80",
            "10.0.0.256:80",
            "010.0.0.1:80",
            &long_label,
            &long_host,
        ] {
            assert!(TunnelAuthority::parse(text).is_err(), "{text} was accepted");
        }
    }
}
