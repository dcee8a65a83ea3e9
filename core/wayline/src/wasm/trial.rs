//! `wayline wasm run`: one request through one filter, without a proxy.
//!
//! The module is compiled, started and run by the code that does so in production; client, backend and
//! whatever the filter calls are played here. Callouts are noted and answered as unreachable.

mod tell;

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use wayline_chain::bench::{Bench, Head, Request, chain_of};
use wayline_chain::{Callout, CalloutError, CalloutFuture, CalloutRequest};
use wayline_model::plugin::{
    FailStrategy, Isolation, ModuleSource, Plugin, PluginKey, PluginKind, PluginLimits,
    PluginPhase, PullPolicy,
};
use wayline_model::request::PathNormalization;
use wayline_model::{CanonicalRequest, ObjectRef};
use wayline_wasm_host::{Compiled, Engine, Host, Modules, Prepared, WasmFilter, canary};

use crate::cli::{Format, TrialArgs};
use crate::failure::Failure;
use crate::{OK, output};

/// Tries the filter and prints what it did.
pub(super) fn run(args: &TrialArgs) -> Result<u8, Failure> {
    let logs = Logs::default();
    // What the module logs is part of the answer; of the host, what went wrong.
    let filter = EnvFilter::new("warn,wasm=trace");
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(logs.clone());
    let trial = tracing::subscriber::with_default(subscriber, || attempt(args, &logs))?;
    match args.output {
        Format::Human => output::print(tell::human(&trial).as_bytes())?,
        Format::Json => {
            let mut text =
                serde_json::to_vec_pretty(&tell::report(&trial)).map_err(Failure::new)?;
            text.push(b'\n');
            output::print(&text)?;
        }
    }
    Ok(OK)
}

/// What a filter did.
struct Trial {
    module: Arc<Compiled>,
    abi: String,
    /// The request as it was sent, and as it went upstream; `None` where it did not.
    sent: Message,
    upstream: Option<Message>,
    /// The answer that the filter gave instead of a backend.
    local_reply: Option<String>,
    /// The exchange was reset, with these details.
    reset: Option<String>,
    /// The filter holds the exchange for ever: what it waits for does not come.
    stuck: Option<&'static str>,
    /// The backend's response, and what the client got.
    answered: Option<Message>,
    received: Option<Message>,
    logs: Vec<Log>,
    callouts: Vec<String>,
}

