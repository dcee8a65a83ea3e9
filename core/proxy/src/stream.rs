//! What comes out of a tunnel, whoever took it apart: one connection of a workload to a target, served
//! as what is spoken on the target's port.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use wayline_chain::Connection;
use wayline_hbone::TunnelAuthority;
use wayline_model::snapshot::Target;
use wayline_telemetry::PeerId;

use crate::ingress::{Ingress, Origin};
use crate::io::Io;
use crate::labels;
use crate::opaque::Opaque;
use crate::plan::Plan;
use crate::worker::Worker;
use crate::{http, sniff};

/// What comes out of a tunnel: one connection of a workload to a target.
pub(crate) struct Stream {
    worker: Rc<Worker>,
    plan: Rc<Plan>,
    connection: Rc<Connection>,
    peer: PeerId,
    target: Arc<Target>,
    authority: TunnelAuthority,
}

impl Stream {
    /// A connection that was let in as far as its target goes.
    pub(crate) fn new(
        worker: Rc<Worker>,
        plan: Rc<Plan>,
        connection: Rc<Connection>,
        target: Arc<Target>,
        authority: TunnelAuthority,
    ) -> Self {
        let labels = labels::peer(&plan.snapshot, &connection);
        Self {
            peer: worker.metrics.intern_peer(labels),
            worker,
            plan,
            connection,
            target,
            authority,
        }
    }

    /// The connection as bytes that nobody reads.
    pub(crate) fn opaque(&self) -> Opaque {
        Opaque::new(
            Rc::clone(&self.worker),
            Rc::clone(&self.plan),
            &self.target,
            Rc::clone(&self.connection),
            self.peer.clone(),
        )
    }

    /// Serves it to its end, as what is spoken on the target's port.
    pub(crate) async fn serve(self, io: Io) {
        if self.target.protocol.is_opaque() {
            let opaque = self.opaque();
            if opaque.is_admitted() {
                opaque.relay(io, BytesMut::new(), None).await;
            } else {
                io.reset();
            }
            return;
        }
        let opaque = (!self.target.protocol.is_http()).then(|| self.opaque());
        let ingress = Ingress::new(
            self.worker,
            self.connection,
            self.peer,
            Origin::Tunnel(self.authority),
        );
        let Some(opaque) = opaque else {
            http::server::serve(ingress, io, BytesMut::new()).await;
            return;
        };
        match Box::pin(sniff::detect(io, &opaque)).await {
            sniff::Spoken::Http(io, first) => http::server::serve(ingress, io, first).await,
            sniff::Spoken::Opaque(io, first, upstream) => {
                opaque.relay(io, first, upstream).await;
            }
            sniff::Spoken::Nothing => {}
        }
    }
}
