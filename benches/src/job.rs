//! What the load generator is told, and what it tells.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accounting::AccountingError;
use crate::exchange::ExchangeError;

/// How long all connections together may take to be made.
pub(crate) const SETUP_TIMEOUT: Duration = Duration::from_secs(300);

/// What to do to which process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    /// The process whose CPU time is read.
    pub pid: u32,
    /// The cores of contestant and generator; they should have nothing else to do.
    pub cores: Vec<usize>,
    /// Where it listens.
    pub target: SocketAddr,
    /// How requests get in.
    pub entrance: Entrance,
    /// What is asked for.
    pub call: Call,
    /// A path that must be answered 403, where the contestant enforces a policy.
    pub denied_path: Option<String>,
    /// Load before anything is measured, in seconds.
    pub warmup: f64,
    /// How long to measure in each of the two ways, in seconds.
    pub seconds: f64,
    /// Requests per second of the open loop; none where there is to be only a closed one.
    pub rate: Option<f64>,
    /// Header of every request, if any.
    pub header: Option<(String, String)>,
    /// A header with which a request must be answered 401, where the contestant verifies tokens.
    #[serde(default)]
    pub refused_header: Option<(String, String)>,
    /// What else is asked while the open loop runs, if anything.
    #[serde(default)]
    pub beside: Option<Beside>,
}

/// A second open loop, of which nothing is recorded and whose answers may be anything. Over HBONE only.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Beside {
    /// Whom it asks.
    pub authority: String,
    /// How often, per second.
    pub rate: f64,
    /// One request in so many asks for `path`; others as usual.
    pub one_in: Option<usize>,
    /// The unusual path.
    pub path: String,
}

/// How requests get into the contestant, and on how many connections.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Entrance {
    /// HTTP/1.1 over TCP.
    Plain {
        /// Kept-alive connections.
        connections: usize,
    },
    /// HTTP/2 with prior knowledge over TCP.
    Http2 {
        /// TCP connections.
        connections: usize,
        /// Requests at a time on each.
        streams: usize,
    },
    /// HTTP/1.1 in CONNECT streams over mutual TLS.
    Hbone {
        /// TLS connections.
        tunnels: usize,
        /// CONNECT streams on each, each a kept-alive HTTP/1.1 connection.
        streams: usize,
    },
    /// HBONE connections without a stream: nothing is asked, memory is looked at.
    Idle {
        /// TLS connections.
        tunnels: usize,
    },
}

/// What each request asks for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// GET, answered with 100 bytes.
    Get,
    /// GET, answered with 1 MiB.
    Download,
    /// POST of 1 MiB, answered with 100 bytes.
    Upload,
    /// A unary gRPC call of 100 bytes, answered with 100 bytes and status 0. Over HTTP/2 only.
    Grpc,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Measurement {
    /// Requests answered in the closed loop.
    pub requests: u64,
    /// Wall time of the closed loop, in seconds.
    pub seconds: f64,
    /// CPU time of the contestant meanwhile, in seconds.
    pub cpu: f64,
    /// CPU time of generator and backend meanwhile, in seconds.
    pub own_cpu: f64,
    /// CPU time of all other processes on these cores meanwhile, in seconds.
    pub others_cpu: f64,
    /// What the open loop saw, where there was one.
    pub open: Option<OpenLoop>,
    /// Resident memory of the contestant before the first connection, in KiB.
    pub resident_before_kib: u64,
    /// Resident memory of the contestant at the end, in KiB.
    pub resident_kib: u64,
    /// From start to readiness, in milliseconds; filled in by whoever started it.
    #[serde(default)]
    pub start_millis: f64,
}

/// Latencies at a fixed rate, from the moment a request was due, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct OpenLoop {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Requests that were due, per second.
    pub rate: f64,
    /// Requests answered, per second; less than were due means that it could not keep up.
    pub answered: f64,
}

impl Measurement {
    /// CPU time of the contestant per request, in microseconds.
    #[must_use]
    pub fn cpu_micros(&self) -> f64 {
        self.cpu * 1e6 / self.requests as f64
    }

    /// Requests per second in the closed loop.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// Why a job was given up. Any one failing request is enough.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A connection could not be made, or CONNECT was refused.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Where to.
        target: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The connections were not made in time.
    #[error("connecting took longer than {SETUP_TIMEOUT:?}")]
    SetupTimeout,
    /// A request failed.
    #[error("{path}: {source}")]
    Exchange {
        /// The request's path.
        path: String,
        /// What happened.
        #[source]
        source: ExchangeError,
    },
    /// A request was answered otherwise than it must be.
    #[error("{path}: answered {status}{} with {body:?}; {expected} was expected", if *closes { " and close" } else { "" })]
    Answer {
        /// The request's path.
        path: String,
        /// The status received.
        status: u16,
        /// Whether the connection was to be closed.
        closes: bool,
        /// The beginning of the body received.
        body: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// The contestant's accounting could not be read.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
    /// Nothing was answered while measuring.
    #[error("no request was answered within {0} s")]
    Stalled(f64),
}