/// A request or response.
struct Message {
    /// Method, path and authority, or the status.
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// One line of the log.
#[derive(Clone)]
struct Log {
    level: Level,
    message: String,
}

fn attempt(args: &TrialArgs, logs: &Logs) -> Result<Trial, Failure> {
    let plugin = Arc::new(plugin(args)?);
    let request = request(args)?;
    let response_headers = headers(&args.response_headers)?;
    let request_body = args.body.as_deref().map(data).transpose()?;
    let response_body = args.response_body.as_deref().map(data).transpose()?;

    let compiled = obtain(args, &plugin)?;
    let failed = |error: &dyn fmt::Display| {
        let logged = logs.take();
        let logged: String = logged
            .iter()
            .map(|it| format!("\n  {}: {}", it.level, it.message))
            .collect();
        Failure::split(&format!("{error}{logged}"))
    };
    let engine = Engine::for_running().map_err(Failure::new)?;
    let host = Host::new(engine, args.modules.host_settings());
    let prepared =
        Prepared::load(host.engine(), compiled.artifact()).map_err(|error| failed(&error))?;
    canary(&host, &prepared, &plugin).map_err(|error| failed(&error))?;
    // The canary's words are said again by the instance that serves.
    logs.take();

    let asked = Rc::new(Asked::default());
    let callout: Rc<dyn Callout> = Rc::clone(&asked) as _;
    let filter = WasmFilter::alone(&host, &prepared, &plugin, &callout);
    let mut trial = Trial {
        abi: prepared.abi().to_string(),
        module: compiled,
        sent: sent(&request, request_body.as_ref()),
        upstream: None,
        local_reply: None,
        reset: None,
        stuck: None,
        answered: None,
        received: None,
        logs: Vec::new(),
        callouts: Vec::new(),
    };
    let mut client = Request::new(request.method, &args.path()?).authority(&args.host);
    for (name, value) in headers(&args.headers)? {
        client = client.header(name.as_str(), &text(&value));
    }
    if let Some(identity) = &args.identity {
        client = client.identity(identity.uri());
    }
    if request_body.is_some() {
        client = client.with_body();
    }
    let mut bench = Bench::start(&chain_of(filter), client);
    if let Some(body) = request_body {
        bench.send(body).end(None);
    }
    drive(
        &mut bench,
        &mut trial,
        args,
        &response_headers,
        response_body,
    );
    // The module hears of the end.
    drop(bench);
    trial.logs = logs.take();
    trial.callouts = asked.0.take();
    Ok(trial)
}

/// Plays the exchange to its end.
fn drive(
    bench: &mut Bench,
    trial: &mut Trial,
    args: &TrialArgs,
    response_headers: &[(HeaderName, HeaderValue)],
    response_body: Option<Bytes>,
) {
    let mut head = bench.head();
    for _ in 0..MAX_ROUNDS {
        if !matches!(head, Head::Paused) {
            break;
        }
        head = bench.head();
    }
    match head {
        Head::Paused => {
            trial.stuck = Some("the request");
            return;
        }
        Head::Reset(details) => {
            trial.reset = Some(details.to_string());
            return;
        }
        Head::Replied(reply) => {
            trial.local_reply = Some(reply.details.to_string());
            bench.reply(reply);
        }
        Head::Passed { .. } => {
            let body = bench.upstream().body();
            if let Some(interrupt) = bench.interrupt() {
                trial.local_reply = Some(interrupt.details().to_string());
                match interrupt {
                    wayline_chain::Interrupt::Reply(reply) => {
                        bench.reply(reply);
                    }
                    wayline_chain::Interrupt::Reset(details) => {
                        trial.local_reply = None;
                        trial.reset = Some(details.to_string());
                        return;
                    }
                }
            } else {
                trial.upstream = Some(bench.context(|context| {
                    let request = context.request();
                    Message {
                        line: line(request),
                        headers: pairs(&request.headers),
                        body,
                    }
                }));
                let headers: Vec<(String, String)> = response_headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), text(value)))
                    .collect();
                trial.answered = Some(Message {
                    line: args.response_status.to_string(),
                    headers: headers.clone(),
                    body: text_of(response_body.as_deref().unwrap_or_default()),
                });
                let headers: Vec<(&str, &str)> = headers
                    .iter()
                    .map(|(name, value)| (&**name, &**value))
                    .collect();
                bench.respond(args.response_status, &headers);
                if let Some(body) = response_body {
                    bench.send_back(body);
                }
                bench.end_back(None);
            }
        }
    }
    let mut received = None;
    for _ in 0..MAX_ROUNDS {
        received = bench
            .response()
            .map(|head| (head.status.to_string(), pairs(&head.headers)));
        if received.is_some() {
            break;
        }
    }
    match received {
        Some((line, headers)) => {
            let body = bench.client().body();
            trial.received = Some(Message {
                line,
                headers,
                body,
            });
        }
        None => trial.stuck = Some("the response"),
    }
}

/// How often a filter that waits is asked again. Nothing here takes time, so that more would not help.
const MAX_ROUNDS: usize = 64;

impl TrialArgs {
    fn path(&self) -> Result<String, Failure> {
        Ok(self.method_and_path()?.1.to_string())
    }

    fn method_and_path(&self) -> Result<(Method, PathAndQuery), Failure> {
        let refused = || {
            Failure::new(format!("`{}` is not a request", self.request))
                .remedy("write method and path, as in --request 'GET /reviews/1'")
        };
        let (method, path) = self.request.trim().split_once(' ').ok_or_else(refused)?;
        let method = method.parse().map_err(|_| refused())?;
        let path = path.trim();
        if !path.starts_with('/') {
            return Err(refused());
        }
        Ok((method, path.parse().map_err(|_| refused())?))
    }
}

