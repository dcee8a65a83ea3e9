//! How plugins are loaded: their modules obtained, made ready for the host, and tried.

use std::sync::{Arc, OnceLock};

use wayline_model::plugin::Plugin;
use wayline_telemetry::MetricsHub;

use crate::canary::canary;
use crate::engine::Engine;
use crate::host::{Host, HostSettings};
use crate::manager::{Load, LoadFailure, Obtained};
use crate::module::{Compiled, ModuleError, Modules};
use crate::prepared::Prepared;

/// Loads plugins for the one host of this process, which is made when the first of them comes.
pub struct PluginLoader {
    modules: Modules,
    settings: HostSettings,
    hub: Arc<MetricsHub>,
    host: OnceLock<Result<Arc<Host>, Arc<str>>>,
}

/// A plugin of which instances can be made on any core.
#[derive(Debug)]
pub struct LoadedPlugin {
    pub(crate) host: Arc<Host>,
    pub(crate) prepared: Arc<Prepared>,
    /// As long as it is in use, nobody compiles it again.
    _compiled: Arc<Compiled>,
}

impl PluginLoader {
    /// Loads modules from `modules` into a host with these settings, whose plugins are counted in `hub`.
    #[must_use]
    pub fn new(modules: Modules, settings: HostSettings, hub: Arc<MetricsHub>) -> Self {
        Self {
            modules,
            settings,
            hub,
            host: OnceLock::new(),
        }
    }

    fn host(&self) -> Result<Arc<Host>, LoadFailure> {
        let make = || {
            let engine = Engine::for_running().map_err(|error| Arc::from(error.to_string()))?;
            let host = Host::new(engine, self.settings.clone());
            if let Err(error) = host.register(&self.hub) {
                tracing::error!(%error, "there are no metrics of Wasm plugins");
            }
            Ok(host)
        };
        self.host.get_or_init(make).clone().map_err(definite)
    }
}

impl Load for PluginLoader {
    type Compiled = Compiled;
    type Module = LoadedPlugin;

    async fn obtain(&self, plugin: &Arc<Plugin>) -> Result<Obtained<Compiled>, LoadFailure> {
        let compiled = self
            .modules
            .obtain(&plugin.module)
            .await
            .map_err(|error| LoadFailure {
                reason: error.to_string().into(),
                retriable: error.is_retriable(),
                fetch_result: fetch_result(&error),
            })?;
        Ok(Obtained {
            digest: compiled.digest.to_string().into(),
            compiled,
        })
    }

    fn start(
        &self,
        plugin: &Arc<Plugin>,
        compiled: &Arc<Compiled>,
    ) -> Result<LoadedPlugin, LoadFailure> {
        let host = self.host()?;
        let url = &plugin.module.url;
        let prepared = Prepared::load(host.engine(), compiled.artifact())
            .map_err(|error| definite(format!("{url}: {error}").into()))?;
        canary(&host, &prepared, plugin)
            .map_err(|error| definite(format!("{url}: {error}").into()))?;
        if !prepared.missing().is_empty() {
            tracing::warn!(
                plugin = &*plugin.name,
                "the module imports functions that nobody offers, and fails where it calls them: {}",
                prepared.missing().join(", ")
            );
        }
        Ok(LoadedPlugin {
            host,
            prepared,
            _compiled: Arc::clone(compiled),
        })
    }
}

fn definite(reason: Arc<str>) -> LoadFailure {
    LoadFailure {
        reason,
        retriable: false,
        fetch_result: "",
    }
}

/// As Istio's agent counts failures to fetch.
fn fetch_result(error: &ModuleError) -> &'static str {
    match error {
        ModuleError::Fetch(_) | ModuleError::File { .. } => "download_failure",
        ModuleError::Registry { .. } => "manifest_failure",
        ModuleError::Digest { .. } => "checksum_mismatched",
        ModuleError::Url { .. }
        | ModuleError::Secret { .. }
        | ModuleError::Layout { .. }
        | ModuleError::Refused { .. }
        | ModuleError::Compile { .. } => "fetch_failure",
    }
}
