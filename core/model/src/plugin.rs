//! Plugins: what a WasmPlugin (or the `wasm` of a TrafficExtension) asks for, as data.
//!
//! Owns what a plugin is, where its module comes from and within which limits it runs. Refuses to
//! know Wasm itself: `wayline-wasm-host` obtains and runs modules and reports a [`Verdict`] on each
//! plugin, with which the next snapshot is made.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::names::ObjectRef;

/// One plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// `<namespace>.<name>` of the object, as Istio names plugins; label `plugin` of metrics.
    pub name: Arc<str>,
    /// The object it was read from.
    pub object: ObjectRef,
    /// Tells plugins apart that must not share an instance or a verdict.
    pub key: PluginKey,
    /// Where its module comes from.
    pub module: ModuleSource,
    /// `pluginName`: the root id handed to the module; the object's name where it is not given.
    pub root_id: Arc<str>,
    /// `pluginConfig` as JSON text; empty where there is none.
    pub configuration: Arc<[u8]>,
    /// `vmConfig.env`.
    pub environment: Arc<[(Arc<str>, EnvironmentValue)]>,
    /// `phase`.
    pub phase: PluginPhase,
    /// `priority`; higher runs first within a phase. Not given sorts as the least (Istio).
    pub priority: Option<i32>,
    /// `failStrategy`.
    pub fail_strategy: FailStrategy,
    /// `type`.
    pub kind: PluginKind,
    /// Annotation `wayline.dev/isolation`.
    pub isolation: Isolation,
    /// What it may use up.
    pub limits: PluginLimits,
    /// Annotation `wayline.dev/callouts`: the backends it may call, comma separated, `*` for all that
    /// the snapshot knows; `None` (the default) also means all of them.
    pub callouts: Option<Arc<[Arc<str>]>>,
    /// Annotation `wayline.dev/allow-on-headers-stop-iteration`: a pause on headers lets body callbacks
    /// come (Envoy's `allow_on_headers_stop_iteration`); default false.
    pub allow_on_headers_stop_iteration: bool,
}

/// A digest of all that an instance is made from: module source, object, configuration,
/// environment, isolation and limits. Two plugins with one key may share instances and verdicts; what
/// is not in it (phase, priority, failStrategy) changes without a new instance.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PluginKey(pub [u8; 32]);

impl PluginKey {
    /// The key of a plugin, whatever its `key` says.
    #[must_use]
    pub fn of(plugin: &Plugin) -> Self {
        let mut parts = Parts(Sha256::new());
        parts.text(&plugin.object.kind);
        parts.text(&plugin.name);
        parts.text(&plugin.module.url);
        parts.option(plugin.module.sha256.as_deref());
        parts.number(plugin.module.pull_policy as u64);
        match &plugin.module.pull_secret {
            None => parts.number(0),
            Some(PullSecret::DockerConfig(config)) => {
                parts.number(1);
                parts.text(config);
            }
            Some(PullSecret::Missing(_)) => parts.number(2),
        }
        parts.text(&plugin.root_id);
        parts.bytes(&plugin.configuration);
        parts.number(plugin.environment.len() as u64);
        for (name, value) in plugin.environment.iter() {
            parts.text(name);
            parts.option(match value {
                EnvironmentValue::Inline(value) => Some(value),
                EnvironmentValue::Host => None,
            });
        }
        parts.number(plugin.kind as u64);
        parts.number(plugin.isolation as u64);
        let PluginLimits {
            callback,
            background,
            memory,
            callouts,
            log_bytes,
            metrics,
        } = plugin.limits;
        for span in [callback, background] {
            parts.bytes(&span.as_nanos().to_le_bytes());
        }
        for limit in [
            memory,
            u64::from(callouts),
            u64::from(log_bytes),
            u64::from(metrics),
        ] {
            parts.number(limit);
        }
        match &plugin.callouts {
            None => parts.number(u64::MAX),
            Some(allowed) => {
                parts.number(allowed.len() as u64);
                allowed.iter().for_each(|backend| parts.text(backend));
            }
        }
        parts.number(u64::from(plugin.allow_on_headers_stop_iteration));
        Self(parts.0.finalize().into())
    }
}

/// Feeds a digest so that no two lists of parts look alike.
struct Parts(Sha256);

impl Parts {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }
}

impl fmt::Debug for PluginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PluginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a module comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ModuleSource {
    /// `file://`, `http(s)://` or `oci://`; a URL without a scheme was read as `oci://`.
    pub url: Arc<str>,
    /// The digest asked for by `sha256` or `@sha256:` of the URL, 64 lower-case hex digits: of the module's
    /// bytes for files and HTTP, of the image's manifest for OCI (Istio).
    pub sha256: Option<Arc<str>>,
    /// `imagePullPolicy`.
    pub pull_policy: PullPolicy,
    /// `imagePullSecret`, resolved.
    pub pull_secret: Option<PullSecret>,
}

