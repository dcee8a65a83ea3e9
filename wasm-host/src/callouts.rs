//! Requests of modules: which are under way, and the reply that a module is being told.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use rustc_hash::FxHashMap;
use wayline_chain::{CalloutBody, CalloutError, CalloutRequest, CalloutStream};
use wayline_model::defence::stands;

use crate::book::CalloutResult;
use crate::grpc::{self, GrpcEvent, Outbox, OutboxBody};
use crate::instance::Home;
use crate::state::State;
use crate::status::{Map, Status};

/// Callouts of one instance.
pub(crate) struct Callouts {
    pub(crate) home: Home,
    /// By token.
    under_way: FxHashMap<u32, Call>,
    last: u32,
    /// The reply that the module is being told.
    pub(crate) reply: Option<Reply>,
    /// The metadata of a gRPC call that the module is being told.
    pub(crate) metadata: Option<(Map, HeaderMap)>,
    /// The message of a gRPC call that the module is being told.
    pub(crate) message: Option<Bytes>,
}

/// A callout under way.
struct Call {
    /// The stream it is for; 0 for the root's.
    owner: u32,
    kind: Kind,
    /// What is sent on it, for gRPC.
    outbox: Rc<Outbox>,
}

/// What a callout is; Envoy tells them apart by the low bits of their tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Http = 0,
    GrpcCall = 1,
    GrpcStream = 2,
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Something that happened to a callout.
pub(crate) struct Delivery {
    token: u32,
    news: News,
}

enum News {
    Http(Result<(Response<Bytes>, HeaderMap), CalloutError>),
    Grpc(GrpcEvent),
}

/// What the module is told of it.
pub(crate) enum Event {
    HttpResponse {
        token: u32,
        headers: u32,
        body: u32,
        trailers: u32,
    },
    InitialMetadata {
        token: u32,
        headers: u32,
    },
    Message {
        token: u32,
        size: u32,
    },
    TrailingMetadata {
        token: u32,
        headers: u32,
    },
    Close {
        token: u32,
        code: u32,
    },
}

