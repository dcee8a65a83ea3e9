//! Filters of byte streams: what one is told of a connection, and what it may answer (Envoy's network
//! filters).
//!
//! Owns [`NetworkFilter`], [`ConnectionFilter`] and the chain of them; [`NetworkRun`] takes one
//! connection through it. Refuses to know sockets: whoever copies bytes feeds the run and writes what
//! comes out. A connection without such filters never comes here.

mod run;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::chain::DEFAULT_BUFFER_LIMIT;
use crate::context::{Connection, Routed};
use crate::filter::{Direction, Phase};

pub use run::NetworkRun;

/// A configured filter of byte streams, shared by all connections of one core.
pub trait NetworkFilter {
    /// Its name, for logs.
    fn name(&self) -> &str;

    /// Meets a connection, once every filter before it has let it pass.
    fn open(&self, context: &mut ConnectionContext) -> NetworkBegin;
}

/// A filter's first answer.
pub enum NetworkBegin {
    /// Not interested in this connection.
    Pass,
    /// It must not be.
    End(NetworkEnd),
    /// Follow it: [`ConnectionFilter::new_connection`] comes next.
    Follow(Box<dyn ConnectionFilter>),
}

/// A filter at work on one connection.
///
/// [`Direction::Request`] are bytes from the client, [`Direction::Response`] those from the upstream;
/// the latter meet the filters in reverse. While a filter holds bytes of one direction up, later
/// filters hear nothing of it. The upstream is not connected before every filter has let the
/// connection, or bytes of it, pass.
pub trait ConnectionFilter {
    /// The connection begins. A pause here ends with the first bytes that the filter lets pass, or as
    /// [`ConnectionFilter::poll_resume`] says for [`Direction::Request`].
    fn new_connection(&mut self, context: &mut ConnectionContext) -> NetworkStep {
        let _ = context;
        NetworkStep::Continue
    }

    /// Bytes: on entry all that is held for this filter with the new ones appended, on exit what shall
    /// go on. `end_of_stream` says that none will follow, and may come without any.
    fn data(
        &mut self,
        context: &mut ConnectionContext,
        direction: Direction,
        data: &mut Bytes,
        end_of_stream: bool,
    ) -> NetworkStep {
        let _ = (context, direction, data, end_of_stream);
        NetworkStep::Continue
    }

    /// Asked of a direction that this filter holds up, whenever the connection is driven: still so? The
    /// answer may also turn one kind of pause into the other.
    fn poll_resume(
        &mut self,
        context: &mut ConnectionContext,
        direction: Direction,
        held: &mut Bytes,
        task: &mut Context<'_>,
    ) -> Poll<NetworkStep> {
        let _ = (context, direction, held, task);
        Poll::Pending
    }

    /// Asked whenever the connection is driven: is it to end for reasons that are in no bytes?
    fn poll_end(
        &mut self,
        context: &mut ConnectionContext,
        task: &mut Context<'_>,
    ) -> Poll<NetworkEnd> {
        let _ = (context, task);
        Poll::Pending
    }

    /// The connection to the upstream is over. Told once, and only where there was one.
    fn upstream_closed(&mut self, context: &mut ConnectionContext, by: Closer) {
        let _ = (context, by);
    }

    /// The connection is over. Called exactly once, whatever happened.
    fn complete(&mut self, context: &mut ConnectionContext, by: Closer) {
        let _ = (context, by);
    }
}

/// A filter's answer to one event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NetworkStep {
    /// On to the next filter.
    Continue,
    /// Hold the bytes here; more are read, up to the chain's limit, and shown together with them. From
    /// there on the sender waits.
    Pause,
    /// Hold the bytes here and read no more: only [`ConnectionFilter::poll_resume`] ends it.
    Hold,
    /// End the connection. What is held goes nowhere.
    End(NetworkEnd),
}

/// How a filter ends a connection; the text is for the access log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NetworkEnd {
    /// In order: what was let go to the client is still written.
    Close(Arc<str>),
    /// So that neither side can take what it got for complete.
    Fail(Arc<str>),
}

impl NetworkEnd {
    /// For the access log.
    #[must_use]
    pub fn details(&self) -> &Arc<str> {
        match self {
            Self::Close(details) | Self::Fail(details) => details,
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closer {
    /// We.
    Local,
    /// Its other end.
    Remote,
}

/// What is known about a connection while it lasts.
#[derive(Debug)]
pub struct ConnectionContext {
    /// Where it came from.
    pub connection: Rc<Connection>,
    /// Where it goes, once that is connected; routes have no say in it, so that their name is empty.
    pub upstream: Option<Routed>,
    /// What filters tell each other, by name (Envoy's filter state).
    pub filter_state: Vec<(Box<[u8]>, Bytes)>,
}

impl ConnectionContext {
    /// A connection that begins.
    #[must_use]
    pub fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            upstream: None,
            filter_state: Vec::new(),
        }
    }
}

/// A filter with its place.
#[derive(Clone)]
pub struct PlacedNetwork {
    /// Its phase. Policies are asked before all of them: a filter never sees bytes that are refused.
    pub phase: Phase,
    /// Order within the phase: higher first.
    pub priority: i32,
    /// The filter.
    pub filter: Rc<dyn NetworkFilter>,
}

/// The network filters of one target, in the order in which bytes of clients meet them.
pub struct NetworkChain {
    filters: Box<[PlacedNetwork]>,
    buffer_limit: usize,
}

impl NetworkChain {
    /// Orders filters by phase, then by priority (higher first), then as they were given.
    #[must_use]
    pub fn new(mut filters: Vec<PlacedNetwork>) -> Self {
        filters.sort_by(|a, b| (a.phase, b.priority).cmp(&(b.phase, a.priority)));
        Self {
            filters: filters.into_boxed_slice(),
            buffer_limit: DEFAULT_BUFFER_LIMIT,
        }
    }

    /// Sets how many bytes filters together may have held in one direction of a connection before
    /// nothing more is read.
    #[must_use]
    pub fn with_buffer_limit(mut self, bytes: usize) -> Self {
        self.buffer_limit = bytes;
        self
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}

impl std::fmt::Debug for NetworkChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.filters.iter().map(|placed| placed.filter.name());
        f.debug_list().entries(names).finish()
    }
}
