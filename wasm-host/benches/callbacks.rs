//! What the ABI costs: an exchange through a chain of one guest, against the same through a native
//! filter that does nothing.
//!
//! `cargo bench -p wayline-wasm-host`; with `WAYLINE_BENCH_MODULE=FILE` (and
//! `WAYLINE_BENCH_CONFIGURATION`) also for a module of one's own,
//! shared by streams and with an instance for each.

#![allow(clippy::unwrap_used, reason = "a bench may stop where it stands")]

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::StatusCode;
use wayline_chain::bench::{Request, chain_of};
use wayline_chain::{
    Begin, Callout, Chain, Filter, Needs, NoCallout, RequestContext, ResponseHead, Started,
    StreamFilter,
};
use wayline_model::ObjectRef;
use wayline_model::plugin::{
    FailStrategy, Isolation, ModuleSource, Plugin, PluginKey, PluginKind, PluginLimits,
    PluginPhase, PullPolicy,
};
use wayline_wasm_host::{Artifact, Engine, Host, HostSettings, Prepared, WasmFilter};

/// Six callbacks that do nothing.
const NO_OP: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "malloc") (param i32) (result i32) (i32.const 1024))
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
    (func (export "proxy_on_log") (param i32))
    (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
    (func (export "proxy_on_delete") (param i32)))"#;

/// Reads a header and writes one.
const ONE_HEADER: &str = r#"(module
    (import "env" "proxy_get_header_map_value"
      (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_replace_header_map_value"
      (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "malloc") (param i32) (result i32) (i32.const 1024))
    (func (export "proxy_abi_version_0_2_1"))
    (data (i32.const 0) "user-agentx-guestvalue")
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (drop (call $get (i32.const 0) (i32.const 0) (i32.const 10) (i32.const 64) (i32.const 68)))
      (call $set (i32.const 0) (i32.const 10) (i32.const 7) (i32.const 17) (i32.const 5)))
    (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
    (func (export "proxy_on_delete") (param i32)))"#;

/// As compilers lay modules out: a stack of 1 MiB, data behind it, a heap that grows at the start.
const LAID_OUT: &str = r#"(module
    (memory (export "memory") 17)
    (global $sp (mut i32) (i32.const 1048576))
    (func (export "malloc") (param i32) (result i32) (i32.const 1114112))
    (func (export "proxy_abi_version_0_2_1"))
    (data (i32.const 1048576) "data that is read and written")
    (func $work
      (global.set $sp (i32.sub (global.get $sp) (i32.const 64)))
      (i32.store (global.get $sp) (i32.const 1))
      (i32.store (i32.const 1048580) (i32.const 2))
      (i32.store (i32.const 1114120) (i32.const 3))
      (global.set $sp (i32.add (global.get $sp) (i32.const 64))))
    (func (export "_initialize") (drop (memory.grow (i32.const 1))) (call $work))
    (func (export "proxy_on_context_create") (param i32 i32) (call $work))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (call $work) (i32.const 0))
    (func (export "proxy_on_log") (param i32) (call $work))
    (func (export "proxy_on_done") (param i32) (result i32) (call $work) (i32.const 1))
    (func (export "proxy_on_delete") (param i32) (call $work)))"#;

const ROUNDS: u32 = 20_000;

struct Native;
struct Nothing;

impl Filter for Native {
    fn name(&self) -> &str {
        "native"
    }
    fn needs(&self) -> Needs {
        Needs {
            response_headers: true,
            ..Needs::default()
        }
    }
    fn begin(&self, _: &mut RequestContext) -> Begin {
        Begin::Stream(Box::new(Nothing))
    }
}

impl StreamFilter for Nothing {}

fn main() {
    let host = Host::new(Engine::for_running().unwrap(), HostSettings::default());
    let native = chain_of(Native);
    let text = |text: &str| wat::parse_str(text).unwrap();
    let (shared, own) = (Isolation::Plugin, Isolation::Stream);
    let mut chains = vec![
        (
            "no-op with six callbacks",
            guest(&host, &text(NO_OP), 1, shared),
        ),
        (
            "one header read, one set",
            guest(&host, &text(ONE_HEADER), 2, shared),
        ),
        (
            "an instance for each stream",
            guest(&host, &text(LAID_OUT), 3, own),
        ),
    ];
    if let Some(file) = std::env::var_os("WAYLINE_BENCH_MODULE") {
        let module = std::fs::read(file).unwrap();
        chains.push(("the module", guest(&host, &module, 4, shared)));
        chains.push(("the module, for each stream", guest(&host, &module, 5, own)));
    }
    if let Some(only) = std::env::args().nth(1).filter(|it| !it.starts_with('-')) {
        chains.retain(|(name, _)| name.contains(&only));
    }
    for (name, chain) in &chains {
        let mut best = (Duration::MAX, Duration::MAX);
        for _ in 0..20 {
            best.0 = best.0.min(time(&native));
            best.1 = best.1.min(time(chain));
        }
        let per = |time: Duration| time.as_nanos() as f64 / f64::from(ROUNDS);
        println!(
            "{name}: {:.0} ns more than a native no-op ({:.0} against {:.0})",
            per(best.1) - per(best.0),
            per(best.1),
            per(best.0)
        );
    }
}

fn time(chain: &Rc<Chain>) -> Duration {
    let template = Request::get("/path").header("user-agent", "curl/8.0");
    let mut task = Context::from_waker(Waker::noop());
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        let mut context = template.clone().context();
        let Started::Running(opened) = chain.begin(&mut context) else {
            panic!("nobody follows the exchange");
        };
        let run = opened.run(context);
        let mut body = http_body_util::Empty::new();
        assert!(run.poll_request(&mut body, &mut task).is_ready());
        let mut head = ResponseHead {
            status: StatusCode::OK,
            ..ResponseHead::default()
        };
        assert!(
            run.poll_response(&mut head, &mut body, &mut task)
                .is_ready()
        );
    }
    begin.elapsed()
}

fn guest(host: &Arc<Host>, module: &[u8], key: u8, isolation: Isolation) -> Rc<Chain> {
    let code = host.engine().precompile(module);
    let prepared = Prepared::load(host.engine(), Artifact::Bytes(&code.unwrap())).unwrap();
    let plugin = Plugin {
        name: "default.guest".into(),
        object: ObjectRef::new("WasmPlugin", "default", "guest"),
        key: PluginKey([key; 32]),
        module: ModuleSource {
            url: "file:///guest.wasm".into(),
            sha256: None,
            pull_policy: PullPolicy::Unspecified,
            pull_secret: None,
        },
        root_id: "guest".into(),
        configuration: std::env::var("WAYLINE_BENCH_CONFIGURATION")
            .unwrap_or_default()
            .into_bytes()
            .into(),
        environment: Arc::new([]),
        phase: PluginPhase::Unspecified,
        priority: None,
        fail_strategy: FailStrategy::FailClose,
        kind: PluginKind::Http,
        isolation,
        limits: PluginLimits::default(),
        callouts: None,
        allow_on_headers_stop_iteration: false,
    };
    let callout: Rc<dyn Callout> = Rc::new(NoCallout);
    chain_of(WasmFilter::alone(
        host,
        &prepared,
        &Arc::new(plugin),
        &callout,
    ))
}
