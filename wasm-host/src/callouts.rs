//! Requests of modules: which are under way, and the reply that a module is being told.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use rustc_hash::FxHashMap;
use wayline_chain::{CalloutError, CalloutRequest};

use crate::book::CalloutResult;
use crate::instance::Home;
use crate::state::State;
use crate::status::{Map, Status};

/// Callouts of one instance.
pub(crate) struct Callouts {
    pub(crate) home: Home,
    /// By token; the stream that each is for, 0 for the root's.
    under_way: FxHashMap<u32, u32>,
    last: u32,
    /// The reply that the module is being told.
    pub(crate) reply: Option<Reply>,
    /// The metadata of a gRPC call that the module is being told.
    pub(crate) metadata: Option<(Map, HeaderMap)>,
    /// The message of a gRPC call that the module is being told.
    pub(crate) message: Option<Bytes>,
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// A callout that has ended.
pub(crate) struct Delivery {
    token: u32,
    result: Result<(Response<Bytes>, HeaderMap), CalloutError>,
}

/// What the module is told of it.
pub(crate) struct Event {
    pub(crate) owner: u32,
    pub(crate) token: u32,
    pub(crate) headers: u32,
    pub(crate) body: u32,
    pub(crate) trailers: u32,
}

/// Tokens of HTTP callouts are multiples of this: Envoy tells kinds apart by the rest.
const STEP: u32 = 4;

/// Callouts that a root may have under way.
const ROOT_LIMIT: usize = 64;

/// Longest response body that is taken, in bytes.
pub(crate) const RESPONSE_LIMIT: usize = 1 << 20;

impl Callouts {
    pub(crate) fn new(home: Home) -> Self {
        Self {
            home,
            under_way: FxHashMap::default(),
            last: 0,
            reply: None,
            metadata: None,
            message: None,
        }
    }

    /// The stream a delivery is for; 0 for none.
    pub(crate) fn owner(&self, delivery: &Delivery) -> u32 {
        self.under_way.get(&delivery.token).copied().unwrap_or(0)
    }

    /// Takes a delivery; nothing where nobody waits for it.
    pub(crate) fn accept(&mut self, delivery: Delivery) -> Option<Event> {
        let owner = self.under_way.remove(&delivery.token)?;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut event = Event {
            owner,
            token: delivery.token,
            headers: 0,
            body: 0,
            trailers: 0,
        };
        if let Ok((response, trailers)) = delivery.result {
            let (parts, body) = response.into_parts();
            event.headers = count(parts.headers.len() + 1);
            event.body = count(body.len());
            event.trailers = count(trailers.len());
            self.reply = Some(Reply {
                status: parts.status,
                headers: parts.headers,
                body,
                trailers,
            });
        }
        Some(event)
    }

    /// The module was told.
    pub(crate) fn forget(&mut self) {
        self.reply = None;
    }

    fn next(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(STEP);
            if self.last != 0 && !self.under_way.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

/// Whether the plugin may call that backend, and it exists.
pub(crate) fn is_reachable(state: &State, backend: &str) -> bool {
    let allowed = state.plugin.callouts.as_ref().is_none_or(|allowed| {
        allowed
            .iter()
            .any(|name| &**name == "*" || &**name == backend)
    });
    allowed && state.callout.knows(backend)
}

/// Sends a request for the context that the module works for, and answers its token.
pub(crate) fn send(state: &mut State, request: CalloutRequest) -> Result<u32, Status> {
    let owner = state.stream().map(|_| state.context()).unwrap_or(0);
    let room = match state.stream() {
        Some(stream) => stream.callouts.get() < state.plugin.limits.callouts,
        None => state.callouts.under_way.len() < ROOT_LIMIT,
    };
    if !room {
        state.book.callout(CalloutResult::Refused);
        return Err(Status::InternalFailure);
    }
    if let Some(stream) = state.stream() {
        stream.callouts.set(stream.callouts.get() + 1);
    }
    let token = state.callouts.next();
    state.callouts.under_way.insert(token, owner);
    let home = state.callouts.home.clone();
    let book = Arc::clone(&state.book);
    let reply = state.callout.call(request);
    state.callout.spawn(Box::pin(async move {
        let result = reply.await;
        book.callout(match &result {
            Ok(_) => CalloutResult::Success,
            Err(CalloutError::Timeout) => CalloutResult::Timeout,
            Err(_) => CalloutResult::Failure,
        });
        let instance = home.borrow().upgrade();
        if let Some(instance) = instance {
            instance.deliver(Delivery { token, result });
        }
    }));
    Ok(token)
}
