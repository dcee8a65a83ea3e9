//! Trying a plugin before any traffic meets it.

use std::rc::Rc;
use std::sync::Arc;

use wayline_chain::{Callout, CalloutFuture, CalloutRequest};
use wayline_model::plugin::Plugin;

use crate::error::StartError;
use crate::host::Host;
use crate::instance::{Instance, Recipe};
use crate::prepared::Prepared;
use crate::state::Role;

/// Starts and configures an instance of the plugin once, and ends it again: its verdict. What it asks
/// of backends meanwhile is accepted and never sent. Takes as long as a module's start may; call it
/// off the data path.
///
/// # Errors
/// [`StartError`] where the plugin can not be started, or does not accept its configuration.
pub fn canary(
    host: &Arc<Host>,
    prepared: &Arc<Prepared>,
    plugin: &Arc<Plugin>,
) -> Result<(), StartError> {
    let book = host.book(plugin);
    let recipe = Recipe {
        host: Arc::clone(host),
        prepared: Arc::clone(prepared),
        plugin: Arc::clone(plugin),
        tally: Rc::new(book.open()),
        environment: host.environment(plugin),
        book,
        callout: Rc::new(Nowhere),
    };
    Instance::start(&recipe, Role::Transient).map(drop)
}

/// Accepts every request and sends none.
struct Nowhere;

impl Callout for Nowhere {
    fn call(&self, _: CalloutRequest) -> CalloutFuture {
        Box::pin(std::future::pending())
    }

    fn knows(&self, _: &str) -> bool {
        true
    }
}
