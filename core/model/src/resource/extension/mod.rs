//! WasmPlugin and TrafficExtension (extensions.istio.io/v1alpha1): what plugins are asked for and where.
//!
//! The two kinds differ in where the fields stand: those of the module are in `spec` of the one and in
//! `spec.wasm` of the other. Both are read into one [`Extension`]. What Wayline adds stands in
//! annotations (`annotations.rs`).

mod annotations;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::meta::{Metadata, Unread};
use super::policy::{self, Attachment};
use super::read::{self, ReadError};
use crate::authorization::spec::{PolicyTargetReference, WorkloadSelector};
use crate::finding::Finding;
use crate::names::ObjectRef;
use crate::plugin::{
    EnvironmentValue, FailStrategy, Isolation, ModuleSource, Plugin, PluginKey, PluginKind,
    PluginLimits, PluginPhase, PullPolicy, PullSecret,
};

use annotations::Annotations;

/// A WasmPlugin, or a TrafficExtension with `wasm`.
#[derive(Clone, Debug, PartialEq)]
pub struct Extension {
    /// The object.
    pub object: ObjectRef,
    /// RFC 3339 time of creation; what has none counts as oldest.
    pub creation: Option<Arc<str>>,
    /// What it is attached to.
    pub attachment: Attachment,
    /// `match`: the traffic it is for; empty means all.
    pub selects: Vec<TrafficSelector>,
    /// `imagePullSecret`: a Secret of the same namespace.
    pub pull_secret: Option<Arc<str>>,
    /// Everything but the pull secret's content.
    plugin: Plugin,
}

/// One of `match`: mode and ports must both fit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficSelector {
    /// On which side of a connection.
    pub mode: WorkloadMode,
    /// `ports`, of which one must fit; empty means any.
    ports: Vec<PortSelector>,
}

impl TrafficSelector {
    /// Whether traffic to a port, seen from one side, is meant.
    #[must_use]
    pub fn fits(&self, side: WorkloadMode, port: u16) -> bool {
        let mode = match self.mode {
            WorkloadMode::Undefined | WorkloadMode::ClientAndServer => true,
            mode => mode == side,
        };
        mode && (self.ports.is_empty() || self.ports.iter().any(|it| it.number == port))
    }
}

/// One of `ports`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PortSelector {
    number: u16,
}

/// `match[].mode` (Istio's WorkloadMode).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkloadMode {
    /// Either.
    #[default]
    Undefined,
    /// The side that sends requests. Istio counts gateways as this.
    Client,
    /// The side that serves them. Istio counts waypoints as this.
    Server,
    /// Either.
    ClientAndServer,
}

impl Extension {
    /// What it is attached to and for which traffic.
    #[must_use]
    pub fn fits(&self, side: WorkloadMode, port: u16) -> bool {
        self.selects.is_empty() || self.selects.iter().any(|it| it.fits(side, port))
    }

    /// Where in the chain it runs.
    #[must_use]
    pub fn phase(&self) -> PluginPhase {
        self.plugin.phase
    }

    /// The plugin, with the pull secret that was found under [`Self::pull_secret`].
    #[must_use]
    pub fn plugin(&self, pull_secret: Option<PullSecret>) -> Plugin {
        let mut plugin = self.plugin.clone();
        plugin.module.pull_secret = pull_secret;
        plugin.key = PluginKey::of(&plugin);
        plugin
    }
}

/// An extension, and what is odd about it.
pub(super) struct Readable {
    pub(super) extension: Extension,
    pub(super) findings: Vec<Finding>,
}

