//! The PROXY protocol, version 2, as ztunnel writes it in front of a connection that it took out of a
//! tunnel ("sandwich"): who called, and whom.
//!
//! This module owns the header's bytes and nothing else: whether whoever wrote them is to be believed
//! is the caller's to know. There is one way to say a connection: what else the protocol knows
//! (version 1, LOCAL, datagrams, UNIX sockets, no address at all) is refused, and so is a header that
//! can be read in two ways. The layout is haproxy's `proxy-protocol.txt`, section 2.2; the caller's
//! identity is ztunnel's own TLV 0xD0 (`src/proxy.rs`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use wayline_model::Identity;
use wayline_model::identity::IdentityError;

/// How version 2 begins: nothing else that is spoken does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, and the length of the rest.
const PREFIX: usize = 16;

/// The longest rest that is read. Addresses take 36 bytes and an identity at most 2,048.
const MAX_REST: usize = 4096;

/// The caller's identity, a SPIFFE URI.
const TYPE_IDENTITY: u8 = 0xD0;

/// One connection as it was before somebody in front of us took it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyHeader {
    /// Who called.
    pub source: SocketAddr,
    /// Whom: the target of the tunnel.
    pub destination: SocketAddr,
    /// The identity that the caller proved; `None` when it came in plain text.
    pub identity: Option<Identity>,
}

