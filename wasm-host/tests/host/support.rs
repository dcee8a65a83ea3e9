//! Guests written as text, and what surrounds them: backends that answer by hand, a clock that is
//! wound by hand.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use wayline_chain::bench::{Bench, Head, chain_of};
use wayline_chain::{
    Callout, CalloutBody, CalloutError, CalloutFuture, CalloutRequest, CalloutStream, Chain,
    LocalReply, OpenFuture, Task,
};
use wayline_model::ObjectRef;
use wayline_model::plugin::{
    FailStrategy, Isolation, ModuleSource, Plugin, PluginKey, PluginKind, PluginLimits,
    PluginPhase, PullPolicy,
};
use wayline_wasm_host::{Artifact, Engine, Host, HostSettings, Prepared, WasmFilter};

/// A module of these items, with memory, an allocator, and all host functions imported by their names
/// without `proxy_`. Memory below 4096 is the guest's own; `$answer` is 64 bytes at 64.
pub(crate) fn guest(items: &str) -> String {
    guest_of("proxy_abi_version_0_2_1", items)
}

/// The same for another version of the ABI.
pub(crate) fn guest_of(abi: &str, items: &str) -> String {
    let imports: String = IMPORTS
        .iter()
        .map(|(name, inputs)| {
            let short = name.strip_prefix("proxy_").unwrap_or(name);
            let params = inputs
                .chars()
                .map(|kind| if kind == 'I' { " i64" } else { " i32" })
                .collect::<String>();
            let params = if params.is_empty() {
                String::new()
            } else {
                format!("(param{params})")
            };
            format!("(import \"env\" \"{name}\" (func ${short} {params} (result i32)))\n")
        })
        .collect();
    format!(
        r#"(module
        {imports}
        (memory (export "memory") 2)
        (global $heap (mut i32) (i32.const 4096))
        (func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32)
          (local i32)
          (local.set 1 (global.get $heap))
          (global.set $heap (i32.add (global.get $heap) (local.get 0)))
          (local.get 1))
        (func (export "{abi}"))
        (data (i32.const 3000) "outbound|80||t")
        (data (i32.const 3100) "{head}")
        ;; Remembers one more letter of what happened.
        (func $note (param i32)
          (i32.store8 (i32.add (i32.const 2048) (i32.load (i32.const 2044))) (local.get 0))
          (i32.store (i32.const 2044) (i32.add (i32.load (i32.const 2044)) (i32.const 1))))
        ;; Calls a backend, with what was remembered as body. Answers the status; the token is at 2040.
        (func $call (result i32)
          (call $http_call
            (i32.const 3000) (i32.const 14)
            (i32.const 3100) (i32.const {head_length})
            (i32.const 2048) (i32.load (i32.const 2044))
            (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 2040)))
        {items})"#,
        head = escaped(&call_head()),
        head_length = call_head().len(),
    )
}

fn call_head() -> Vec<u8> {
    pairs(&[(":method", "POST"), (":path", "/told"), (":authority", "t")])
}

