//! What the proxy tells about its traffic: counters, access logs, response flags.
//!
//! This room owns Istio's metrics ([`MetricsHub`], [`CoreMetrics`]), access-log records, formats and
//! the writer behind them ([`AccessLog`]), traces from the header to the collector ([`trace`]), the
//! response flags that all show ([`ResponseFlags`]), and the helper that keeps operational logs short
//! under attack ([`Throttle`]).
//!
//! It refuses to know routes, policies and how a request is served: whoever serves one hands in
//! numbers and borrowed names once the last byte or a reset was seen. It opens no sockets: collectors
//! are dialled by whoever knows what is behind a name. Metrics and logs read no clock: callers pass
//! the time.
//!
//! Counters live per core and are written without lock or atomic read-modify-write; the scrape adds
//! the cores up. Log lines are formatted into a buffer of the core and handed over in batches to one
//! thread per file, which is the only place that may wait for a slow sink. Spans go the same way, to
//! one thread per collector.

pub mod access_log;
pub mod flags;
pub mod metrics;
pub mod throttle;
pub mod trace;

pub use access_log::{
    AccessLog, AccessLogFiles, AccessLogFormat, AccessLogWriter, Record, WriterSettings,
};
pub use flags::{ResponseFlag, ResponseFlags};
pub use metrics::{
    CoreMetrics, DestinationId, DestinationLabels, GrpcStatus, MetricsHub, MetricsSettings, PeerId,
    PeerLabels, ProcessMetrics, Reporter, RequestKey, RequestProtocol, RequestSample,
    RequestSeries, SecurityPolicy, TcpKey, TcpSeries, WorkloadId, WorkloadLabels,
};
pub use throttle::Throttle;
