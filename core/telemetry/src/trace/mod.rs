//! Traces: context in headers, sampling, spans and their export.

pub mod context;
pub mod sampling;

pub use context::{Incoming, SpanContext, SpanId, TraceId};
pub use sampling::Sampler;
