//! Traces: a request's place in a trace, whether it is recorded, what is recorded, and how that
//! reaches a collector.
//!
//! A core has one [`Tracer`] where a provider is in force, and none elsewhere: trace headers are
//! read, made or changed by it alone, so that they pass untouched without. It reads the caller's
//! [`context`], decides by [`sampling`], opens a [`span`], and in the end hands that to [`export`],
//! which has a thread of its own.

pub mod context;
pub mod export;
pub mod sampling;
pub mod span;
mod tracer;

pub use context::{Incoming, SpanContext, SpanId, TraceId};
pub use export::{
    ByteStream, Delivery, Dialer, DialerFactory, LocalFuture, QueueSettings, TraceExports,
    TraceMetrics,
};
pub use sampling::Sampler;
pub use span::{OpenSpan, Origin, Side, SpanEnd, SpanRecord};
pub use tracer::Tracer;
