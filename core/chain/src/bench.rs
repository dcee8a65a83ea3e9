//! A bench for testing one filter, or a chain of them, without sockets and without a runtime.
//!
//! A [`Request`] says what comes in and from whom; a [`Bench`] plays the client and the upstream of
//! one exchange. Nothing happens by itself: every call that looks at an outcome first drives the
//! exchange as far as it goes, and [`Bench::wakes`] tells whether a filter asked to be driven again.
//!
//! ```
//! use http::HeaderValue;
//! use wayline_chain::bench::{Bench, Head, Request, chain_of};
//! use wayline_chain::{Begin, Filter, RequestContext};
//!
//! /// Tells the backend who calls.
//! struct Caller;
//!
//! impl Filter for Caller {
//!     fn name(&self) -> &str {
//!         "caller"
//!     }
//!
//!     fn begin(&self, context: &mut RequestContext) -> Begin {
//!         let account = match &context.connection.identity {
//!             Some(identity) => HeaderValue::from_str(identity.service_account()).ok(),
//!             None => None,
//!         };
//!         match account {
//!             Some(account) => context.headers_mut().insert("x-caller", account),
//!             None => context.headers_mut().remove("x-caller"),
//!         };
//!         Begin::Pass
//!     }
//! }
//!
//! let request = Request::get("/reviews/1").identity("spiffe://cluster.local/ns/default/sa/productpage");
//! let mut bench = Bench::start(&chain_of(Caller), request);
//!
//! assert!(matches!(bench.head(), Head::Passed { rewritten: false }));
//! assert_eq!(bench.context(|context| context.request().headers["x-caller"].clone()), "productpage");
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use http_body::{Body, Frame};
use wayline_model::ext_authz::DynamicMetadata;
use wayline_model::identity::Identity;
use wayline_model::request::{CanonicalRequest, PathNormalization};

use crate::body::{FilteredRequest, FilteredResponse};
use crate::chain::{Chain, Started};
use crate::context::{Connection, RequestContext};
use crate::filter::{Filter, LocalReply, Phase, Placed, ResponseHead};
use crate::runner::{ChainRun, Interrupt, Outcome};

/// A chain of one filter, in the phase of extensions without a phase.
pub fn chain_of(filter: impl Filter + 'static) -> Rc<Chain> {
    Rc::new(Chain::new(vec![Placed {
        phase: Phase::Extension,
        priority: 0,
        filter: Rc::new(filter),
    }]))
}

/// A request to try, and who sends it. Without further words it comes over mTLS from 192.0.2.1, with no
/// identity, for `backend.test` port 80, and has no body.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    authority: String,
    headers: HeaderMap,
    connection: Connection,
    metadata: Option<Box<DynamicMetadata>>,
    body: bool,
}

impl Request {
    /// A request; `path` may have a query.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            authority: "backend.test".to_owned(),
            headers: HeaderMap::new(),
            connection: Connection {
                identity: None,
                workload: None,
                source: SocketAddr::from(([192, 0, 2, 1], 40_000)),
                local: SocketAddr::from(([192, 0, 2, 2], 15_008)),
                destination_ip: None,
                destination_port: 80,
                sni: None,
                mutual_tls: true,
                certificate: None,
                id: 1,
            },
            metadata: None,
            body: false,
        }
    }

    /// A GET request.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST request whose body is sent with [`Bench::send`].
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::new(Method::POST, path).with_body()
    }

    /// Adds a header.
    ///
    /// # Panics
    /// When name or value cannot stand in a request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value))
        else {
            panic!("`{name}: {value}` is not a header");
        };
        self.headers.append(name, value);
        self
    }

    /// Sets host and port the client asks for.
    #[must_use]
    pub fn authority(mut self, authority: &str) -> Self {
        self.authority = authority.to_owned();
        self
    }

    /// Sets the SPIFFE identity of the caller.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn identity(mut self, uri: &str) -> Self {
        match uri.parse::<Identity>() {
            Ok(identity) => self.connection.identity = Some(identity),
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// Sets the address of the caller.
    #[must_use]
    pub fn source(mut self, ip: impl Into<IpAddr>) -> Self {
        self.connection.source.set_ip(ip.into());
        self
    }

    /// Edits the connection it comes on.
    #[must_use]
    pub fn connection(mut self, edit: impl FnOnce(&mut Connection)) -> Self {
        edit(&mut self.connection);
        self
    }

    /// What servers that were asked told about it before.
    #[must_use]
    pub fn metadata(mut self, metadata: DynamicMetadata) -> Self {
        self.metadata = Some(Box::new(metadata));
        self
    }

    /// Says that a body follows, which is sent with [`Bench::send`].
    #[must_use]
    pub fn with_body(mut self) -> Self {
        self.body = true;
        self
    }

    /// The context of such a request.
    ///
    /// # Panics
    /// When the request is not one that the proxy would take.
    #[must_use]
    pub fn context(self) -> RequestContext {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(self.path.as_str())
            .build();
        let request = uri.map_err(|error| error.to_string()).and_then(|uri| {
            CanonicalRequest::new(
                self.method,
                &uri,
                Version::HTTP_2,
                self.headers,
                PathNormalization::Base,
            )
            .map_err(|error| error.to_string())
        });
        match request {
            Ok(request) => {
                let mut context =
                    RequestContext::new(Rc::new(self.connection), request, !self.body);
                context.began = Some(Instant::now());
                context.metadata = self.metadata;
                context
            }
            Err(error) => panic!("{}{} is not a request: {error}", self.authority, self.path),
        }
    }
}