/// The plugin that a WasmPlugin with these fields would be.
fn plugin(args: &TrialArgs) -> Result<Plugin, Failure> {
    let configuration = match &args.config {
        None => Bytes::new(),
        Some(config) => {
            let text = data(config)?;
            serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| {
                Failure::new(format!("the configuration is not JSON: {error}"))
                    .remedy("write it as in --config '{\"header\": \"x-a\"}', or --config @FILE")
            })?;
            text
        }
    };
    let stem = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let path = std::path::absolute(&args.file).map_err(Failure::new)?;
    let mut plugin = Plugin {
        name: format!("default.{stem}").into(),
        object: ObjectRef::new("WasmPlugin", "default", &stem),
        key: PluginKey([0; 32]),
        module: ModuleSource {
            url: format!("file://{}", path.display()).into(),
            sha256: None,
            pull_policy: PullPolicy::Unspecified,
            pull_secret: None,
        },
        root_id: args.plugin_name.as_deref().unwrap_or(&stem).into(),
        configuration: configuration.to_vec().into(),
        environment: Arc::default(),
        phase: PluginPhase::Unspecified,
        priority: None,
        fail_strategy: FailStrategy::FailClose,
        kind: PluginKind::Http,
        isolation: Isolation::Plugin,
        limits: PluginLimits::default(),
        callouts: None,
        allow_on_headers_stop_iteration: false,
    };
    plugin.key = PluginKey::of(&plugin);
    Ok(plugin)
}

fn obtain(args: &TrialArgs, plugin: &Plugin) -> Result<Arc<Compiled>, Failure> {
    let modules = Modules::new(args.modules.settings(None)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    runtime
        .block_on(modules.obtain(&plugin.module))
        .map_err(|error| Failure::split(&error.to_string()))
}

/// The request as the proxy would take it.
fn request(args: &TrialArgs) -> Result<CanonicalRequest, Failure> {
    let (method, path) = args.method_and_path()?;
    let uri = Uri::builder()
        .scheme("http")
        .authority(args.host.as_str())
        .path_and_query(path)
        .build()
        .map_err(|error| Failure::new(format!("`{}` is not a host: {error}", args.host)))?;
    let map: HeaderMap = headers(&args.headers)?.into_iter().collect();
    CanonicalRequest::new(method, &uri, Version::HTTP_2, map, PathNormalization::Base)
        .map_err(|error| Failure::new(format!("the proxy would not take this request: {error}")))
}

fn sent(request: &CanonicalRequest, body: Option<&Bytes>) -> Message {
    Message {
        line: line(request),
        headers: pairs(&request.headers),
        body: text_of(body.map(|it| &**it).unwrap_or_default()),
    }
}

fn line(request: &CanonicalRequest) -> String {
    format!(
        "{} {} host {}",
        request.method,
        request.path,
        request.authority.as_str()
    )
}

fn headers(written: &[String]) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
    let parsed = written.iter().map(|header| {
        let refused = || {
            Failure::new(format!("`{header}` is not a header")).remedy("write it as `Name: value`")
        };
        let (name, value) = header.split_once(':').ok_or_else(refused)?;
        let name = name.trim().parse::<HeaderName>().map_err(|_| refused())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| refused())?;
        Ok((name, value))
    });
    parsed.collect()
}

/// The text itself, or what is in the file that it names with `@`.
fn data(text: &str) -> Result<Bytes, Failure> {
    let Some(path) = text.strip_prefix('@') else {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    };
    let bytes = std::fs::read(Path::new(path))
        .map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
    Ok(bytes.into())
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

fn text(value: &HeaderValue) -> String {
    text_of(value.as_bytes())
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Notes what a filter asks of others, and answers that nobody is there.
#[derive(Default)]
struct Asked(RefCell<Vec<String>>);

impl Callout for Asked {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        let asked = format!(
            "{} {} of {}",
            request.request.method(),
            request.request.uri(),
            request.backend
        );
        self.0.borrow_mut().push(asked);
        let nobody = CalloutError::Unreachable("there is no network in a trial".into());
        Box::pin(std::future::ready(Err(nobody)))
    }

    fn knows(&self, _: &str) -> bool {
        true
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<Log>>>);

impl Logs {
    fn take(&self) -> Vec<Log> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Logs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Words(String::new());
        event.record(&mut message);
        let log = Log {
            level: *event.metadata().level(),
            message: message.0,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(log);
    }
}

/// The message of an event.
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
