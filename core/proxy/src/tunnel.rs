//! Tunnels: from a TCP connection on the HBONE port to the streams inside, each with its target.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;
use wayline_chain::Connection;
use wayline_hbone::{Connect, Handler, Refusal, ServeError, TunnelAuthority};
use wayline_model::snapshot::Target;
use wayline_model::{Identity, Snapshot};
use wayline_tls::{HandshakeError, PeerChain, ServerStream};

use crate::ingress;
use crate::io::Io;
use crate::limits::PeerLease;
use crate::plan::Plan;
use crate::stream::Stream;
use crate::worker::{LocalExecutor, Worker};

/// Time for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one HBONE connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: StdTcpStream, source: SocketAddr) {
    // Boxed: the handshake's room is given back before the connection is served, maybe for hours.
    let Some(admitted) = Box::pin(admit(&worker, stream, source)).await else {
        return;
    };
    let Admitted {
        io,
        peer,
        chain,
        not_after,
        _lease,
    } = admitted;
    let _open = worker.process.connection("hbone");
    let mut member = worker.drain.connection();
    let grace = worker.timeouts.certificate;
    let expires = worker.timers.timer();
    let lasts = match grace.is_zero() {
        true => Duration::ZERO,
        false => left_of(not_after).saturating_add(grace),
    };
    let leaving = async {
        tokio::select! {
            biased;
            () = member.finishing() => {}
            () = poll_fn(|cx| expires.lasting_for(lasts, cx)) => {
                tracing::debug!(%source, "a client's certificate has ended: no more streams of it");
            }
        }
    };
    let handler = Streams {
        worker: Rc::clone(&worker),
        peer,
    };
    let mut serving = pin!(wayline_hbone::serve(io, &worker.hbone, leaving, handler));
    let served = tokio::select! {
        biased;
        served = serving.as_mut() => served,
        // Whoever took the certificate back means those who use it now.
        () = worker.certificates.taken_back(&chain) => {
            let detail = "the certificate of an open connection was taken back";
            worker.refusals.note("revoked", source, detail);
            return;
        }
    };
    match served {
        Ok(()) => {}
        Err(ServeError::Flood(flood)) => {
            worker.refusals.note(flood.name(), source, flood);
        }
        Err(error) => tracing::debug!(%source, %error, "an HBONE connection ended"),
    }
}

/// A client that may come in.
struct Admitted {
    io: ServerStream,
    peer: Rc<Peer>,
    chain: PeerChain,
    not_after: SystemTime,
    _lease: PeerLease,
}

/// The handshake, and whether whoever comes may; `None` when he may not, which is noted.
async fn admit(worker: &Worker, stream: StdTcpStream, source: SocketAddr) -> Option<Admitted> {
    let stream = match prepare(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%source, %error, "a connection was gone before it was served");
            return None;
        }
    };
    let local = stream.local_addr().ok()?;
    let Some(_handshake) = worker.handshakes.take(1) else {
        let detail = "too many TLS handshakes are under way";
        worker.refusals.note("too_many_handshakes", source, detail);
        return None;
    };
    let accepted = match wayline_tls::accept(&worker.certificates, stream, HANDSHAKE_TIMEOUT).await
    {
        Ok(accepted) => accepted,
        Err(HandshakeError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            // Health checks of load balancers connect and leave; nobody was refused.
            tracing::debug!(%source, "a connection ended before it said anything");
            return None;
        }
        Err(error) => {
            worker.refusals.note(error.reason(), source, &error);
            return None;
        }
    };
    let limit = worker.limits.connections_per_identity;
    let Some(lease) = worker.peers.take(&accepted.peer, limit) else {
        let detail = format_args!(
            "{} has {limit} open (--max-connections-per-identity)",
            accepted.peer
        );
        let reason = "too_many_connections_of_identity";
        worker.refusals.note(reason, source, detail);
        return None;
    };
    let peer = Rc::new(Peer {
        identity: accepted.peer,
        certificate: accepted.peer_certificate,
        source,
        local,
    });
    Some(Admitted {
        io: accepted.io,
        peer,
        chain: accepted.peer_chain,
        not_after: accepted.peer_not_after,
        _lease: lease,
    })
}