/// Where the request head is.
#[derive(Debug)]
#[must_use]
pub enum Head {
    /// A filter pauses it.
    Paused,
    /// It goes upstream.
    Passed {
        /// Whether method, path or authority were changed.
        rewritten: bool,
    },
    /// It was answered; pass this to [`Bench::reply`] to see it go back through the chain.
    Replied(LocalReply),
    /// The exchange was reset, with these details.
    Reset(Arc<str>),
}

/// What has come out at one end of the exchange.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Received {
    /// The body, chunk by chunk.
    pub chunks: Vec<Bytes>,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
    /// Whether the body has ended as it should.
    pub ended: bool,
    /// Why it broke off, if it did.
    pub error: Option<String>,
}

impl Received {
    /// The whole body so far.
    #[must_use]
    pub fn body(&self) -> String {
        String::from_utf8_lossy(&self.chunks.concat()).into_owned()
    }
}

/// One exchange, driven by hand.
pub struct Bench {
    side: Side,
    request: Tap,
    response: Tap,
    response_head: Option<ResponseHead>,
    sent_head: bool,
    upstream: Option<FilteredRequest<Tap>>,
    at_upstream: Received,
    client: Option<FilteredResponse<Tap>>,
    at_client: Received,
    wakes: Arc<Wakes>,
}

/// Who has the context.
enum Side {
    /// Nobody stayed.
    Alone(Box<RequestContext>, Option<Head>),
    /// A run.
    Running(ChainRun),
}

impl Bench {
    /// Lets a request meet a chain.
    #[must_use]
    pub fn start(chain: &Rc<Chain>, request: Request) -> Self {
        let tap = Tap::default();
        if !request.body {
            tap.end(None);
        }
        let mut context = request.context();
        let side = match chain.begin(&mut context) {
            Started::Passed { rewritten } => {
                Side::Alone(Box::new(context), Some(Head::Passed { rewritten }))
            }
            Started::Reply(reply) => Side::Alone(Box::new(context), Some(Head::Replied(reply))),
            Started::Running(opened) => Side::Running(opened.run(context)),
        };
        Self {
            side,
            request: tap,
            response: Tap::default(),
            response_head: None,
            sent_head: false,
            upstream: None,
            at_upstream: Received::default(),
            client: None,
            at_client: Received::default(),
            wakes: Arc::default(),
        }
    }

    /// Drives the request head. When it is no longer paused, ask once.
    ///
    /// # Panics
    /// When asked again after the outcome was told.
    pub fn head(&mut self) -> Head {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut task = task::Context::from_waker(&waker);
        match &mut self.side {
            Side::Alone(_, outcome) => match outcome.take() {
                Some(head) => head,
                None => panic!("the outcome of the request head was told already"),
            },
            Side::Running(run) => {
                let Poll::Ready(Ok(outcome)) = run.poll_request(&mut self.request, &mut task)
                else {
                    return Head::Paused;
                };
                match outcome {
                    Outcome::Continue { rewritten } => Head::Passed { rewritten },
                    Outcome::Reply(reply) => Head::Replied(reply),
                    Outcome::Reset(details) => Head::Reset(details),
                }
            }
        }
    }

    /// The client sends body bytes.
    pub fn send(&mut self, chunk: impl Into<Bytes>) -> &mut Self {
        self.request.push(chunk.into());
        self
    }

    /// The client ends its body, with trailers or without.
    pub fn end(&mut self, trailers: Option<HeaderMap>) -> &mut Self {
        self.request.end(trailers);
        self
    }

    /// What the upstream has received. To be asked once the head has passed.
    pub fn upstream(&mut self) -> &Received {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut task = task::Context::from_waker(&waker);
        match &self.side {
            Side::Alone(..) => drain(&mut self.request, &mut self.at_upstream, &mut task),
            Side::Running(run) => {
                let body = self
                    .upstream
                    .get_or_insert_with(|| run.request_body(self.request.clone()));
                drain(body, &mut self.at_upstream, &mut task);
            }
        }
        &self.at_upstream
    }

