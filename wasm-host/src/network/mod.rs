//! Plugins of `type: NETWORK`: modules at work on connections of opaque bytes.
//!
//! Owns what the connection callbacks of the ABI mean, and how such plugins stand in a chain of
//! network filters. Refuses to know how bytes are copied, and what is different about requests.
//! Instances, budgets and quarantine are those of all plugins.

mod connection;
mod quarantine;

use std::rc::Rc;
use std::sync::Arc;

use wayline_chain::{Callout, ConnectionContext, NetworkBegin, NetworkEnd, NetworkFilter, Scope};
use wayline_model::plugin::{FailStrategy, Plugin};

use crate::callbacks::Exported;
use crate::host::Host;
use crate::place::Place;
use crate::prepared::Prepared;
use crate::seat::Seat;

use connection::WasmConnection;
use quarantine::Guest;

/// A plugin in a chain of network filters of one core.
pub struct WasmNetworkFilter {
    seat: Rc<Seat>,
    place: Rc<Place>,
    /// Whether the module hears of connections at all.
    hears_connections: bool,
}

impl WasmNetworkFilter {
    /// The plugin for a target. All chains of this core that have the plugin share its instance.
    #[must_use]
    pub fn new(
        host: &Arc<Host>,
        prepared: &Arc<Prepared>,
        plugin: &Arc<Plugin>,
        scope: &Scope<'_>,
    ) -> Self {
        Self::at(host, prepared, plugin, scope.callout, Place::of(scope))
    }

    /// The plugin on its own: it finds no properties of a target.
    #[must_use]
    pub fn alone(
        host: &Arc<Host>,
        prepared: &Arc<Prepared>,
        plugin: &Arc<Plugin>,
        callout: &Rc<dyn Callout>,
    ) -> Self {
        Self::at(host, prepared, plugin, callout, Place::default())
    }

    pub(crate) fn at(
        host: &Arc<Host>,
        prepared: &Arc<Prepared>,
        plugin: &Arc<Plugin>,
        callout: &Rc<dyn Callout>,
        place: Place,
    ) -> Self {
        Self {
            seat: Seat::of(host, prepared, plugin, callout),
            place: Rc::new(place),
            hears_connections: hears_connections(&prepared.exported),
        }
    }

    /// Meets a connection on this thread, wherever the plugin should run.
    pub(crate) fn open_here(&self) -> Opened {
        let Ok(instance) = self.seat.instance() else {
            return Opened::Unavailable;
        };
        let (seat, place) = (Rc::clone(&self.seat), Rc::clone(&self.place));
        WasmConnection::new(seat, instance, place).map_or(Opened::Unavailable, Opened::Here)
    }

    /// What becomes of a connection that no instance can be had for.
    pub(crate) fn unavailable(&self) -> Option<NetworkEnd> {
        let recipe = &self.seat.recipe;
        if recipe.plugin.fail_strategy == FailStrategy::FailOpen {
            recipe.book.bypassed();
            return None;
        }
        recipe.book.refused();
        Some(failed())
    }
}

/// How a plugin met a connection.
pub(crate) enum Opened {
    /// It follows it.
    Here(WasmConnection),
    /// It can not work now.
    Unavailable,
}

impl NetworkFilter for WasmNetworkFilter {
    fn name(&self) -> &str {
        &self.seat.recipe.plugin.name
    }

    fn open(&self, context: &mut ConnectionContext) -> NetworkBegin {
        if !self.hears_connections {
            return NetworkBegin::Pass;
        }
        let recipe = &self.seat.recipe;
        if recipe.book.quarantine.holds(recipe.host.quarantine()) {
            if let Some(guest) = Guest::admit(recipe, &self.place, &context.connection) {
                return NetworkBegin::Follow(Box::new(guest));
            }
        } else if let Opened::Here(connection) = self.open_here() {
            return NetworkBegin::Follow(Box::new(connection));
        }
        self.unavailable()
            .map_or(NetworkBegin::Pass, NetworkBegin::End)
    }
}

impl std::fmt::Debug for WasmNetworkFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmNetworkFilter")
            .field("plugin", &self.name())
            .finish_non_exhaustive()
    }
}

/// The end of a connection in the place of a plugin that can not work.
fn failed() -> NetworkEnd {
    NetworkEnd::Fail("wasm_fail_stream".into())
}

fn hears_connections(exported: &Exported) -> bool {
    exported.new_connection.is_some()
        || exported.downstream_data.is_some()
        || exported.upstream_data.is_some()
        || exported.downstream_close.is_some()
        || exported.upstream_close.is_some()
        || exported.context_create.is_some()
        || exported.done.is_some()
        || exported.log.is_some()
        || exported.delete.is_some()
}
