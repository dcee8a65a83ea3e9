//! What a request costs: the parts that the race is made of.
//!
//! This room owns a closed-loop load generator that speaks plain HTTP/1.1 and HBONE, the backend
//! it hits, the reading of a process's own CPU accounting, and the summaries of what was measured.
//! `benches/race` composes them with the contestants. It refuses to know how any contestant works
//! inside: each is a process with an address, and none is measured from within.
//!
//! Generator and backend share one thread of one process, `bench-load`, so that together they
//! fit on one core beside the contestant's. The bare contestants are in `bench-bare`.

mod accounting;
mod backend;
mod exchange;
mod histogram;
mod load;
mod scene;
mod summary;

pub use accounting::{AccountingError, core_time, cpu_time, resident_kib};
pub use backend::Backend;
pub use exchange::{BODY, Connection, ExchangeError, Reply, Request};
pub use histogram::Histogram;
pub use load::{Entrance, Job, LoadError, Measurement, run};
pub use scene::{
    AUTHORITY, DENIED_PATH, HBONE_BACKEND, HOST, PATH, POD_AUTHORITY, backend_identity,
    client_identity, waypoint_identity,
};
pub use summary::Summary;