/// Tokens of one kind lie so far apart.
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
        let call = self.under_way.get(&delivery.token);
        call.map_or(0, |call| call.owner)
    }

    /// Whether some callout is under way.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Takes a delivery, with the stream whose callout it ends, and what the module is to be told.
    pub(crate) fn accept(&mut self, delivery: Delivery) -> (Option<u32>, Option<Event>) {
        let token = delivery.token;
        let Some(call) = self.under_way.get(&token) else {
            return (None, None);
        };
        let (owner, kind) = (call.owner, call.kind);
        let event = match delivery.news {
            News::Http(result) => Some(self.http(token, result)),
            News::Grpc(event) => self.grpc(token, kind, event),
        };
        // A call has one answer, and is over with it.
        let over = match (kind, &event) {
            (Kind::Http, _) | (_, Some(Event::Close { .. })) => true,
            (Kind::GrpcCall, event) => matches!(event, Some(Event::Message { .. })),
            (Kind::GrpcStream, _) => false,
        };
        let ended = over.then(|| self.under_way.remove(&token)).flatten();
        if let Some(call) = &ended
            && kind == Kind::GrpcCall
        {
            call.outbox.cancel();
        }
        (ended.map(|_| owner), event)
    }

    /// The module was told.
    pub(crate) fn forget(&mut self) {
        self.reply = None;
        self.metadata = None;
        self.message = None;
    }

    /// What a module sends on a gRPC call.
    pub(crate) fn outbox(&self, token: u32) -> Result<(Kind, &Rc<Outbox>), Status> {
        if token % STEP != Kind::GrpcCall as u32 && token % STEP != Kind::GrpcStream as u32 {
            return Err(Status::BadArgument);
        }
        let call = self.under_way.get(&token).ok_or(Status::NotFound)?;
        Ok((call.kind, &call.outbox))
    }

    /// Gives a gRPC call up: nothing more is told of it. Answers the stream it was for.
    pub(crate) fn cancel(&mut self, token: u32) -> u32 {
        let Some(call) = self.under_way.remove(&token) else {
            return 0;
        };
        call.outbox.cancel();
        call.owner
    }

    fn http(
        &mut self,
        token: u32,
        result: Result<(Response<Bytes>, HeaderMap), CalloutError>,
    ) -> Event {
        let Ok((response, trailers)) = result else {
            return Event::HttpResponse {
                token,
                headers: 0,
                body: 0,
                trailers: 0,
            };
        };
        let (parts, body) = response.into_parts();
        let event = Event::HttpResponse {
            token,
            headers: count(parts.headers.len() + 1),
            body: count(body.len()),
            trailers: count(trailers.len()),
        };
        self.reply = Some(Reply {
            status: parts.status,
            headers: parts.headers,
            body,
            trailers,
        });
        event
    }

    /// Of a unary call Envoy tells the message, or that there is none.
    fn grpc(&mut self, token: u32, kind: Kind, event: GrpcEvent) -> Option<Event> {
        let streams = kind == Kind::GrpcStream;
        match event {
            GrpcEvent::InitialMetadata(headers) => streams.then(|| {
                let event = Event::InitialMetadata {
                    token,
                    headers: count(headers.len()),
                };
                self.metadata = Some((Map::GrpcInitialMetadata, headers));
                event
            }),
            GrpcEvent::TrailingMetadata(headers) => streams.then(|| {
                let event = Event::TrailingMetadata {
                    token,
                    headers: count(headers.len()),
                };
                self.metadata = Some((Map::GrpcTrailingMetadata, headers));
                event
            }),
            GrpcEvent::Message(message) => {
                let size = count(message.len());
                self.message = Some(message);
                Some(Event::Message { token, size })
            }
            GrpcEvent::Close(code, message) => {
                self.message = Some(message);
                Some(Event::Close { token, code })
            }
        }
    }

    fn next(&mut self, kind: Kind) -> u32 {
        loop {
            self.last = self.last.wrapping_add(STEP) & !(STEP - 1);
            let token = self.last + kind as u32;
            if self.last != 0 && !self.under_way.contains_key(&token) {
                return token;
            }
        }
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether the plugin may call that backend, and it exists.
pub(crate) fn is_reachable(state: &State, backend: &str) -> bool {
    let allowed = state.plugin.callouts.as_ref().is_none_or(|allowed| {
        allowed
            .iter()
            .any(|name| &**name == "*" || &**name == backend)
    });
    (allowed || !stands("wasm-callout-allow-list")) && state.callout.knows(backend)
}

/// Sends a request for the context that the module works for, and answers its token.
pub(crate) fn send(state: &mut State, request: CalloutRequest) -> Result<u32, Status> {
    let token = begin(state, Kind::Http, Rc::default())?;
    let home = Rc::clone(&state.callouts.home);
    let book = Arc::clone(&state.book);
    let reply = state.callout.call(request);
    state.callout.spawn(Box::pin(async move {
        let result = reply.await;
        book.callout(match &result {
            Ok(_) => CalloutResult::Success,
            Err(CalloutError::Timeout) => CalloutResult::Timeout,
            Err(_) => CalloutResult::Failure,
        });
        deliver(&home, token, News::Http(result));
    }));
    Ok(token)
}

/// Opens a gRPC call, and answers its token.
pub(crate) fn open(
    state: &mut State,
    kind: Kind,
    backend: &str,
    request: Request<()>,
    first: Option<&[u8]>,
    deadline: Option<Duration>,
) -> Result<u32, Status> {
    let outbox = Rc::new(Outbox::default());
    if let Some(message) = first {
        if !outbox.send(message) {
            return Err(Status::InternalFailure);
        }
        outbox.end();
    }
    let token = begin(state, kind, Rc::clone(&outbox))?;
    let body: CalloutBody = Box::pin(OutboxBody(Rc::clone(&outbox)));
    let opened = state.callout.open(CalloutStream {
        backend: backend.into(),
        request: request.map(|()| body),
    });
    let deadline = deadline.map(|time| state.callout.sleep(time));
    let home = Rc::clone(&state.callouts.home);
    let book = Arc::clone(&state.book);
    let tell = move |event| {
        if let GrpcEvent::Close(code, _) = &event {
            book.callout(match code {
                0 => CalloutResult::Success,
                4 => CalloutResult::Timeout,
                _ => CalloutResult::Failure,
            });
        }
        deliver(&home, token, News::Grpc(event))
    };
    let call = grpc::drive(opened, outbox, deadline, tell);
    state.callout.spawn(Box::pin(call));
    Ok(token)
}

/// A callout of a stream is over.
pub(crate) fn settle(state: &State, owner: u32) {
    if let Some(stream) = state.streams.get(&owner) {
        stream.callouts.set(stream.callouts.get().saturating_sub(1));
    }
}

/// Makes room for one more callout of the context that the module works for.
fn begin(state: &mut State, kind: Kind, outbox: Rc<Outbox>) -> Result<u32, Status> {
    let stream = state.stream();
    let room = match stream {
        Some(stream) => stream.callouts.get() < state.plugin.limits.callouts,
        None => state.callouts.under_way.len() < ROOT_LIMIT,
    };
    if !room && stands("wasm-callout-limit") {
        state.book.callout(CalloutResult::Refused);
        return Err(Status::InternalFailure);
    }
    let owner = match stream {
        Some(stream) => {
            stream.callouts.set(stream.callouts.get() + 1);
            state.context()
        }
        None => 0,
    };
    let token = state.callouts.next(kind);
    let call = Call {
        owner,
        kind,
        outbox,
    };
    state.callouts.under_way.insert(token, call);
    Ok(token)
}

/// Says whether there is anybody to hear it.
fn deliver(home: &Home, token: u32, news: News) -> bool {
    let instance = home.borrow().upgrade();
    match instance {
        Some(instance) => {
            instance.deliver(Delivery { token, news });
            instance.is_alive()
        }
        None => false,
    }
}
