//! Opening connections to endpoints: TCP, or a tunnel through the workload's HBONE port.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::net::TcpStream;
use wayline_hbone::{TunnelAuthority, TunnelPool};
use wayline_model::service::{Endpoint, Transport};

use super::endpoint::EndpointState;
use super::h1::H1Connection;
use super::h2::{H2Connection, StreamCount};
use crate::io::Io;

/// A connection ready for a request.
pub(crate) enum Checkout {
    /// Of its own.
    H1(Box<H1Connection>),
    /// Shared, with the count of the stream to come.
    H2(H2Connection, StreamCount),
}

/// Why no connection came about; the text is for logs (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
#[derive(Clone, Debug)]
pub(crate) struct ConnectFailure(pub(crate) Arc<str>);

impl ConnectFailure {
    fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string().into())
    }
}

/// A connection that is there already; `fresh` asks for a new one, where connections are not shared.
pub(crate) fn ready(endpoint: &EndpointState, http2: bool, fresh: bool) -> Option<Checkout> {
    if http2 {
        return ready_h2(endpoint);
    }
    if fresh {
        return None;
    }
    endpoint.take_idle().map(Checkout::H1)
}

fn ready_h2(endpoint: &EndpointState) -> Option<Checkout> {
    let connections = endpoint.h2.borrow();
    let connection = connections
        .iter()
        .find(|connection| connection.has_room())?;
    let stream = connection.reserve();
    Some(Checkout::H2(connection.clone(), stream))
}

/// Opens a connection.
pub(crate) async fn checkout(
    tunnels: &TunnelPool,
    endpoint: &Rc<EndpointState>,
    http2: bool,
    timeout: Duration,
) -> Result<Checkout, ConnectFailure> {
    if http2 {
        return checkout_h2(tunnels, endpoint, timeout).await;
    }
    let io = open_within(tunnels, endpoint, timeout).await?;
    Ok(Checkout::H1(H1Connection::new(io)))
}

/// Opens the byte stream to an endpoint.
pub(crate) async fn open_within(
    tunnels: &TunnelPool,
    endpoint: &Rc<EndpointState>,
    timeout: Duration,
) -> Result<Io, ConnectFailure> {
    within(endpoint, timeout, open(tunnels, &endpoint.endpoint)).await
}

async fn checkout_h2(
    tunnels: &TunnelPool,
    endpoint: &Rc<EndpointState>,
    timeout: Duration,
) -> Result<Checkout, ConnectFailure> {
    loop {
        if let Some(connection) = ready_h2(endpoint) {
            return Ok(connection);
        }
        if endpoint.dialing_h2.get() {
            endpoint.dialed_h2.notified().await;
            match endpoint.failed_dial() {
                // Shared with all who waited: one dial after the other would be as many timeouts
                // as there are requests.
                Some(failure) => return Err(failure),
                None => continue,
            }
        }
        let dialing = Dialing::start(endpoint);
        let dialled = within(endpoint, timeout, async {
            let io = open(tunnels, &endpoint.endpoint).await?;
            H2Connection::handshake(io)
                .await
                .map_err(ConnectFailure::new)
        })
        .await;
        endpoint.note_dial(dialled.as_ref().err().cloned());
        let connection = dialled?;
        let stream = connection.reserve();
        endpoint.h2.borrow_mut().push(connection.clone());
        drop(dialing);
        return Ok(Checkout::H2(connection, stream));
    }
}

/// One dial at a time per endpoint; whoever waits shares its failure, and dials in its place when it
/// was given up.
struct Dialing<'e>(&'e EndpointState);

impl<'e> Dialing<'e> {
    fn start(endpoint: &'e EndpointState) -> Self {
        endpoint.dialing_h2.set(true);
        endpoint.note_dial(None);
        Self(endpoint)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing_h2.set(false);
        self.0.dialed_h2.notify_waiters();
    }
}

/// Bounds a connection attempt and notes how it ended.
async fn within<T>(
    endpoint: &EndpointState,
    timeout: Duration,
    attempt: impl Future<Output = Result<T, ConnectFailure>>,
) -> Result<T, ConnectFailure> {
    let outcome = match tokio::time::timeout(timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectFailure::new(format_args!(
            "connection timeout after {timeout:?}"
        ))),
    };
    endpoint.connected(outcome.is_ok());
    outcome
}

/// Opens the byte stream to an endpoint of whatever cluster.
pub(crate) async fn open(tunnels: &TunnelPool, endpoint: &Endpoint) -> Result<Io, ConnectFailure> {
    let address = endpoint.address;
    match &endpoint.transport {
        Transport::Plain => {
            let stream = TcpStream::connect(address).await.map_err(describe)?;
            stream.set_nodelay(true).map_err(describe)?;
            Ok(Io::Tcp(stream))
        }
        Transport::Hbone { gateway, identity } => {
            let mut headers = HeaderMap::with_capacity(1);
            headers.insert("x-istio-source", HeaderValue::from_static("waypoint"));
            tunnels
                .open(
                    *gateway,
                    identity,
                    &TunnelAuthority::IpPort(address),
                    &headers,
                )
                .await
                .map(Io::Tunnel)
                .map_err(ConnectFailure::new)
        }
    }
}

fn describe(error: io::Error) -> ConnectFailure {
    // Envoy prints the bare reason of the system call; so do we, without `(os error N)`.
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or(&text);
    ConnectFailure::new(format_args!("delayed connect error: {reason}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdTcpStream;

    use futures_util::future::join_all;
    use socket2::{Domain, Socket, Type};
    use wayline_telemetry::{MetricsHub, MetricsSettings, WorkloadLabels};
    use wayline_tls::CertificateStore;

    use super::*;

    /// A port whose queue is full, so that connecting to it takes forever, and what fills it.
    fn busy_port() -> (Socket, std::net::SocketAddr, Vec<StdTcpStream>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = StdTcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        (socket, address, waiting)
    }

    #[tokio::test]
    async fn all_who_wait_for_a_dial_share_its_failure() {
        let (_socket, address, _waiting) = busy_port();
        let metrics = MetricsHub::new("0", MetricsSettings::default())
            .unwrap()
            .core();
        let endpoint = EndpointState::new(
            Arc::new(Endpoint {
                address,
                transport: Transport::Plain,
                workload: None,
                zone: "".into(),
                node: "".into(),
                for_zones: Arc::default(),
                for_nodes: Arc::default(),
            }),
            metrics.intern_workload(WorkloadLabels::unknown(&"c".into())),
        );
        let tunnels = TunnelPool::new(CertificateStore::default(), Default::default());
        let timeout = Duration::from_millis(100);
        let outcomes = join_all((0..20).map(|_| checkout(&tunnels, &endpoint, true, timeout)));
        let failures: Vec<_> = outcomes
            .await
            .into_iter()
            .map(|outcome| outcome.err().unwrap().0)
            .collect();
        assert!(failures[0].contains("timeout"), "{}", failures[0]);
        assert!(failures.iter().all(|it| Arc::ptr_eq(it, &failures[0])));
        assert!(!endpoint.dialing_h2.get());
    }
}
