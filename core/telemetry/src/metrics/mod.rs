//! Istio's standard metrics, counted per core and added up at the scrape.
//!
//! [`MetricsHub`] is one per process: it owns the Prometheus registry, knows every core's series and
//! answers the scrape. [`CoreMetrics`] is one per worker: it turns a small key of integers into a
//! [`RequestSeries`] with one hash. Label sets are interned when a tunnel opens or a plan is bound,
//! so that no label is built, compared or hashed while a request runs.
//!
//! A series goes through these hands: the core makes it and keeps it in its table; it hands a
//! reference to the hub through its inbox; the hub puts it in the group of equal label sets. When a
//! group has not moved for [`MetricsSettings::idle`], the hub asks for its series back; each core
//! lets go of it in [`CoreMetrics::maintain`]; the hub keeps the final numbers until the whole group
//! is idle, so that no sum ever shrinks while it is shown.

mod collect;
mod core;
mod group;
mod hub;
mod key;
pub(crate) mod labels;
mod process;
mod procfs;
mod series;

pub use self::core::CoreMetrics;
pub use hub::{MetricsHub, MetricsSettings};
pub use key::{GrpcStatus, Reporter, RequestKey, RequestProtocol, SecurityPolicy, TcpKey};
pub use labels::{
    DestinationId, DestinationLabels, PeerId, PeerLabels, WorkloadId, WorkloadLabels,
};
pub use process::{ConnectionGuard, ProcessMetrics};
pub use series::{RequestSample, RequestSeries, TcpSeries};
