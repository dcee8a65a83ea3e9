//! What a request costs: the parts that the race is made of.
//!
//! This room owns a load generator, closed-loop and open-loop, that speaks HTTP/1.1, HTTP/2, gRPC and
//! HBONE, the backend it hits, the reading of a process's own CPU accounting, and the summaries of what was measured.
//! `benches/race` composes them with the contestants. It refuses to know how any contestant works
//! inside: each is a process with an address, and none is measured from within.
//!
//! Generator and backend share one thread of one process, `bench-load`, so that together they
//! fit on one core beside the contestant's. The bare contestants are in `bench-bare`.

mod accounting;
mod backend;
mod caller;
mod exchange;
mod histogram;
mod http2;
mod job;
mod load;
mod manifests;
pub mod policy;
mod scene;
mod schedule;
mod setup;
pub mod single;
mod summary;
pub mod token;

pub use accounting::{AccountingError, core_time, cpu_time, resident_kib};
pub use backend::Backend;
pub use exchange::{BODY, Connection, ExchangeError, LARGE, Reply, Request};
pub use histogram::Histogram;
pub use job::{Beside, Call, Entrance, Job, LoadError, Measurement, OpenLoop};
pub use load::run;
pub use manifests::{manifests, plugin};
pub use scene::{
    AUTHORITY, DENIED_PATH, GRPC_PATH, HBONE_BACKEND, HOST, LARGE_PATH, PATH, POD_AUTHORITY,
    POISON_PATH, POISONED_AUTHORITY, backend_identity, client_identity, waypoint_identity,
};
pub use setup::{Door, Module, Setup, Upstream};
pub use summary::Summary;