/// A map as guests write it.
pub(crate) fn pairs(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
    for (name, value) in entries {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in entries {
        bytes.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
    }
    bytes
}

/// Bytes as a string of the text format.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

const IMPORTS: &[(&str, &str)] = &[
    ("proxy_log", "iii"),
    ("proxy_get_log_level", "i"),
    ("proxy_get_current_time_nanoseconds", "i"),
    ("proxy_set_tick_period_milliseconds", "i"),
    ("proxy_set_effective_context", "i"),
    ("proxy_done", ""),
    ("proxy_get_status", "iii"),
    ("proxy_get_header_map_size", "ii"),
    ("proxy_get_header_map_pairs", "iii"),
    ("proxy_set_header_map_pairs", "iii"),
    ("proxy_get_header_map_value", "iiiii"),
    ("proxy_add_header_map_value", "iiiii"),
    ("proxy_replace_header_map_value", "iiiii"),
    ("proxy_remove_header_map_value", "iii"),
    ("proxy_get_buffer_bytes", "iiiii"),
    ("proxy_get_buffer_status", "iii"),
    ("proxy_set_buffer_bytes", "iiiii"),
    ("proxy_continue_stream", "i"),
    ("proxy_close_stream", "i"),
    ("proxy_send_local_response", "iiiiiiii"),
    ("proxy_http_call", "iiiiiiiiii"),
    ("proxy_grpc_call", "iiiiiiiiiiii"),
    ("proxy_grpc_stream", "iiiiiiiii"),
    ("proxy_grpc_send", "iiii"),
    ("proxy_grpc_cancel", "i"),
    ("proxy_grpc_close", "i"),
    ("proxy_get_property", "iiii"),
    ("proxy_set_property", "iiii"),
    ("proxy_get_shared_data", "iiiii"),
    ("proxy_set_shared_data", "iiiii"),
    ("proxy_register_shared_queue", "iii"),
    ("proxy_resolve_shared_queue", "iiiii"),
    ("proxy_enqueue_shared_queue", "iii"),
    ("proxy_dequeue_shared_queue", "iii"),
    ("proxy_define_metric", "iiii"),
    ("proxy_increment_metric", "iI"),
    ("proxy_record_metric", "iI"),
    ("proxy_get_metric", "ii"),
    ("proxy_call_foreign_function", "iiiiii"),
];

thread_local! {
    static ENGINE: Engine = Engine::for_running().unwrap();
}

/// A host of its own.
pub(crate) fn host() -> Arc<Host> {
    Host::new(ENGINE.with(Clone::clone), HostSettings::default())
}

/// A module ready to run.
pub(crate) fn prepared(host: &Host, text: &str) -> Arc<Prepared> {
    let module = wat::parse_str(text).unwrap();
    let code = host.engine().precompile(&module).unwrap();
    Prepared::load(host.engine(), Artifact::Bytes(&code)).unwrap()
}

/// A plugin that fails closed and asks for nothing special.
pub(crate) fn plugin(edit: impl FnOnce(&mut Plugin)) -> Arc<Plugin> {
    thread_local!(static LAST: Cell<u8> = const { Cell::new(0) });
    LAST.set(LAST.get() + 1);
    let mut plugin = Plugin {
        name: "default.guest".into(),
        object: ObjectRef::new("WasmPlugin", "default", "guest"),
        key: PluginKey([LAST.get(); 32]),
        module: ModuleSource {
            url: "file:///guest.wasm".into(),
            sha256: None,
            pull_policy: PullPolicy::Unspecified,
            pull_secret: None,
        },
        root_id: "guest".into(),
        configuration: Arc::new([]),
        environment: Arc::new([]),
        phase: PluginPhase::Unspecified,
        priority: None,
        fail_strategy: FailStrategy::FailClose,
        kind: PluginKind::Http,
        isolation: Isolation::Plugin,
        limits: PluginLimits::default(),
        callouts: None,
        allow_on_headers_stop_iteration: false,
    };
    edit(&mut plugin);
    Arc::new(plugin)
}

/// What becomes of a request's head; waits where the plugin runs on a thread of its own.
pub(crate) fn head(bench: &mut Bench) -> Head {
    eventually(|| match bench.head() {
        Head::Paused => None,
        outcome => Some(outcome),
    })
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..20_000 {
        if let Some(answer) = probe() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it did not happen");
}

/// A plugin at work, with what surrounds it.
pub(crate) struct Stage {
    pub(crate) host: Arc<Host>,
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) world: World,
    pub(crate) chain: Rc<Chain>,
}

impl Stage {
    /// The guest as the only filter.
    pub(crate) fn of(text: &str) -> Self {
        Self::with(text, |_| {})
    }

    /// The guest as the only filter, in a plugin of one's own.
    pub(crate) fn with(text: &str, edit: impl FnOnce(&mut Plugin)) -> Self {
        let host = host();
        let prepared = prepared(&host, text);
        Self::on(host, prepared, plugin(edit))
    }

    pub(crate) fn on(host: Arc<Host>, prepared: Arc<Prepared>, plugin: Arc<Plugin>) -> Self {
        let world = World::default();
        let filter = WasmFilter::alone(&host, &prepared, &plugin, &world.callout());
        Self {
            host,
            prepared,
            plugin,
            world,
            chain: chain_of(filter),
        }
    }

    /// One more chain with the same plugin.
    pub(crate) fn another_chain(&self) -> Rc<Chain> {
        chain_of(WasmFilter::alone(
            &self.host,
            &self.prepared,
            &self.plugin,
            &self.world.callout(),
        ))
    }
}

/// Backends and clock of a test. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct World(Rc<Inner>);

#[derive(Default)]
struct Inner {
    tasks: RefCell<Vec<Task>>,
    sent: RefCell<Vec<CalloutRequest>>,
    answers: RefCell<Vec<Option<Answered>>>,
    now: Cell<Duration>,
    streams: RefCell<Vec<GrpcPeer>>,
}

/// The backend's end of a gRPC call.
pub(crate) struct GrpcPeer {
    /// Where it went.
    pub(crate) path: String,
    request: CalloutBody,
    response: Rc<RefCell<VecDeque<Frame<Bytes>>>>,
}

impl GrpcPeer {
    /// All that came so far; and whether the end came.
    pub(crate) fn received(&mut self) -> (Vec<u8>, bool) {
        let mut task = Context::from_waker(Waker::noop());
        let mut bytes = Vec::new();
        loop {
            match self.request.as_mut().poll_frame(&mut task) {
                Poll::Pending => return (bytes, false),
                Poll::Ready(None | Some(Err(_))) => return (bytes, true),
                Poll::Ready(Some(Ok(frame))) => bytes.extend(frame.into_data().unwrap()),
            }
        }
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: &str) {
        let mut frame = vec![0, 0, 0, 0, message.len() as u8];
        frame.extend(message.bytes());
        let frame = Frame::data(Bytes::from(frame));
        self.response.borrow_mut().push_back(frame);
    }

    /// Ends the call.
    pub(crate) fn end(&self, status: &'static str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        self.response
            .borrow_mut()
            .push_back(Frame::trailers(trailers));
    }
}

struct GrpcResponse(Rc<RefCell<VecDeque<Frame<Bytes>>>>);

impl Body for GrpcResponse {
    type Data = Bytes;
    type Error = CalloutError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CalloutError>>> {
        match self.0.borrow_mut().pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Pending,
        }
    }
}

