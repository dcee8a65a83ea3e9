//! A plugin as a filter of a chain.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use wayline_chain::{Begin, Callout, Filter, Needs, RequestContext, Scope};
use wayline_model::plugin::{FailStrategy, Plugin};

use crate::callbacks::Exported;
use crate::control::StreamControl;
use crate::host::Host;
use crate::place::Place;
use crate::prepared::Prepared;
use crate::quarantine::Stranger;
use crate::seat::Seat;
use crate::stream::{WasmStream, failed};

/// A plugin in a chain of one core.
pub struct WasmFilter {
    seat: Rc<Seat>,
    place: Rc<Place>,
    needs: Needs,
    /// Whether the module hears of streams at all.
    hears_streams: bool,
}

impl WasmFilter {
    /// The plugin for a target. All chains of this core that have the plugin share its instance.
    ///
    /// Starts the instance where there is none; should that fail, streams meet the plugin's
    /// `failStrategy`.
    #[must_use]
    pub fn new(
        host: &Arc<Host>,
        prepared: &Arc<Prepared>,
        plugin: &Arc<Plugin>,
        scope: &Scope<'_>,
    ) -> Self {
        Self::at(host, prepared, plugin, scope.callout, Place::of(scope))
    }

    /// The plugin on its own, for trying it without a proxy: it finds no properties of a target.
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
        let exported = &prepared.exported;
        Self {
            seat: Seat::of(host, prepared, plugin, callout),
            place: Rc::new(place),
            needs: needs(exported),
            hears_streams: hears_streams(exported),
        }
    }
}

impl Filter for WasmFilter {
    fn name(&self) -> &str {
        &self.seat.recipe.plugin.name
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn begin(&self, context: &mut RequestContext) -> Begin {
        let recipe = &self.seat.recipe;
        if !self.hears_streams || !recipe.book.quarantine.holds(recipe.host.quarantine()) {
            return self.begin_here(context);
        }
        match Stranger::admit(recipe, &self.place) {
            Some(stranger) => Begin::Stream(Box::new(stranger)),
            None => self.unavailable(),
        }
    }
}

impl WasmFilter {
    /// Meets a request on this thread, wherever the plugin should run.
    pub(crate) fn begin_here(&self, context: &RequestContext) -> Begin {
        if !self.hears_streams {
            return Begin::Pass;
        }
        if let Ok(instance) = self.seat.instance() {
            let began = context.began.unwrap_or_else(Instant::now);
            let control = Rc::new(StreamControl::new(Rc::clone(&self.place), began));
            let stream = WasmStream::new(Rc::clone(&self.seat), instance, control);
            return Begin::Stream(Box::new(stream));
        }
        self.unavailable()
    }

    fn unavailable(&self) -> Begin {
        let recipe = &self.seat.recipe;
        if recipe.plugin.fail_strategy == FailStrategy::FailOpen {
            recipe.book.bypassed();
            return Begin::Pass;
        }
        recipe.book.refused();
        Begin::Reply(failed())
    }
}

impl std::fmt::Debug for WasmFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmFilter")
            .field("plugin", &self.name())
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

fn needs(exported: &Exported) -> Needs {
    Needs {
        request_body: exported.request_body.is_some(),
        request_trailers: exported.request_trailers.is_some(),
        // A log callback reads what was sent.
        response_headers: exported.response_headers.is_some()
            || exported.response_body.is_some()
            || exported.log.is_some(),
        response_body: exported.response_body.is_some(),
        response_trailers: exported.response_trailers.is_some(),
    }
}

fn hears_streams(exported: &Exported) -> bool {
    needs(exported) != Needs::default()
        || exported.request_headers.is_some()
        || exported.context_create.is_some()
        || exported.done.is_some()
        || exported.delete.is_some()
}
