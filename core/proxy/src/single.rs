//! One core on the caller's own thread: for counting what a request costs.
//!
//! In the product a core is a thread, and connections come from the thread that accepts for all.
//! Counts of instructions and allocations can be repeated only where nothing depends on which thread
//! is quicker: here client, core and backend take turns on one event loop, connections are handed over
//! by whoever counts, and everything behind that is the product's own code. It opens no ports.

use std::net::{SocketAddr, TcpStream};

use wayline_model::snapshot::Entrance;

use crate::listener::EntranceKey;
use crate::worker::{self, Handle, Job};
use crate::{Inputs, Settings};

/// A data path of one core without threads and ports.
pub struct SingleCore(Handle);

impl SingleCore {
    /// The core, and the future that is its life: it is to be polled on a tokio `LocalRuntime`, and
    /// ends when the core is dropped.
    pub fn start(settings: &Settings, inputs: Inputs) -> (Self, impl Future<Output = ()> + use<>) {
        let (handle, life) = worker::start_here(crate::share(settings, inputs));
        (Self(handle), life)
    }

    /// Serves a connection as one to the HBONE port.
    pub fn tunnel(&self, connection: TcpStream, source: SocketAddr) {
        self.0.send(Job::Tunnel(connection, source));
    }

    /// Serves a connection as one to that entrance of a gateway.
    pub fn plain(&self, connection: TcpStream, source: SocketAddr, entrance: &Entrance) {
        let key = EntranceKey::of(entrance);
        self.0.send(Job::Plain(connection, source, key));
    }
}
