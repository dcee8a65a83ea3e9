//! A plugin with a module, driven without sockets and without a runtime.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response};
use wayline_chain::bench::{Bench, Head, Request};
use wayline_chain::{
    Callout, CalloutError, CalloutFuture, CalloutRequest, Chain, Phase, Placed, Task,
};
use wayline_model::names::ObjectRef;
use wayline_model::plugin::{
    FailStrategy, Isolation, ModuleSource, Plugin, PluginKey, PluginKind, PluginLimits,
    PluginPhase, PullPolicy,
};
use wayline_telemetry::{MetricsHub, MetricsSettings};
use wayline_wasm_host::{Artifact, Engine, Host, HostSettings, Prepared, WasmFilter};

/// One engine serves all tests: each reserves terabytes of addresses.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::for_running().unwrap());

/// A host of its own, that sends nobody to quarantine: what is tried here are budgets on a core.
pub(crate) fn host() -> Arc<Host> {
    let settings = HostSettings {
        quarantine: Duration::ZERO,
        ..HostSettings::default()
    };
    Host::new(ENGINE.clone(), settings)
}

/// What a host counts about plugins: the sum of the lines of that metric, over all of them.
pub(crate) fn counted(host: &Arc<Host>, metric: &str) -> u64 {
    let hub = MetricsHub::new("test", MetricsSettings::default()).unwrap();
    host.register(&hub).unwrap();
    let text = hub.gather_text(Instant::now()).unwrap();
    let lines = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?.strip_prefix('{')?;
        rest.rsplit(' ').next()
    });
    lines.map(|value| value.parse::<u64>().unwrap()).sum()
}

/// A module, ready.
pub(crate) fn prepared(module: &[u8]) -> Arc<Prepared> {
    let code = ENGINE.precompile(module).unwrap();
    Prepared::load(&ENGINE, Artifact::Bytes(&code)).unwrap()
}

/// A plugin at its defaults.
pub(crate) fn plugin(name: &str) -> Plugin {
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    Plugin {
        name: format!("default.{name}").into(),
        object: ObjectRef::new("WasmPlugin", "default", name),
        key: PluginKey(key),
        module: ModuleSource {
            url: "file:///module.wasm".into(),
            sha256: None,
            pull_policy: PullPolicy::Unspecified,
            pull_secret: None,
        },
        root_id: "root".into(),
        configuration: Arc::from(&b"{}"[..]),
        environment: Arc::from([]),
        phase: PluginPhase::Unspecified,
        priority: None,
        fail_strategy: FailStrategy::FailClose,
        kind: PluginKind::Http,
        isolation: Isolation::Plugin,
        limits: PluginLimits::default(),
        callouts: None,
        allow_on_headers_stop_iteration: false,
    }
}

/// A plugin at work on one core.
pub(crate) struct Tenant {
    pub(crate) desk: Rc<Desk>,
    pub(crate) chain: Rc<Chain>,
}

impl Tenant {
    pub(crate) fn new(module: &[u8]) -> Self {
        Self::with(module, |_| {})
    }

    pub(crate) fn with(module: &[u8], edit: impl FnOnce(&mut Plugin)) -> Self {
        let mut plugin = plugin("tenant");
        edit(&mut plugin);
        Self::of(&host(), module, plugin)
    }

    pub(crate) fn of(host: &Arc<Host>, module: &[u8], plugin: Plugin) -> Self {
        let desk = Rc::new(Desk::default());
        let chain = Rc::new(Chain::new(vec![placed(host, &desk, module, plugin)]));
        Self { desk, chain }
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: Request) -> Bench {
        Bench::start(&self.chain, request)
    }

    /// Sends a request and says what became of its head.
    pub(crate) fn outcome(&self, request: Request) -> Outcome {
        Outcome::of(&mut self.send(request))
    }

    /// What the module reported about a request.
    pub(crate) fn report(&self, request: Request) -> String {
        let mut bench = self.send(request);
        match Outcome::of(&mut bench) {
            Outcome::Passed => bench.context(|context| {
                let report = context.request().headers.get("x-report");
                report.unwrap().to_str().unwrap().to_owned()
            }),
            Outcome::Replied(200, body) => body,
            outcome => panic!("{outcome:?}"),
        }
    }
}