/// How long something is valid yet, whatever the clock says later.
fn left_of(end: SystemTime) -> Duration {
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Takes a connection over from the thread that accepted it.
pub(crate) fn prepare(stream: StdTcpStream) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

struct Peer {
    identity: Identity,
    certificate: Arc<[u8]>,
    source: SocketAddr,
    local: SocketAddr,
}

struct Streams {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
}

impl Handler for Streams {
    fn connect(&mut self, connect: Connect) {
        let worker = Rc::clone(&self.worker);
        let peer = Rc::clone(&self.peer);
        LocalExecutor::spawn(async move {
            let _busy = worker.load.stream();
            stream(worker, &peer, connect).await;
        });
    }

    fn refused(&mut self, refusal: Refusal) {
        self.worker
            .refusals
            .note("bad_connect", self.peer.source, refusal);
    }
}

/// Serves one stream of a tunnel.
async fn stream(worker: Rc<Worker>, peer: &Peer, connect: Connect) {
    let plan = worker.plan();
    let authority = connect.authority.clone();
    let Some(target) = ingress::target(&plan.snapshot, &authority).map(Arc::clone) else {
        let (status, reason) = unserved(&plan.snapshot, &authority);
        worker.refusals.note(
            "unknown_target",
            peer.source,
            format_args!("{} asked for {authority}: {reason}", peer.identity),
        );
        connect.respond.refuse(status);
        return;
    };
    let connection = Rc::new(connection(&plan, peer, &authority, &target));
    let is_opaque = target.protocol.is_opaque();
    let stream = Stream::new(worker, plan, connection, target, authority);
    if is_opaque {
        stream.opaque().serve(connect.respond).await;
        return;
    }
    match connect.respond.accept(HeaderMap::new()) {
        Ok(tunnel) => stream.serve(Io::Tunnel(tunnel)).await,
        Err(error) => tracing::debug!(%error, "a tunnel was gone before it was answered"),
    }
}

fn connection(
    plan: &Plan,
    peer: &Peer,
    authority: &TunnelAuthority,
    target: &Target,
) -> Connection {
    let snapshot = &plan.snapshot;
    let workload =
        snapshot
            .workloads
            .peer(&snapshot.mesh.network, peer.source.ip(), &peer.identity);
    Connection {
        identity: Some(peer.identity.clone()),
        workload: workload.map(Arc::clone),
        source: peer.source,
        local: peer.local,
        destination_ip: match authority {
            TunnelAuthority::IpPort(address) => Some(address.ip()),
            TunnelAuthority::Host { .. } => None,
        },
        destination_port: target.port,
        sni: None,
        mutual_tls: true,
        certificate: Some(Arc::clone(&peer.certificate)),
        id: Connection::next_id(),
    }
}

/// ztunnel's codes: 400 for what is known and not ours, 503 for what is not known.
pub(crate) fn unserved(snapshot: &Snapshot, authority: &TunnelAuthority) -> (StatusCode, String) {
    if let TunnelAuthority::IpPort(address) = authority {
        let ip = address.ip().to_canonical();
        if let Some(reason) = snapshot.tunnels.unserved.get(&ip) {
            return (StatusCode::BAD_REQUEST, reason.to_string());
        }
        let pod = (Arc::clone(&snapshot.mesh.network), ip);
        if let Some(workload) = snapshot.workloads.by_address.get(&pod) {
            let reason = format!(
                "no waypoint of this process serves port {} of the Pod {}/{}",
                address.port(),
                workload.namespace,
                workload.name
            );
            return (StatusCode::BAD_REQUEST, reason);
        }
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "no such target is served here".to_owned(),
    )
}

/// Awaits something, unless the peer gives up on a tunnel that was not answered yet.
pub(crate) async fn unless_abandoned<F: Future>(
    respond: &mut wayline_hbone::Responder,
    work: F,
) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if respond.poll_abandoned(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}