type Answered = Result<(Response<Bytes>, HeaderMap), CalloutError>;

impl World {
    pub(crate) fn callout(&self) -> Rc<dyn Callout> {
        Rc::new(self.clone())
    }

    /// The requests sent so far.
    pub(crate) fn sent(&self) -> std::cell::Ref<'_, Vec<CalloutRequest>> {
        self.0.sent.borrow()
    }

    /// The bodies of the requests sent so far.
    pub(crate) fn bodies(&self) -> Vec<String> {
        let sent = self.sent();
        let bodies = sent.iter().map(|request| request.request.body());
        bodies
            .map(|body| String::from_utf8_lossy(body).into_owned())
            .collect()
    }

    /// Answers a request, and drives what waits for it.
    pub(crate) fn answer(&self, index: usize, answer: Answered) {
        self.0.answers.borrow_mut()[index] = Some(answer);
        self.drive();
    }

    /// The gRPC calls opened so far.
    pub(crate) fn calls(&self) -> std::cell::RefMut<'_, Vec<GrpcPeer>> {
        self.0.streams.borrow_mut()
    }

    /// Lets time pass, and drives what waits for it.
    pub(crate) fn pass(&self, time: Duration) {
        self.0.now.set(self.0.now.get() + time);
        self.drive();
    }

    /// Drives all tasks as far as they go.
    pub(crate) fn drive(&self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        let mut held = self.0.tasks.borrow_mut();
        tasks.append(&mut held);
        *held = tasks;
    }
}

impl Callout for World {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        let index = self.0.answers.borrow().len();
        self.0.answers.borrow_mut().push(None);
        self.0.sent.borrow_mut().push(request);
        let inner = Rc::clone(&self.0);
        Box::pin(poll_fn(move |_| {
            match inner.answers.borrow_mut()[index].take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            }
        }))
    }

    fn open(&self, stream: CalloutStream) -> OpenFuture {
        let response = Rc::new(RefCell::new(VecDeque::new()));
        self.0.streams.borrow_mut().push(GrpcPeer {
            path: stream.request.uri().path().to_owned(),
            request: stream.request.into_body(),
            response: Rc::clone(&response),
        });
        let body: CalloutBody = Box::pin(GrpcResponse(response));
        Box::pin(std::future::ready(Ok(Response::new(body))))
    }

    fn knows(&self, backend: &str) -> bool {
        backend.starts_with("outbound|")
    }

    fn spawn(&self, task: Task) {
        self.0.tasks.borrow_mut().push(task);
    }

    fn sleep(&self, time: Duration) -> Task {
        let (inner, end) = (Rc::clone(&self.0), self.0.now.get() + time);
        Box::pin(poll_fn(move |_| match inner.now.get() >= end {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }))
    }
}

/// A reply as text: status, details, body.
pub(crate) fn told(reply: &LocalReply) -> String {
    format!(
        "{} {} {}",
        reply.status.as_u16(),
        reply.details,
        String::from_utf8_lossy(&reply.body)
    )
}