/// Why a connection's first bytes are no header that is believed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It ended, or could not be read.
    #[error("the connection ended before its PROXY header did: {0}")]
    Io(#[from] io::Error),
    /// The header did not come in time.
    #[error("no PROXY header came within {0:?}")]
    Timeout(Duration),
    /// It begins with something else, version 1 of the protocol among it.
    #[error("it does not begin with a PROXY protocol header of version 2")]
    Signature,
    /// The version is not 2.
    #[error("its PROXY header is of version {0}, not 2")]
    Version(u8),
    /// LOCAL, which is a connection of the proxy itself, or a command nobody knows.
    #[error("its PROXY header has the command {0}; only PROXY (1) names a caller")]
    Command(u8),
    /// Not TCP over IPv4 or IPv6.
    #[error("its PROXY header is of the family {0:#04x}; only TCP over IPv4 and IPv6 is taken")]
    Family(u8),
    /// Longer than anybody needs.
    #[error("its PROXY header has {0} bytes after the prefix, more than {MAX_REST}")]
    TooLong(usize),
    /// Too short for its addresses, or a TLV that ends behind the header's end.
    #[error("its PROXY header says a length that its content contradicts")]
    Length,
    /// An IPv4 address written as IPv6: it would slip past rules written for the address.
    #[error("its PROXY header writes the IPv4 address {0} as IPv6")]
    MappedAddress(Ipv6Addr),
    /// Two identities.
    #[error("its PROXY header names an identity twice")]
    TwoIdentities,
    /// An identity that is none.
    #[error("its PROXY header names no identity that can be read: {0}")]
    Identity(#[from] IdentityError),
    /// An identity that is no text.
    #[error("its PROXY header names an identity that is no text")]
    NoText,
}

impl ProxyHeader {
    /// Reads the header from the front of a connection, and not a byte more.
    ///
    /// # Errors
    /// When there is no header that is taken, or none within `timeout`.
    pub async fn read<I>(io: &mut I, timeout: Duration) -> Result<Self, ProxyHeaderError>
    where
        I: AsyncRead + Unpin,
    {
        tokio::time::timeout(timeout, Self::read_patiently(io))
            .await
            .unwrap_or(Err(ProxyHeaderError::Timeout(timeout)))
    }

    async fn read_patiently<I>(io: &mut I) -> Result<Self, ProxyHeaderError>
    where
        I: AsyncRead + Unpin,
    {
        let mut prefix = [0; PREFIX];
        let mut known = 0;
        while known < PREFIX {
            let read = io.read(&mut prefix[known..]).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            known += read;
            // Whoever says something else is told at once, not when sixteen bytes have come.
            let signed = known.min(SIGNATURE.len());
            if prefix[..signed] != SIGNATURE[..signed] {
                return Err(ProxyHeaderError::Signature);
            }
        }
        let (family, length) = judge_prefix(&prefix)?;
        let mut rest = vec![0; length];
        io.read_exact(&mut rest).await?;
        parse_rest(family, &rest)
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// The family, and how many bytes follow.
fn judge_prefix(prefix: &[u8; PREFIX]) -> Result<(Family, usize), ProxyHeaderError> {
    let (version, command) = (prefix[12] >> 4, prefix[12] & 0xF);
    if version != 2 {
        return Err(ProxyHeaderError::Version(version));
    }
    if command != 1 {
        return Err(ProxyHeaderError::Command(command));
    }
    let family = match prefix[13] {
        0x11 => Family::V4,
        0x21 => Family::V6,
        other => return Err(ProxyHeaderError::Family(other)),
    };
    let length = usize::from(u16::from_be_bytes([prefix[14], prefix[15]]));
    if length > MAX_REST {
        return Err(ProxyHeaderError::TooLong(length));
    }
    Ok((family, length))
}

fn parse_rest(family: Family, rest: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let mut rest = Bytes(rest);
    let (source, destination) = match family {
        Family::V4 => (
            IpAddr::V4(Ipv4Addr::from(rest.array::<4>()?)),
            IpAddr::V4(Ipv4Addr::from(rest.array::<4>()?)),
        ),
        Family::V6 => (rest.ipv6()?, rest.ipv6()?),
    };
    let source = SocketAddr::new(source, u16::from_be_bytes(rest.array()?));
    let destination = SocketAddr::new(destination, u16::from_be_bytes(rest.array()?));
    let mut identity = None;
    while !rest.0.is_empty() {
        let [kind, high, low] = rest.array()?;
        let value = rest.take(usize::from(u16::from_be_bytes([high, low])))?;
        if kind != TYPE_IDENTITY {
            continue;
        }
        let text = std::str::from_utf8(value).map_err(|_| ProxyHeaderError::NoText)?;
        if identity.replace(text.parse()?).is_some() {
            return Err(ProxyHeaderError::TwoIdentities);
        }
    }
    Ok(ProxyHeader {
        source,
        destination,
        identity,
    })
}

/// What is left of a header.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], ProxyHeaderError> {
        let (taken, left) = self
            .0
            .split_at_checked(length)
            .ok_or(ProxyHeaderError::Length)?;
        self.0 = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProxyHeaderError> {
        let (taken, left) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(ProxyHeaderError::Length)?;
        self.0 = left;
        Ok(*taken)
    }

    fn ipv6(&mut self) -> Result<IpAddr, ProxyHeaderError> {
        let ip = Ipv6Addr::from(self.array::<16>()?);
        match ip.to_ipv4_mapped() {
            Some(_) => Err(ProxyHeaderError::MappedAddress(ip)),
            None => Ok(IpAddr::V6(ip)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "spiffe://cluster.local/ns/a/sa/b";

    fn header(command: u8, family: u8, length: Option<u16>, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        let length = length.unwrap_or(rest.len() as u16);
        bytes.extend(length.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn v4(tlvs: &[u8]) -> Vec<u8> {
        let mut rest = vec![10, 0, 0, 1, 10, 96, 0, 20, 0x9c, 0x40, 0, 80];
        rest.extend(tlvs);
        rest
    }

    fn tlv(kind: u8, value: &str) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value.as_bytes());
        bytes
    }

    async fn read(mut bytes: &[u8]) -> (Result<ProxyHeader, ProxyHeaderError>, usize) {
        let read = ProxyHeader::read(&mut bytes, Duration::from_secs(5)).await;
        (read, bytes.len())
    }

    #[tokio::test]
    async fn what_ztunnel_writes_is_read_and_not_a_byte_more() {
        let mut tlvs = tlv(0x04, "padding");
        tlvs.extend(tlv(TYPE_IDENTITY, ME));
        let mut bytes = header(0x21, 0x11, None, &v4(&tlvs));
        bytes.extend(b"GET / HTTP/1.1");
        let (read, left) = read(&bytes).await;
        let read = read.unwrap();
        assert_eq!(read.source, "10.0.0.1:40000".parse().unwrap());
        assert_eq!(read.destination, "10.96.0.20:80".parse().unwrap());
        assert_eq!(read.identity, Some(ME.parse().unwrap()));
        assert_eq!(left, b"GET / HTTP/1.1".len());
    }

    #[tokio::test]
    async fn ipv6_and_callers_without_identity_are_read() {
        let mut rest = Vec::new();
        for ip in ["fd00::1", "fd00::2"] {
            rest.extend(ip.parse::<Ipv6Addr>().unwrap().octets());
        }
        rest.extend([0, 1, 0, 80]);
        let (read, _) = read(&header(0x21, 0x21, None, &rest)).await;
        let read = read.unwrap();
        assert_eq!(read.destination, "[fd00::2]:80".parse().unwrap());
        assert_eq!(read.identity, None);
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let twice = [tlv(TYPE_IDENTITY, ME), tlv(TYPE_IDENTITY, ME)].concat();
        let mapped = [
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
            Ipv6Addr::LOCALHOST.octets(),
        ];
        let mapped = [mapped.concat(), vec![0, 1, 0, 1]].concat();
        let mut not_text = tlv(TYPE_IDENTITY, "a");
        *not_text.last_mut().unwrap() = 0xFF;
        let cases: [(&str, Vec<u8>, &str); 16] = [
            ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "version 2"),
            (
                "v1",
                b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
                "version 2",
            ),
            (
                "another version",
                header(0x31, 0x11, None, &v4(&[])),
                "version 3",
            ),
            ("local", header(0x20, 0x11, None, &v4(&[])), "command 0"),
            (
                "no command",
                header(0x2F, 0x11, None, &v4(&[])),
                "command 15",
            ),
            ("udp", header(0x21, 0x12, None, &v4(&[])), "family 0x12"),
            ("unix", header(0x21, 0x31, None, &[0; 216]), "family 0x31"),
            ("unspecified", header(0x21, 0, None, &[]), "family 0x00"),
            ("truncated", header(0x21, 0x11, Some(12), &[1, 2]), "ended"),
            ("oversize", header(0x21, 0x11, Some(4097), &[]), "4097"),
            (
                "no addresses",
                header(0x21, 0x11, None, &[1, 2, 3]),
                "length",
            ),
            (
                "a TLV too long",
                header(0x21, 0x11, None, &v4(&[4, 0, 9, 1])),
                "length",
            ),
            (
                "half a TLV",
                header(0x21, 0x11, None, &v4(&[4, 0])),
                "length",
            ),
            (
                "two identities",
                header(0x21, 0x11, None, &v4(&twice)),
                "twice",
            ),
            ("mapped", header(0x21, 0x21, None, &mapped), "as IPv6"),
            (
                "no text",
                header(0x21, 0x11, None, &v4(&not_text)),
                "no text",
            ),
        ];
        for (name, bytes, expected) in cases {
            let (read, _) = read(&bytes).await;
            let error = read.expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        for bad in [
            "",
            "alice",
            "http://cluster.local/ns/a/sa/b",
            "spiffe://td/ns/a",
        ] {
            let bytes = header(0x21, 0x11, None, &v4(&tlv(TYPE_IDENTITY, bad)));
            let (read, _) = read(&bytes).await;
            assert!(matches!(read, Err(ProxyHeaderError::Identity(_))), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_is_not_waited_for() {
        let (mut quiet, _other) = tokio::io::duplex(64);
        let read = ProxyHeader::read(&mut quiet, Duration::from_secs(5)).await;
        assert!(matches!(read, Err(ProxyHeaderError::Timeout(_))));
    }
}
