//! What a ztunnel in front of us took out of its tunnels ("sandwich"): connections from the loopback
//! interface, each behind a header of the PROXY protocol that says who called and whom.
//!
//! The ztunnel has ended the mutual TLS and judged its peer; its word counts because the listener takes
//! nobody who is not on this machine. From the header on, a connection is what comes out of a tunnel of
//! our own. A caller that came to the ztunnel in plain text has no identity, here as in policies.

use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use wayline_chain::Connection;
use wayline_hbone::{ProxyHeader, TunnelAuthority};
use wayline_model::snapshot::Target;

use crate::ingress;
use crate::io::Io;
use crate::plan::Plan;
use crate::stream::Stream;
use crate::tunnel::{prepare, unserved};
use crate::worker::Worker;

/// Time for the header, which ztunnel writes as soon as it is connected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one connection to its end. `port` is the one it came to.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: StdTcpStream,
    ztunnel: SocketAddr,
    port: u16,
) {
    let mut stream = match prepare(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%ztunnel, %error, "a connection was gone before it was served");
            return;
        }
    };
    let Some(handshake) = worker.handshakes.take(1) else {
        let detail = "too many connections say who they are";
        worker.refusals.note("too_many_handshakes", ztunnel, detail);
        return;
    };
    let header = match ProxyHeader::read(&mut stream, HEADER_TIMEOUT).await {
        Ok(header) => header,
        Err(error) => {
            worker.refusals.note("bad_proxy_header", ztunnel, error);
            Io::Tcp(stream).reset();
            return;
        }
    };
    drop(handshake);
    let limit = worker.limits.connections_per_identity;
    let lease = header
        .identity
        .as_ref()
        .map(|it| worker.peers.take(it, limit));
    if let Some(None) = lease {
        let reason = "too_many_connections_of_identity";
        let detail = format_args!("{} has {limit} open", who(&header));
        worker.refusals.note(reason, header.source, detail);
        return;
    }
    let plan = worker.plan();
    let authority = TunnelAuthority::IpPort(header.destination);
    let target = ingress::target(&plan.snapshot, &authority)
        .filter(|target| target.proxy.proxy_protocol == Some(port))
        .map(Arc::clone);
    let Some(target) = target else {
        let (_, reason) = unserved(&plan.snapshot, &authority);
        let detail = format_args!("{} asked for {authority}: {reason}", who(&header));
        worker
            .refusals
            .note("unknown_target", header.source, detail);
        Io::Tcp(stream).reset();
        return;
    };
    let _open = worker.process.connection("proxy-protocol");
    let _busy = worker.load.stream();
    let connection = Rc::new(connection(&plan, header, &target));
    let stream_of_tunnel = Stream::new(worker, plan, connection, target, authority);
    stream_of_tunnel.serve(Io::Tcp(stream)).await;
}

fn who(header: &ProxyHeader) -> &str {
    let identity = header.identity.as_ref();
    identity.map_or("a caller without identity", |it| it.uri())
}

fn connection(plan: &Plan, header: ProxyHeader, target: &Target) -> Connection {
    let snapshot = &plan.snapshot;
    let workload = header.identity.as_ref().and_then(|identity| {
        let network = &snapshot.mesh.network;
        snapshot
            .workloads
            .peer(network, header.source.ip(), identity)
    });
    Connection {
        workload: workload.map(Arc::clone),
        source: header.source,
        local: header.destination,
        destination_ip: Some(header.destination.ip()),
        destination_port: target.port,
        sni: None,
        mutual_tls: header.identity.is_some(),
        certificate: None,
        id: Connection::next_id(),
        identity: header.identity,
    }
}
