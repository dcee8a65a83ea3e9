//! Sessions on the request path: which endpoint a request's token names, and what its client is told.
//!
//! It refuses to know how a token looks: that is `wayline_model::route::session`'s business.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use wayline_model::Snapshot;
use wayline_model::route::{Forward, SessionPersistence, SessionToken};

use crate::upstream::Upstreams;
use crate::upstream::endpoint::EndpointState;

/// A session that goes on.
pub(crate) struct Resumed {
    /// Which of the rule's backends its endpoint is of.
    pub(crate) backend: usize,
    /// The endpoint it belongs to.
    pub(crate) endpoint: Rc<EndpointState>,
    /// What the client brought.
    pub(crate) token: SessionToken,
}

/// The session that a request belongs to, as long as its endpoint is there and can be reached. It counts
/// for more than the weights of backends (GEP-1619).
pub(crate) fn resume(
    upstreams: &Upstreams,
    snapshot: &Snapshot,
    forward: &Forward,
    headers: &HeaderMap,
) -> Option<Resumed> {
    let token = forward.session.as_ref()?.token(headers, now())?;
    let backends = forward.backends.iter().enumerate();
    backends
        .filter_map(|(index, backend)| Some((index, backend.cluster.as_ref().ok()?)))
        .find_map(|(backend, id)| {
            let cluster = upstreams.cluster(snapshot, *id)?;
            let name = Arc::clone(&cluster.cluster().name);
            let endpoint = cluster.find(|address| token.is_of(&name, address))?;
            Some(Resumed {
                backend,
                endpoint,
                token,
            })
        })
        .filter(|resumed| !resumed.endpoint.recently_failed())
}

/// Tells a client which endpoint answered, where that is news to it.
pub(crate) fn tell(
    sessions: &SessionPersistence,
    brought: Option<SessionToken>,
    cluster: &str,
    endpoint: &EndpointState,
    response: &mut HeaderMap,
) {
    let address = endpoint.endpoint.address;
    match brought.filter(|token| token.is_of(cluster, address)) {
        None => sessions.give(SessionToken::begin(cluster, address, now()), response),
        Some(token) if sessions.is_renewed() => sessions.give(token.used_at(now()), response),
        Some(_) => {}
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
