//! Where requests come from: one connection of a gateway, or one stream of a tunnel.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use wayline_chain::Connection;
use wayline_hbone::TunnelAuthority;
use wayline_model::Snapshot;
use wayline_model::snapshot::Target;
use wayline_telemetry::{PeerId, Reporter, SecurityPolicy};

use crate::http::guard::Gate;
use crate::http::headers;
use crate::http::taking::Taking;
use crate::http::upgrade::Upgrade;
use crate::limits::Budget;
use crate::listener::EntranceKey;
use crate::plan::{Bound, Place, Plan};
use crate::worker::Worker;

/// One source of requests.
pub(crate) struct Ingress {
    /// The core it lives on.
    pub(crate) worker: Rc<Worker>,
    /// Who is at the other end.
    pub(crate) connection: Rc<Connection>,
    /// The peer's label set.
    pub(crate) peer: PeerId,
    /// The peer's address, as backends of a gateway are told it.
    pub(crate) forwarded_for: HeaderValue,
    /// Lets one HTTP/1 message pass at a time.
    pub(crate) gate: Rc<Gate>,
    /// Request heads of it in memory.
    pub(crate) heads: Budget,
    /// Whether its HTTP/1 exchange at hand changes the protocol.
    pub(crate) upgrade: Upgrade,
    /// Of the HTTP/2 stream that is being run.
    pub(crate) taking: Cell<Option<Rc<Taking>>>,
    retired: Cell<bool>,
    origin: Origin,
    current: RefCell<Option<(Rc<Plan>, Rc<Bound>)>>,
}

/// What the peer asked for when it came.
pub(crate) enum Origin {
    /// A tunnel to this authority.
    Tunnel(TunnelAuthority),
    /// A connection to a gateway's port.
    Entrance(EntranceKey),
}

impl Origin {
    /// What that is under a snapshot; `None` when it is not served (any more).
    pub(crate) fn place(&self, snapshot: &Snapshot) -> Option<Place> {
        match self {
            Self::Tunnel(authority) => {
                target(snapshot, authority).map(|target| Place::Target(Arc::clone(target)))
            }
            Self::Entrance(key) => snapshot
                .entrances
                .iter()
                .find(|entrance| key.names(entrance))
                .map(|entrance| Place::Entrance(Arc::clone(entrance))),
        }
    }
}

impl Ingress {
    /// A source of requests.
    pub(crate) fn new(
        worker: Rc<Worker>,
        connection: Rc<Connection>,
        peer: PeerId,
        origin: Origin,
    ) -> Rc<Self> {
        let heads = Budget::share(worker.limits.head_bytes_per_connection, 1);
        Rc::new(Self {
            worker,
            heads,
            forwarded_for: headers::forwarded_for(connection.source.ip()),
            connection,
            peer,
            gate: Rc::default(),
            upgrade: Upgrade::default(),
            taking: Cell::default(),
            retired: Cell::new(false),
            origin,
            current: RefCell::default(),
        })
    }

    /// What is in force for the next request. Policies and routes are looked up anew whenever the
    /// plan changed, also on connections that are old. Those of a listener that was removed are served
    /// by what was in force last, and shall end.
    pub(crate) fn in_force(&self) -> (Rc<Plan>, Option<Rc<Bound>>) {
        let plan = self.worker.plan();
        if let Some((known, bound)) = &*self.current.borrow()
            && Rc::ptr_eq(known, &plan)
        {
            return (plan, Some(Rc::clone(bound)));
        }
        let place = self.origin.place(&plan.snapshot);
        if place.is_none()
            && matches!(self.origin, Origin::Entrance(_))
            && let Some((last, bound)) = &*self.current.borrow()
        {
            self.retired.set(true);
            return (Rc::clone(last), Some(Rc::clone(bound)));
        }
        let bound = place.map(|place| plan.bind(&place, &self.worker.callout()));
        *self.current.borrow_mut() = bound
            .as_ref()
            .map(|bound| (Rc::clone(&plan), Rc::clone(bound)));
        (plan, bound)
    }

    /// Whether the peer is to be told that the connection ends: we leave, or its listener is gone.
    pub(crate) fn is_leaving(&self) -> bool {
        self.retired.get() || self.worker.drain.has_begun()
    }

    /// The `connection_security_policy` label.
    pub(crate) fn security(&self) -> SecurityPolicy {
        if self.connection.mutual_tls {
            SecurityPolicy::MutualTls
        } else {
            SecurityPolicy::Unknown
        }
    }

    /// The `reporter` label and the source to report.
    pub(crate) fn reporter<'a>(&'a self, bound: &'a Bound) -> (Reporter, &'a PeerId) {
        match Reporter::from(bound.place.proxy().role) {
            Reporter::Gateway => (Reporter::Gateway, &bound.itself),
            Reporter::Waypoint => (Reporter::Waypoint, &self.peer),
        }
    }
}

/// The target of a CONNECT authority.
pub(crate) fn target<'s>(
    snapshot: &'s Snapshot,
    authority: &TunnelAuthority,
) -> Option<&'s Arc<Target>> {
    match authority {
        TunnelAuthority::IpPort(address) => {
            snapshot
                .tunnels
                .address(&snapshot.mesh.network, address.ip(), address.port())
        }
        TunnelAuthority::Host { host, port } => snapshot.tunnels.host(host.as_str(), *port),
    }
}
