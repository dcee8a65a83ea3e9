//! A workload as a waypoint sees it: a certificate, a connection, tunnels on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::net::TcpStream;
use wayline_hbone::{Client, OpenError, TunnelStream};
use wayline_model::Identity;
use wayline_tls::{CertificateStore, DevCa, Epoch, HandshakeError};

use super::target::Target;
use crate::failure::Failure;

/// How long TCP, TLS and HTTP/2 to the waypoint may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the certificate lives.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Somebody with a certificate of the development CA.
pub(crate) struct Caller {
    identity: Identity,
    epoch: Arc<Epoch>,
}

impl Caller {
    /// Has a certificate issued, good for an hour.
    pub(crate) fn new(ca: &DevCa, identity: Identity) -> Result<Self, Failure> {
        let issued = ca.issue(&identity, LIFETIME)?;
        let store = CertificateStore::new();
        store.replace(issued.bundle())?;
        let epoch = store.current()?;
        Ok(Self { identity, epoch })
    }

    /// Connects to the waypoint at that address. The connection is driven by a task of this runtime.
    pub(crate) async fn connect(&self, via: SocketAddr) -> Result<Client, Failure> {
        let connect = async {
            let tcp = TcpStream::connect(via).await.map_err(|error| {
                Failure::new(format!("cannot reach the waypoint at {via}: {error}")).remedy(
                    "start it with `wayline run -f DIR --dev-ca DIR`, or name its address with --via",
                )
            })?;
            let _ = tcp.set_nodelay(true);
            let tls = wayline_tls::connect_to_any(&self.epoch, tcp)
                .await
                .map_err(|error| refused_handshake(via, &error))?;
            let settings = wayline_hbone::Settings::default();
            wayline_hbone::connect(tls, &settings)
                .await
                .map_err(|error| {
                    Failure::new(format!(
                        "the waypoint at {via} ended the connection: {error}"
                    ))
                })
        };
        let (client, driver) = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| {
                Failure::new(format!(
                    "the waypoint at {via} did not answer within {CONNECT_TIMEOUT:?}"
                ))
                .remedy("check the address given with --via")
            })??;
        tokio::spawn(driver);
        Ok(client)
    }

    /// Opens a tunnel to what the URL named.
    pub(crate) async fn open(
        &self,
        client: &Client,
        target: &Target,
    ) -> Result<TunnelStream, Failure> {
        client
            .open(target.authority(), HeaderMap::new())
            .await
            .map_err(|error| refused_tunnel(&self.identity, target, &error))
    }
}

fn refused_handshake(via: SocketAddr, error: &HandshakeError) -> Failure {
    let failure = Failure::new(format!("no mutual TLS with the waypoint at {via}: {error}"));
    match error {
        HandshakeError::UnknownIssuer | HandshakeError::RefusedByPeer(_) => {
            failure.remedy("use the --dev-ca folder (and --trust-domain) that the waypoint uses")
        }
        _ => failure.remedy("check that --via is the HBONE port of a waypoint (15008)"),
    }
}

fn refused_tunnel(identity: &Identity, target: &Target, error: &OpenError) -> Failure {
    let OpenError::Refused(status) = error else {
        return Failure::new(format!("no tunnel to {}: {error}", target.authority()))
            .remedy("look at the waypoint's log");
    };
    let (reason, remedy) = match status.as_u16() {
        401 | 403 => (
            "this identity may not connect there",
            "look at the AuthorizationPolicies of the target",
        ),
        400 | 404 => (
            "this waypoint does not serve that host and port",
            "check the name, the port and the label istio.io/use-waypoint",
        ),
        503 => (
            "the waypoint serves no such target, or nothing there takes the connection",
            "check the name, the port, the label istio.io/use-waypoint and the endpoints; the waypoint's log says which",
        ),
        _ => ("the waypoint refused", "look at the waypoint's log"),
    };
    Failure::new(format!(
        "tunnel to {} as {identity} refused: {status}: {reason}",
        target.authority()
    ))
    .remedy(remedy)
}
