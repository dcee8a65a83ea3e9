//! Connecting to a name, and only to permitted addresses of it.
//!
//! A name is resolved once, and what was judged is what is connected to: an answer of the name server
//! that changes a moment later changes nothing.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::policy::{AddressPolicy, Reason};

/// What longer timeouts are cut to, so that a deadline is a time the clock can tell.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// An address that was not dialled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The address.
    pub address: IpAddr,
    /// Why not.
    pub reason: Reason,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {host}: {source}; check the name and the cluster's DNS")]
    Resolve {
        /// The host asked for.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of its addresses may be dialled.
    #[error(
        "{host} is not dialled: {}; use a public host, or list the address among the allowed networks",
        listed(.refusals)
    )]
    Refused {
        /// The host asked for.
        host: String,
        /// All its addresses.
        refusals: Vec<Refusal>,
    },
    /// No permitted address took the connection.
    #[error(
        "cannot connect to {host} at {address}: {source}; check that it listens there and that network policies let the proxy out"
    )]
    Connect {
        /// The host asked for.
        host: String,
        /// The permitted address tried last.
        address: SocketAddr,
        /// Why that failed.
        source: io::Error,
    },
    /// The time was over before an address was known.
    #[error("{host} was not resolved within {timeout:?}; check the cluster's DNS")]
    ResolveTimeout {
        /// The host asked for.
        host: String,
        /// The time allowed for all of it.
        timeout: Duration,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.address, self.reason)
    }
}

fn listed(refusals: &[Refusal]) -> String {
    let refusals: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    refusals.join(", ")
}

/// Connects to a host, by name or address (IPv6 with or without brackets), as `policy` permits.
///
/// `timeout` is for everything together, and a day at the most. Permitted addresses are tried in the resolver's order, each
/// for its share of the time that is left.
///
/// # Errors
///
/// [`DialError`]; all of them name the host.
pub async fn dial(
    host: &str,
    port: u16,
    policy: &AddressPolicy,
    timeout: Duration,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + timeout.min(LONGEST);
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let found = timeout_at(deadline, lookup_host((bare.unwrap_or(host), port)))
        .await
        .map_err(|_| DialError::ResolveTimeout {
            host: host.to_owned(),
            timeout,
        })?
        .map_err(|source| DialError::Resolve {
            host: host.to_owned(),
            source,
        })?;
    connect(host, found.collect(), policy, deadline).await
}

/// Connects to a service of the mesh, at one of its addresses.
pub(crate) async fn dial_service(
    host: &str,
    addresses: &[SocketAddr],
    policy: &AddressPolicy,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let policy = policy.within_the_mesh();
    connect(host, addresses.to_vec(), &policy, deadline).await
}

/// Connects to the first permitted address that takes it.
async fn connect(
    host: &str,
    found: Vec<SocketAddr>,
    policy: &AddressPolicy,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let mut permitted = Vec::new();
    let mut refusals = Vec::new();
    for address in found {
        match policy.permits(address.ip()) {
            Ok(()) => permitted.push(address),
            Err(reason) => refusals.push(Refusal {
                address: address.ip(),
                reason,
            }),
        }
    }

    let mut failure = None;
    let mut left = permitted.len() as u32;
    for address in permitted {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left;
        left -= 1;
        let outcome = timeout_at(now + share, TcpStream::connect(address)).await;
        match outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(source) => failure = Some((address, source)),
        }
    }
    let host = host.to_owned();
    Err(match failure {
        Some((address, source)) => DialError::Connect {
            host,
            address,
            source,
        },
        None if refusals.is_empty() => DialError::Resolve {
            host,
            source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
        },
        None => DialError::Refused { host, refusals },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// Both addresses a name may have, the second of which is listened on.
    fn loopbacks() -> (TcpListener, Vec<SocketAddr>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let first = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
        (
            listener,
            vec![first, SocketAddr::from((Ipv4Addr::LOCALHOST, port))],
        )
    }

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn of_several_addresses_only_permitted_ones_are_tried() {
        let (_listener, found) = loopbacks();
        let policy = AddressPolicy::allowing(["127.0.0.1/32".parse().unwrap()]);
        let stream = connect("keys.example", found.clone(), &policy, deadline()).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), found[1]);

        // The one that listens is not the one that is permitted.
        let policy = AddressPolicy::allowing(["127.0.0.2/32".parse().unwrap()]);
        let error = connect("keys.example", found.clone(), &policy, deadline()).await;
        match error.unwrap_err() {
            DialError::Connect { address, .. } => assert_eq!(address, found[0]),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn refusals_name_host_address_reason_and_remedy() {
        let (_listener, found) = loopbacks();
        let policy = AddressPolicy::default();
        let error = connect("keys.example", found, &policy, deadline()).await;
        let text = error.unwrap_err().to_string();
        for part in [
            "keys.example",
            "127.0.0.2 is a loopback address",
            "127.0.0.1 is a loopback address",
            "allowed networks",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let none = connect("keys.example", Vec::new(), &policy, deadline()).await;
        assert!(matches!(none.unwrap_err(), DialError::Resolve { .. }));
    }
}