    /// What a filter did to the exchange while its request body was read, told once.
    pub fn interrupt(&mut self) -> Option<Interrupt> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut task = task::Context::from_waker(&waker);
        match &self.side {
            Side::Alone(..) => None,
            Side::Running(run) => match run.poll_interrupt(&mut task) {
                Poll::Ready(interrupt) => Some(interrupt),
                Poll::Pending => None,
            },
        }
    }

    /// The upstream answers with this head and a body, sent with [`Bench::send_back`].
    pub fn respond(&mut self, status: StatusCode, headers: &[(&str, &str)]) -> &mut Self {
        let mut head = ResponseHead {
            status,
            headers: HeaderMap::new(),
        };
        for (name, value) in headers {
            let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            else {
                panic!("`{name}: {value}` is not a header");
            };
            head.headers.append(name, value);
        }
        self.response_head = Some(head);
        self
    }

    /// The data path answers with a reply made here.
    pub fn reply(&mut self, reply: LocalReply) -> &mut Self {
        let head = match &self.side {
            Side::Running(run) => run.start_reply(reply),
            Side::Alone(context, _) => {
                let (head, body) = reply.into_parts(&context.request().method);
                self.response.push(body);
                self.response.end(None);
                head
            }
        };
        self.response_head = Some(head);
        self
    }

    /// The upstream sends body bytes.
    pub fn send_back(&mut self, chunk: impl Into<Bytes>) -> &mut Self {
        self.response.push(chunk.into());
        self
    }

    /// The upstream ends its body, with trailers or without.
    pub fn end_back(&mut self, trailers: Option<HeaderMap>) -> &mut Self {
        self.response.end(trailers);
        self
    }

    /// Drives the response head: `None` while it is paused, or when the exchange was reset.
    ///
    /// # Panics
    /// When nobody has answered yet.
    pub fn response(&mut self) -> Option<&ResponseHead> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut task = task::Context::from_waker(&waker);
        let Some(head) = &mut self.response_head else {
            panic!("nobody has answered: call `respond` or `reply` first");
        };
        if let Side::Running(run) = &self.side
            && !self.sent_head
        {
            match run.poll_response(head, &mut self.response, &mut task) {
                Poll::Pending => return None,
                Poll::Ready(Err(error)) => {
                    self.at_client.error = Some(error.to_string());
                    return None;
                }
                Poll::Ready(Ok(())) => {}
            }
        }
        self.sent_head = true;
        self.response_head.as_ref()
    }

    /// What the client has received. To be asked once the response head has passed.
    pub fn client(&mut self) -> &Received {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut task = task::Context::from_waker(&waker);
        match &self.side {
            Side::Alone(..) => drain(&mut self.response, &mut self.at_client, &mut task),
            Side::Running(run) => {
                let body = self
                    .client
                    .get_or_insert_with(|| run.response_body(Some(self.response.clone())));
                drain(body, &mut self.at_client, &mut task);
            }
        }
        &self.at_client
    }

    /// Reads or edits the context.
    pub fn context<R>(&mut self, visit: impl FnOnce(&mut RequestContext) -> R) -> R {
        match &mut self.side {
            Side::Alone(context, _) => visit(context),
            Side::Running(run) => run.with_context(visit),
        }
    }

    /// The run, when a filter follows the exchange.
    #[must_use]
    pub fn run(&self) -> Option<&ChainRun> {
        match &self.side {
            Side::Alone(..) => None,
            Side::Running(run) => Some(run),
        }
    }

    /// How many request chunks nobody has read: back-pressure made visible.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.request.0.borrow().frames.len()
    }

    /// How often a filter asked to be driven again.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }
}

/// A body fed by hand; clones are the same body.
#[derive(Clone, Default)]
struct Tap(Rc<RefCell<Pipe>>);

#[derive(Default)]
struct Pipe {
    frames: VecDeque<Frame<Bytes>>,
    ended: bool,
}

impl Tap {
    fn push(&self, chunk: Bytes) {
        self.0.borrow_mut().frames.push_back(Frame::data(chunk));
    }

    fn end(&self, trailers: Option<HeaderMap>) {
        let mut pipe = self.0.borrow_mut();
        pipe.frames.extend(trailers.map(Frame::trailers));
        pipe.ended = true;
    }
}

impl Body for Tap {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut pipe = self.0.borrow_mut();
        match pipe.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if pipe.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        let pipe = self.0.borrow();
        pipe.ended && pipe.frames.is_empty()
    }
}

/// Counts the wakes of the one task that a bench is.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads all that can be read.
fn drain<B>(body: &mut B, received: &mut Received, task: &mut task::Context<'_>)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    while !received.ended && received.error.is_none() {
        match Pin::new(&mut *body).poll_frame(task) {
            Poll::Pending => return,
            Poll::Ready(None) => received.ended = true,
            Poll::Ready(Some(Err(error))) => received.error = Some(error.to_string()),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => received.chunks.push(data),
                Err(other) => received.trailers = other.into_trailers().ok(),
            },
        }
    }
}