/// When an image is pulled again.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PullPolicy {
    /// `Always` for OCI references tagged `latest`, else `IfNotPresent`.
    #[default]
    Unspecified,
    /// Never again once it is here.
    IfNotPresent,
    /// Whenever the plugin changes, and when it is refreshed in the background.
    Always,
}

/// The pull secret a plugin names.
#[derive(Clone, Eq, Hash, PartialEq)]
pub enum PullSecret {
    /// Its `.dockerconfigjson`.
    DockerConfig(Arc<str>),
    /// It was named but can not be used: nothing is pulled, least of all anonymously.
    Missing(Arc<str>),
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DockerConfig(_) => f.write_str("DockerConfig(redacted)"),
            Self::Missing(why) => f.debug_tuple("Missing").field(why).finish(),
        }
    }
}

/// The value of an environment variable of a module.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum EnvironmentValue {
    /// `valueFrom: INLINE`.
    Inline(Arc<str>),
    /// `valueFrom: HOST`: this process's variable of the same name, where it is on the allow-list.
    Host,
}

/// Where in the chain a plugin runs (Istio's `phase`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PluginPhase {
    /// Before request authentication.
    Authn,
    /// After request authentication, before authorization.
    Authz,
    /// After authorization, before telemetry.
    Stats,
    /// Last, before the router.
    #[default]
    Unspecified,
}

/// What happens to traffic when a plugin can not work.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum FailStrategy {
    /// It is refused.
    #[default]
    FailClose,
    /// It passes as if the plugin were not there.
    FailOpen,
    /// As `FailClose`; a fresh instance meets the next stream. (Wayline does that for all of them.)
    FailReload,
}

/// What kind of traffic a plugin works on.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PluginKind {
    /// HTTP requests.
    #[default]
    Http,
    /// Bytes of TCP connections.
    Network,
}

/// How instances are shared.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Isolation {
    /// One instance per plugin and core; streams are contexts inside it.
    #[default]
    Plugin,
    /// A fresh instance for each stream.
    Stream,
}

/// What a plugin may use up. All are set by annotations `wayline.dev/*` on the object.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PluginLimits {
    /// CPU time of one callback on the request path; default 10 ms (`wayline.dev/cpu-budget`).
    pub callback: Duration,
    /// CPU time of start, configuration, ticks and queue callbacks; default 100 ms
    /// (`wayline.dev/background-cpu-budget`).
    pub background: Duration,
    /// Linear memory in bytes; default 64 MiB (`wayline.dev/memory-limit`).
    pub memory: u64,
    /// Callouts under way per stream; default 8 (`wayline.dev/max-callouts`).
    pub callouts: u32,
    /// Log bytes per second; default 64 KiB (`wayline.dev/log-limit`).
    pub log_bytes: u32,
    /// Metric names; default 1,000 (`wayline.dev/max-metrics`).
    pub metrics: u32,
}

impl PluginPhase {
    /// As it is written in a manifest; empty for the default.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authn => "AUTHN",
            Self::Authz => "AUTHZ",
            Self::Stats => "STATS",
            Self::Unspecified => "",
        }
    }
}

impl FailStrategy {
    /// As it is written in a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailClose => "FAIL_CLOSE",
            Self::FailOpen => "FAIL_OPEN",
            Self::FailReload => "FAIL_RELOAD",
        }
    }
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            callback: Duration::from_millis(10),
            background: Duration::from_millis(100),
            memory: 64 << 20,
            callouts: 8,
            log_bytes: 64 << 10,
            metrics: 1000,
        }
    }
}

/// What became of a plugin's module.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// Nothing is known yet.
    #[default]
    Pending,
    /// It started; instances can be had.
    Ready {
        /// SHA-256 of the module's bytes, 64 hex digits. A module that was pulled anew under the same
        /// key has another one.
        digest: Arc<str>,
        /// Why a newer module of the same source is not in its place, where there is one.
        trouble: Option<Arc<str>>,
    },
    /// It can not run; one sentence saying why.
    Failed(Arc<str>),
}

impl Verdict {
    /// Whether instances can be had.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// One word: `pending`, `ready` or `failed`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready { .. } => "ready",
            Self::Failed(_) => "failed",
        }
    }
}

/// What is known of the plugins that a snapshot wants. What is not in it is pending.
pub type Verdicts = HashMap<PluginKey, Verdict>;

/// A plugin of a target, and what became of it when the snapshot was made.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachedPlugin {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// What became of it.
    pub verdict: Verdict,
}

impl AttachedPlugin {
    /// The same plugin with the same verdict, compared by pointer.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plugin, &other.plugin) && self.verdict == other.verdict
    }
}
