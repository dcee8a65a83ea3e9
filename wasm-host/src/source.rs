//! The plugins of a target as filters of its chain.
//!
//! A plugin that can not run stands in the chain as what its failStrategy makes of it: with FAIL_OPEN
//! nothing, else a filter that answers 503. Istio answers 403 where a module could not be fetched
//! (its agent puts a deny-all policy in the filter's place) and 503 where it could not be started; here
//! both are 503, because neither is the client's fault and either may be over a moment later.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use wayline_chain::{
    Begin, Filter, FilterSource, LocalReply, Phase, Placed, RequestContext, Scope,
};
use wayline_model::plugin::{AttachedPlugin, FailStrategy, PluginPhase, Verdict};

use crate::filter::WasmFilter;
use crate::loader::LoadedPlugin;
use crate::manager::Shelf;

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
        let Verdict::Ready { digest, .. } = &attached.verdict else {
            return unavailable(attached);
        };
        let Some(loaded) = self.shelf.get(plugin.key, digest) else {
            tracing::error!(
                plugin = &*plugin.name,
                "a Wasm plugin is in force whose module was given up: its failStrategy decides"
            );
            return unavailable(attached);
        };
        let filter = WasmFilter::new(&loaded.host, &loaded.prepared, plugin, scope);
        Some(placed(attached, Rc::new(filter)))
    }
}

impl FilterSource for PluginSource {
    fn filters(&self, scope: &Scope<'_>) -> Vec<Placed> {
        let plugins = scope.plugins.iter();
        plugins
            .filter_map(|attached| self.filter(attached, scope))
            .collect()
    }
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

fn placed(attached: &AttachedPlugin, filter: Rc<dyn Filter>) -> Placed {
    Placed {
        phase: phase(attached.plugin.phase),
        // They come in the order of their priorities, which the chain keeps among equals.
        priority: 0,
        filter,
    }
}

/// What stands for a plugin that can not run.
fn unavailable(attached: &AttachedPlugin) -> Option<Placed> {
    if attached.plugin.fail_strategy == FailStrategy::FailOpen {
        return None;
    }
    let name = Arc::clone(&attached.plugin.name);
    let state = match &attached.verdict {
        Verdict::Pending => "pending",
        Verdict::Ready { .. } | Verdict::Failed(_) => "failed",
    };
    let refusal = Refusal {
        details: format!("wasm_fail_stream{{{name}|{state}}}").into(),
        name,
    };
    Some(placed(attached, Rc::new(refusal)))
}

/// Answers every request with 503, and says in the access log which plugin is to blame.
struct Refusal {
    name: Arc<str>,
    details: Arc<str>,
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