/// A plugin with its place in a chain.
pub(crate) fn placed(host: &Arc<Host>, desk: &Rc<Desk>, module: &[u8], plugin: Plugin) -> Placed {
    let callout: Rc<dyn Callout> = Rc::<Desk>::clone(desk);
    let filter = WasmFilter::alone(host, &prepared(module), &Arc::new(plugin), &callout);
    Placed {
        phase: Phase::Extension,
        priority: 0,
        filter: Rc::new(filter),
    }
}

/// What became of a request head.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Paused,
    Passed,
    Replied(u16, String),
    Reset,
}

impl Outcome {
    pub(crate) fn of(bench: &mut Bench) -> Self {
        match bench.head() {
            Head::Paused => Self::Paused,
            Head::Passed { .. } => Self::Passed,
            Head::Replied(reply) => Self::Replied(
                reply.status.as_u16(),
                String::from_utf8_lossy(&reply.body).into_owned(),
            ),
            Head::Reset(_) => Self::Reset,
        }
    }

    /// How a plugin that failed closed answers.
    pub(crate) fn refused() -> Self {
        Self::Replied(503, String::new())
    }
}

/// The outside world: backends that answer when a test says so, and a clock that goes as it says.
#[derive(Default)]
pub(crate) struct Desk {
    known: RefCell<HashSet<String>>,
    asked: RefCell<Vec<Asked>>,
    tasks: RefCell<Vec<Task>>,
    now: Rc<Cell<Duration>>,
}

/// A request that waits for its answer.
struct Asked {
    backend: Arc<str>,
    answer: Rc<RefCell<Option<Answer>>>,
}

type Answer = Result<(Response<Bytes>, HeaderMap), CalloutError>;

impl Desk {
    /// From now on there is such a backend.
    pub(crate) fn know(&self, backend: &str) {
        self.known.borrow_mut().insert(backend.to_owned());
    }

    /// How many requests wait for their answer.
    pub(crate) fn waiting(&self) -> usize {
        self.asked.borrow().len()
    }

    /// Which backends were asked and have not answered.
    pub(crate) fn asked(&self) -> Vec<Arc<str>> {
        let asked = self.asked.borrow();
        asked
            .iter()
            .map(|asked| Arc::clone(&asked.backend))
            .collect()
    }

    /// Answers all that wait.
    pub(crate) fn answer(&self, body: &'static str) {
        for asked in self.asked.borrow_mut().drain(..) {
            let response = Response::new(Bytes::from_static(body.as_bytes()));
            *asked.answer.borrow_mut() = Some(Ok((response, HeaderMap::new())));
        }
        self.run();
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.run();
    }

    /// Drives all tasks until each waits.
    pub(crate) fn run(&self) {
        for _ in 0..3 {
            let mut context = Context::from_waker(Waker::noop());
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            for mut task in tasks {
                if task.as_mut().poll(&mut context).is_pending() {
                    self.tasks.borrow_mut().push(task);
                }
            }
        }
    }
}

impl Callout for Desk {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        let answer = Rc::default();
        self.asked.borrow_mut().push(Asked {
            backend: request.backend,
            answer: Rc::clone(&answer),
        });
        Box::pin(until(move || answer.borrow_mut().take()))
    }

    fn knows(&self, backend: &str) -> bool {
        self.known.borrow().contains(backend)
    }

    fn spawn(&self, task: Task) {
        self.tasks.borrow_mut().push(task);
    }

    fn sleep(&self, time: Duration) -> Task {
        let (now, then) = (Rc::clone(&self.now), self.now.get() + time);
        Box::pin(until(move || (now.get() >= then).then_some(())))
    }
}

fn until<T>(mut probe: impl FnMut() -> Option<T> + Unpin) -> impl Future<Output = T> + Unpin {
    struct Until<P>(P);
    impl<T, P: FnMut() -> Option<T> + Unpin> Future for Until<P> {
        type Output = T;
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
            (self.0)().map_or(Poll::Pending, Poll::Ready)
        }
    }
    let _ = &mut probe;
    Until(probe)
}
