//! The plugins of a target as filters of its chain.
//!
//! A plugin that can not run stands in the chain as what its failStrategy makes of it: with FAIL_OPEN
//! nothing, else a filter that answers 503, or ends connections. Istio answers 403 where a module could not be fetched
//! (its agent puts a deny-all policy in the filter's place) and 503 where it could not be started; here
//! both are 503, because neither is the client's fault and either may be over a moment later.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use wayline_chain::{
    Begin, ConnectionContext, Filter, FilterSource, LocalReply, NetworkBegin, NetworkEnd,
    NetworkFilter, Phase, Placed, PlacedNetwork, RequestContext, Scope,
};
use wayline_model::plugin::{AttachedPlugin, FailStrategy, PluginKind, PluginPhase, Verdict};

use crate::filter::WasmFilter;
use crate::loader::LoadedPlugin;
use crate::manager::Shelf;
use crate::network::WasmNetworkFilter;

/// Offers the plugins that are in force at a scope.
#[derive(Clone, Debug)]
pub struct PluginSource {
    shelf: Arc<Shelf<LoadedPlugin>>,
}

impl PluginSource {
    /// Takes modules from the shelf that a manager fills.
    #[must_use]
    pub fn new(shelf: Arc<Shelf<LoadedPlugin>>) -> Self {
        Self { shelf }
    }

    fn filter(&self, attached: &AttachedPlugin, scope: &Scope<'_>) -> Option<Placed> {
        let plugin = &attached.plugin;
        let filter: Rc<dyn Filter> = match self.loaded(attached) {
            Some(loaded) => {
                let (host, prepared) = (&loaded.host, &loaded.prepared);
                Rc::new(WasmFilter::new(host, prepared, plugin, scope))
            }
            None => Rc::new(Refusal::instead_of(attached)?),
        };
        Some(Placed {
            phase: phase(plugin.phase),
            // They come in the order of their priorities, which the chain keeps among equals.
            priority: 0,
            filter,
        })
    }

    fn network_filter(
        &self,
        attached: &AttachedPlugin,
        scope: &Scope<'_>,
    ) -> Option<PlacedNetwork> {
        let plugin = &attached.plugin;
        let filter: Rc<dyn NetworkFilter> = match self.loaded(attached) {
            Some(loaded) => {
                let (host, prepared) = (&loaded.host, &loaded.prepared);
                Rc::new(WasmNetworkFilter::new(host, prepared, plugin, scope))
            }
            None => Rc::new(Refusal::instead_of(attached)?),
        };
        Some(PlacedNetwork {
            phase: phase(plugin.phase),
            priority: 0,
            filter,
        })
    }

    /// The plugin's module, where it can run.
    fn loaded(&self, attached: &AttachedPlugin) -> Option<Arc<LoadedPlugin>> {
        let Verdict::Ready { digest, .. } = &attached.verdict else {
            return None;
        };
        let loaded = self.shelf.get(attached.plugin.key, digest);
        if loaded.is_none() {
            tracing::error!(
                plugin = &*attached.plugin.name,
                "a Wasm plugin is in force whose module was given up: its failStrategy decides"
            );
        }
        loaded
    }
}

impl FilterSource for PluginSource {
    fn filters(&self, scope: &Scope<'_>) -> Vec<Placed> {
        of_kind(scope, PluginKind::Http)
            .filter_map(|attached| self.filter(attached, scope))
            .collect()
    }

    fn network_filters(&self, scope: &Scope<'_>) -> Vec<PlacedNetwork> {
        of_kind(scope, PluginKind::Network)
            .filter_map(|attached| self.network_filter(attached, scope))
            .collect()
    }
}

fn of_kind<'a>(
    scope: &Scope<'a>,
    kind: PluginKind,
) -> impl Iterator<Item = &'a AttachedPlugin> + use<'a> {
    let plugins = scope.plugins.iter();
    plugins.filter(move |attached| attached.plugin.kind == kind)
}

/// Where a plugin's phase stands in the chain.
#[must_use]
pub fn phase(phase: PluginPhase) -> Phase {
    match phase {
        PluginPhase::Authn => Phase::ExtensionAuthn,
        PluginPhase::Authz => Phase::ExtensionAuthz,
        PluginPhase::Stats => Phase::ExtensionStats,
        PluginPhase::Unspecified => Phase::Extension,
    }
}

/// Refuses everything in the place of a plugin that can not run: requests with 503, connections by
/// ending them. The access log says which plugin is to blame.
struct Refusal {
    name: Arc<str>,
    details: Arc<str>,
}

impl Refusal {
    /// Nothing where the plugin's failStrategy lets traffic pass.
    fn instead_of(attached: &AttachedPlugin) -> Option<Self> {
        if attached.plugin.fail_strategy == FailStrategy::FailOpen {
            return None;
        }
        let name = Arc::clone(&attached.plugin.name);
        let state = match &attached.verdict {
            Verdict::Pending => "pending",
            Verdict::Ready { .. } | Verdict::Failed(_) => "failed",
        };
        Some(Self {
            details: format!("wasm_fail_stream{{{name}|{state}}}").into(),
            name,
        })
    }
}

impl Filter for Refusal {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&self, _: &mut RequestContext) -> Begin {
        let details = Arc::clone(&self.details);
        Begin::Reply(LocalReply::text(
            StatusCode::SERVICE_UNAVAILABLE,
            "",
            details,
        ))
    }
}

impl NetworkFilter for Refusal {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self, _: &mut ConnectionContext) -> NetworkBegin {
        NetworkBegin::End(NetworkEnd::Fail(Arc::clone(&self.details)))
    }
}
