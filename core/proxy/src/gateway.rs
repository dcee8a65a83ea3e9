//! Connections to a gateway's ports.

use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::rc::Rc;

use bytes::BytesMut;
use wayline_chain::Connection;

use crate::http;
use crate::ingress::{Ingress, Origin};
use crate::io::Io;
use crate::labels;
use crate::listener::EntranceKey;
use crate::tunnel::prepare;
use crate::worker::Worker;

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: StdTcpStream,
    source: SocketAddr,
    key: EntranceKey,
) {
    let stream = match prepare(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%source, %error, "a connection was gone before it was served");
            return;
        }
    };
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _open = worker.process.connection("gateway");
    let connection = Rc::new(Connection {
        identity: None,
        workload: None,
        source,
        local,
        destination_ip: Some(local.ip()),
        destination_port: key.port(),
        sni: None,
        mutual_tls: false,
        certificate: None,
        id: Connection::next_id(),
    });
    let peer = worker
        .metrics
        .intern_peer(labels::peer(&worker.plan().snapshot, &connection));
    let ingress = Ingress::new(worker, connection, peer, Origin::Entrance(key));
    http::server::serve(ingress, Io::Tcp(stream), BytesMut::new()).await;
}