/// Reads one; on failure everything that is wrong with it, at least one thing.
pub(super) fn read(
    object: &ObjectRef,
    document: &Value,
    nested: bool,
) -> Result<Readable, Vec<ReadError>> {
    let shell: Shell = strict(document, "").map_err(|error| vec![error])?;
    let (common, module) = split(document, nested)?;
    let common: Common = strict(&common, "spec").map_err(|error| vec![error])?;
    let prefix = if nested { "spec.wasm" } else { "spec" };
    let module: Module = strict(&module, prefix).map_err(|error| vec![error])?;

    let mut problems = Problems::default();
    problems.attachment(object, &common);
    problems.selectors(&common.selects);
    let source = problems.source(&module, prefix);
    let configuration = problems.configuration(document, nested, prefix);
    let environment = problems.environment(&module.vm_config.env, prefix);
    problems.name_length(
        module.plugin_name.as_deref(),
        256,
        &format!("{prefix}.pluginName"),
    );
    problems.name_length(
        module.image_pull_secret.as_deref(),
        253,
        &format!("{prefix}.imagePullSecret"),
    );
    let annotations = Annotations::read(&shell.metadata.annotations, &mut problems.0);
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    let name: Arc<str> = format!("{}.{}", object.namespace, object.name).into();
    let mut findings: Vec<Finding> = annotations
        .unknown
        .iter()
        .map(|key| {
            Finding::error("there is no such annotation; it is ignored")
                .on(object)
                .field(format!("metadata.annotations.{key}"))
                .remedy("correct its spelling, or remove it")
        })
        .collect();
    if module.verification_key.is_some() {
        findings.push(
            Finding::error("signatures are not verified, by Istio neither")
                .on(object)
                .field(format!("{prefix}.verificationKey"))
                .remedy("pin the module with sha256"),
        );
    }
    let plugin = Plugin {
        root_id: module
            .plugin_name
            .unwrap_or_else(|| Arc::clone(&object.name)),
        name,
        object: object.clone(),
        key: PluginKey([0; 32]),
        module: source,
        configuration,
        environment,
        phase: common.phase.into(),
        priority: common.priority,
        fail_strategy: module.fail_strategy.into(),
        kind: module.kind.into(),
        isolation: annotations.isolation,
        limits: annotations.limits,
        callouts: annotations.callouts,
        allow_on_headers_stop_iteration: annotations.allow_on_headers_stop_iteration,
    };
    let targets = common.targets().to_vec();
    Ok(Readable {
        extension: Extension {
            object: object.clone(),
            creation: shell.metadata.creation_timestamp.map(Arc::from),
            attachment: Attachment {
                targets,
                selector: common.selector.map(|it| it.match_labels),
            },
            selects: common.selects,
            pull_secret: module.image_pull_secret,
            plugin,
        },
        findings,
    })
}

/// Whether a document that can not be read says that traffic may pass without it.
pub(super) fn fails_open(document: &Value, nested: bool) -> bool {
    let spec = &document["spec"];
    let module = if nested { &spec["wasm"] } else { spec };
    module["failStrategy"] == "FAIL_OPEN"
}

/// The fields that say what runs, which a TrafficExtension has under `wasm`.
const MODULE_FIELDS: [&str; 10] = [
    "url",
    "sha256",
    "imagePullPolicy",
    "imagePullSecret",
    "verificationKey",
    "pluginConfig",
    "pluginName",
    "failStrategy",
    "vmConfig",
    "type",
];

/// The fields of `spec` that say where and when, and those that say what.
fn split(document: &Value, nested: bool) -> Result<(Value, Value), Vec<ReadError>> {
    let wrong = |path: &str, reason: &str| {
        Err(vec![ReadError {
            path: path.to_owned(),
            reason: reason.to_owned(),
        }])
    };
    let Value::Object(spec) = &document["spec"] else {
        return wrong("spec", "there is nothing in it that could run");
    };
    if !nested {
        let (module, common): (Map<_, _>, Map<_, _>) = spec
            .clone()
            .into_iter()
            .partition(|(key, _)| MODULE_FIELDS.contains(&key.as_str()));
        return Ok((Value::Object(common), Value::Object(module)));
    }
    if spec.get("lua").is_some_and(|lua| !lua.is_null()) {
        return wrong(
            "spec.lua",
            "Lua is not supported; write the extension as a WebAssembly module",
        );
    }
    let mut common = spec.clone();
    common.remove("lua");
    match common.remove("wasm") {
        Some(module @ Value::Object(_)) => Ok((Value::Object(common), module)),
        _ => wrong("spec.wasm", "an extension needs `wasm`"),
    }
}

/// Reads a value of which every field must be known.
fn strict<T: DeserializeOwned>(value: &Value, prefix: &str) -> Result<T, ReadError> {
    let below = |path: &str| match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    };
    let read = read::read::<T>(value).map_err(|error| ReadError {
        path: below(&error.path),
        reason: error.reason,
    })?;
    match read.unknown.first() {
        None => Ok(read.value),
        Some(path) => Err(ReadError {
            path: below(path),
            reason: "there is no such field".to_owned(),
        }),
    }
}

