//! What host functions see: the instance they were called from, the context they are called for, and
//! the exchange that is in its hands while a callback runs.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, Version};
use rustc_hash::FxHashMap;
use wasmtime::{Memory, ResourceLimiter, TypedFunc};
use wayline_chain::{Callout, Connection, RequestContext};
use wayline_model::CanonicalRequest;
use wayline_model::defence::stands;
use wayline_model::plugin::Plugin;
use wayline_model::request::{PathNormalization, RequestError};

use crate::abi::AbiVersion;
use crate::book::{PluginBook, Tally};
use crate::budget::Budget;
use crate::callbacks::Callback;
use crate::callouts::Callouts;
use crate::control::{Signal, StreamControl};
use crate::error::StartError;
use crate::host::Host;
use crate::metrics::Metric;
use crate::status::{Buffer, Map, Status};

/// The root context of the plugin. There is one per instance.
pub(crate) const ROOT: u32 = 1;

/// The state of one instance.
pub(crate) struct State {
    /// The module's memory, once the instance is made.
    pub(crate) memory: Option<Memory>,
    /// By which the module is given memory.
    pub(crate) allocator: Option<TypedFunc<u32, u32>>,
    /// Whether the allocator runs: host functions that need it fail.
    pub(crate) allocating: bool,
    /// A trap of the allocator, to be raised by the host function that called it.
    pub(crate) trapped: Option<wasmtime::Error>,
    pub(crate) limits: Limits,
    pub(crate) budget: Budget,
    /// A value on its way into the module.
    pub(crate) scratch: Vec<u8>,

    pub(crate) host: Arc<Host>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) book: Arc<PluginBook>,
    pub(crate) tally: Rc<Tally>,
    pub(crate) abi: AbiVersion,
    pub(crate) callout: Rc<dyn Callout>,

    /// The callback that runs, and the context it runs for.
    pub(crate) callback: Callback,
    pub(crate) current: u32,
    /// The context that the module works for instead; 0 for none.
    pub(crate) effective: u32,
    /// The streams inside.
    pub(crate) streams: FxHashMap<u32, Rc<StreamControl>>,
    pub(crate) exchange: Exchange,
    pub(crate) callouts: Callouts,
    /// What `proxy_get_status` tells.
    pub(crate) status: (u32, Bytes),
    /// Arguments of the foreign function that runs.
    pub(crate) arguments: Bytes,
    /// Milliseconds between two ticks; 0 for none.
    pub(crate) tick_period: u32,
    /// Metrics it defined; ids are positions.
    pub(crate) metrics: Vec<Arc<Metric>>,
    /// Queues it is told of.
    pub(crate) queues: Vec<u32>,
    /// Tells it apart from all other instances of the process.
    pub(crate) listener: u64,
    /// What `proxy_set_property` stored while no exchange was at hand.
    pub(crate) properties: Vec<(Box<[u8]>, Bytes)>,
    /// Whether somebody sees to ticks.
    pub(crate) ticking: bool,
    /// Whether the root was asked to come to an end.
    pub(crate) retiring: bool,
    /// Set when the root says that it is done after it first was not.
    pub(crate) done: Rc<Signal>,
    /// `NAME=value`.
    pub(crate) environment: Arc<[String]>,
    /// Whether the module has seen randomness or the time: no other start would be like its own.
    pub(crate) saw_chance: bool,
    pub(crate) role: Role,
    /// Whether it is not configured yet.
    pub(crate) starting: bool,
}

/// What an instance is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// It stays: ticks and queues that it asks for at its start are seen to.
    Resident,
    /// It ends with the stream it was made for. What it asks for at its start is the resident's.
    Transient,
}

/// What is in the module's hands while a callback runs: lent by the exchange, and given back.
pub(crate) struct Exchange {
    /// The stream it belongs to; 0 for none.
    pub(crate) owner: u32,
    pub(crate) context: RequestContext,
    /// The body that can be read and edited.
    pub(crate) body: Option<(Buffer, Bytes)>,
    /// The trailers that can be read and edited.
    pub(crate) trailers: Option<(Map, HeaderMap)>,
    /// Body bytes of request and response, once it is over.
    pub(crate) bytes: Option<(u64, u64)>,
    /// Whether it is a connection of opaque bytes: there is no request then, and no response.
    pub(crate) is_connection: bool,
}

/// How much an instance may have of the process.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Bytes of linear memory.
    pub(crate) memory: usize,
    /// Whether more was asked for.
    pub(crate) refused: bool,
    /// Bytes in use.
    pub(crate) used: usize,
}

/// Elements a table may have.
pub(crate) const TABLE_ELEMENTS: usize = 100_000;

impl State {
    /// A callback begins.
    pub(crate) fn enter(&mut self, callback: Callback, context: u32) {
        self.callback = callback;
        self.current = context;
        self.effective = 0;
    }

    /// Whether somebody else does what a module sets up at its start.
    pub(crate) fn leaves_work_to_resident(&self) -> bool {
        self.starting && self.role == Role::Transient
    }

    /// The context that host calls are about.
    pub(crate) fn context(&self) -> u32 {
        match self.effective {
            0 => self.current,
            effective => effective,
        }
    }

    /// The stream that host calls are about.
    pub(crate) fn stream(&self) -> Option<&Rc<StreamControl>> {
        self.streams.get(&self.context())
    }

    /// Whether the exchange at hand is the one that host calls are about.
    pub(crate) fn has_exchange(&self) -> bool {
        let owner = self.exchange.owner;
        owner != 0 && (owner == self.context() || !stands("wasm-own-exchange"))
    }

    /// The exchange, where it is the one that host calls are about.
    pub(crate) fn exchange(&mut self) -> Result<&mut Exchange, Status> {
        if !self.has_exchange() {
            return Err(Status::NotFound);
        }
        Ok(&mut self.exchange)
    }
}

impl Exchange {
    /// Between two callbacks.
    pub(crate) fn nobodys() -> Result<Self, StartError> {
        // Each instance has one: where every stream has an instance, it is not to be parsed each time.
        thread_local!(static NOBODY: OnceCell<(Rc<Connection>, CanonicalRequest)> = const { OnceCell::new() });
        let (connection, request) = NOBODY.with(|made| {
            if let Some(made) = made.get() {
                return Ok(made.clone());
            }
            let new =
                nobody().map_err(|error| StartError::Instantiate(error.to_string().into()))?;
            Ok(made.get_or_init(|| new).clone())
        })?;
        Ok(Self {
            owner: 0,
            context: RequestContext::new(connection, request, true),
            body: None,
            trailers: None,
            bytes: None,
            is_connection: false,
        })
    }
}

/// The exchange of nobody.
fn nobody() -> Result<(Rc<Connection>, CanonicalRequest), RequestError> {
    let request = CanonicalRequest::new(
        Method::GET,
        &Uri::from_static("http://localhost/"),
        Version::HTTP_11,
        HeaderMap::new(),
        PathNormalization::None,
    )?;
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let connection = Connection {
        identity: None,
        workload: None,
        source: nowhere,
        local: nowhere,
        destination_ip: None,
        destination_port: 0,
        sni: None,
        mutual_tls: false,
        certificate: None,
        id: 0,
    };
    Ok((Rc::new(connection), request))
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = desired <= self.memory || !stands("wasm-memory-limit");
        if granted {
            self.used = desired;
        } else {
            self.refused = true;
        }
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS || !stands("wasm-table-limit"))
    }
}
