//! Plugins: what snapshots want goes to the manager, what became of it back to the source.

use std::sync::Arc;

use wayline_control::FolderSource;
use wayline_telemetry::MetricsHub;
use wayline_wasm_host::{
    HostSettings, ManagerMetrics, ManagerSettings, ModuleSettings, Modules, PluginLoader,
    PluginSource, Shelf,
};

use crate::failure::Failure;

/// Starts the manager, which ends when the source does; its plugins are offered by the answer.
pub(super) fn start(
    source: &FolderSource,
    modules: ModuleSettings,
    host: HostSettings,
    hub: &Arc<MetricsHub>,
) -> Result<PluginSource, Failure> {
    let shelf = Arc::new(Shelf::default());
    let modules = Modules::new(modules);
    modules.register(hub.registry()).map_err(Failure::new)?;
    let loader = PluginLoader::new(modules, host, Arc::clone(hub));
    let verdicts = source.verdicts();
    let metrics = ManagerMetrics::register(hub.registry()).map_err(Failure::new)?;
    wayline_wasm_host::start(
        Arc::new(loader),
        Arc::clone(&shelf),
        source.publication().snapshots.clone(),
        move |all| verdicts.send(all),
        metrics,
        ManagerSettings::default(),
    )
    .map_err(Failure::new)?;
    Ok(PluginSource::new(shelf))
}