/// Everything around `spec`.
#[derive(Deserialize)]
struct Shell {
    metadata: Metadata,
    #[serde(rename = "spec", default)]
    _spec: Unread,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// Where and when.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Common {
    selector: Option<WorkloadSelector>,
    target_refs: Vec<PolicyTargetReference>,
    target_ref: Option<PolicyTargetReference>,
    phase: Phase,
    priority: Option<i32>,
    #[serde(rename = "match")]
    selects: Vec<TrafficSelector>,
}

impl Common {
    fn targets(&self) -> &[PolicyTargetReference] {
        if self.target_refs.is_empty() {
            self.target_ref.as_slice()
        } else {
            &self.target_refs
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Phase {
    #[default]
    #[serde(rename = "UNSPECIFIED_PHASE")]
    Unspecified,
    Authn,
    Authz,
    Stats,
}

impl From<Phase> for PluginPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Unspecified => Self::Unspecified,
            Phase::Authn => Self::Authn,
            Phase::Authz => Self::Authz,
            Phase::Stats => Self::Stats,
        }
    }
}

/// What runs.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Module {
    url: String,
    sha256: String,
    image_pull_policy: Policy,
    image_pull_secret: Option<Arc<str>>,
    verification_key: Option<String>,
    /// Read apart, because a `null` within it means something.
    #[serde(rename = "pluginConfig")]
    _plugin_config: Unread,
    plugin_name: Option<Arc<str>>,
    fail_strategy: Strategy,
    vm_config: VmConfig,
    #[serde(rename = "type")]
    kind: Kind,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum Policy {
    #[default]
    #[serde(rename = "UNSPECIFIED_POLICY")]
    Unspecified,
    IfNotPresent,
    Always,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum Strategy {
    #[default]
    #[serde(rename = "FAIL_CLOSE")]
    Close,
    #[serde(rename = "FAIL_OPEN")]
    Open,
    #[serde(rename = "FAIL_RELOAD")]
    Reload,
}

impl From<Strategy> for FailStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Close => Self::FailClose,
            Strategy::Open => Self::FailOpen,
            Strategy::Reload => Self::FailReload,
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Kind {
    #[default]
    UnspecifiedPluginType,
    Http,
    Network,
}

impl From<Kind> for PluginKind {
    fn from(kind: Kind) -> Self {
        match kind {
            // As Istio reads it.
            Kind::UnspecifiedPluginType | Kind::Http => Self::Http,
            Kind::Network => Self::Network,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VmConfig {
    env: Vec<Variable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: Arc<str>,
    #[serde(default)]
    value_from: ValueFrom,
    #[serde(default)]
    value: Option<Arc<str>>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ValueFrom {
    #[default]
    Inline,
    Host,
}

/// Istio's limits.
const MAX_VARIABLES: usize = 256;
const MAX_VARIABLE_NAME: usize = 256;
const MAX_VARIABLE_VALUE: usize = 2048;

/// Everything that is wrong.
#[derive(Default)]
struct Problems(Vec<ReadError>);

impl Problems {
    fn push(&mut self, path: String, reason: String) {
        self.0.push(ReadError { path, reason });
    }

    fn attachment(&mut self, object: &ObjectRef, common: &Common) {
        self.0.extend(policy::attachment_problems(
            common.selector.is_some(),
            common.targets(),
            common.target_refs.is_empty(),
            &object.namespace,
        ));
    }

    fn selectors(&mut self, selects: &[TrafficSelector]) {
        for (m, select) in selects.iter().enumerate() {
            for (p, port) in select.ports.iter().enumerate() {
                if port.number == 0 {
                    self.push(
                        format!("spec.match[{m}].ports[{p}].number"),
                        "a port is a number from 1 to 65535".to_owned(),
                    );
                }
            }
        }
    }

    fn source(&mut self, module: &Module, prefix: &str) -> ModuleSource {
        let written = module.url.trim();
        let (scheme, rest) = written.split_once("://").unwrap_or(("oci", written));
        let reason = match scheme {
            _ if written.is_empty() => Some("an extension needs a module"),
            "oci" | "http" | "https" if rest.is_empty() || rest.starts_with('/') => {
                Some("there is no host in it")
            }
            "file" if !rest.starts_with('/') || rest.len() < 2 => {
                Some("a file is named by its absolute path, as in file:///filters/a.wasm")
            }
            "oci" | "http" | "https" | "file" => None,
            _ => Some("a module is loaded from oci://, https://, http:// or file://"),
        };
        if let Some(reason) = reason {
            self.push(format!("{prefix}.url"), reason.to_owned());
        }
        ModuleSource {
            sha256: self.digest(module, rest, prefix),
            url: format!("{scheme}://{rest}").into(),
            pull_policy: match module.image_pull_policy {
                Policy::Unspecified => PullPolicy::Unspecified,
                Policy::IfNotPresent => PullPolicy::IfNotPresent,
                Policy::Always => PullPolicy::Always,
            },
            pull_secret: None,
        }
    }

    /// Of `sha256` and of `@sha256:` in the URL, which must agree.
    fn digest(&mut self, module: &Module, rest: &str, prefix: &str) -> Option<Arc<str>> {
        let in_url = rest.split_once("@sha256:").map(|(_, digest)| digest);
        let field = Some(module.sha256.as_str()).filter(|digest| !digest.is_empty());
        let mut digest = None;
        for (written, path) in [(field, "sha256"), (in_url, "url")] {
            let Some(written) = written else { continue };
            let lower = written.to_ascii_lowercase();
            if lower.len() != 64 || !lower.bytes().all(|it| it.is_ascii_hexdigit()) {
                self.push(
                    format!("{prefix}.{path}"),
                    format!("`{written}` is not a SHA-256 digest of 64 hexadecimal digits"),
                );
                continue;
            }
            if digest.as_ref().is_some_and(|other| *other != lower) {
                self.push(
                    format!("{prefix}.sha256"),
                    "the digest in the URL is another one; keep one of them".to_owned(),
                );
            }
            digest = Some(lower);
        }
        digest.map(Arc::from)
    }

    /// `pluginConfig` as it was written: an empty one counts as none.
    fn configuration(&mut self, document: &Value, nested: bool, prefix: &str) -> Arc<[u8]> {
        let spec = &document["spec"];
        let module = if nested { &spec["wasm"] } else { spec };
        match &module["pluginConfig"] {
            Value::Null => Arc::default(),
            Value::Object(fields) if fields.is_empty() => Arc::default(),
            config @ Value::Object(_) => config.to_string().into_bytes().into(),
            _ => {
                self.push(
                    format!("{prefix}.pluginConfig"),
                    "a configuration is a mapping".to_owned(),
                );
                Arc::default()
            }
        }
    }

    fn environment(
        &mut self,
        variables: &[Variable],
        prefix: &str,
    ) -> Arc<[(Arc<str>, EnvironmentValue)]> {
        let at = |v: usize| format!("{prefix}.vmConfig.env[{v}]");
        if variables.len() > MAX_VARIABLES {
            self.push(
                format!("{prefix}.vmConfig.env"),
                format!("at most {MAX_VARIABLES} variables are possible"),
            );
        }
        let mut all: Vec<(Arc<str>, EnvironmentValue)> = Vec::with_capacity(variables.len());
        for (v, variable) in variables.iter().enumerate() {
            let name = &variable.name;
            if name.is_empty() || name.len() > MAX_VARIABLE_NAME || name.contains(['=', '\0']) {
                let reason =
                    format!("the name of a variable has 1 to {MAX_VARIABLE_NAME} bytes and no `=`");
                self.push(format!("{}.name", at(v)), reason);
            }
            if all.iter().any(|(other, _)| other == name) {
                let reason = format!("there is another variable `{name}`; keep one of them");
                self.push(format!("{}.name", at(v)), reason);
            }
            let value = variable.value.clone().unwrap_or_default();
            if value.len() > MAX_VARIABLE_VALUE || value.contains('\0') {
                let reason = format!("a value has at most {MAX_VARIABLE_VALUE} bytes and no NUL");
                self.push(format!("{}.value", at(v)), reason);
            }
            let value = match variable.value_from {
                ValueFrom::Inline => EnvironmentValue::Inline(value),
                ValueFrom::Host => {
                    if !value.is_empty() {
                        let reason = "the value comes from the host: remove it, or use INLINE";
                        self.push(format!("{}.value", at(v)), reason.to_owned());
                    }
                    EnvironmentValue::Host
                }
            };
            all.push((Arc::clone(name), value));
        }
        all.into()
    }

    fn name_length(&mut self, name: Option<&str>, most: usize, path: &str) {
        if name.is_some_and(|name| name.is_empty() || name.len() > most) {
            self.push(path.to_owned(), format!("it has 1 to {most} bytes"));
        }
    }
}
