//! Export: from the cores' batches to a collector.
//!
//! One thread per provider owns everything that may wait: it resolves and dials (by way of a
//! [`Dialer`] that somebody else makes, because this room knows neither snapshot nor tunnels),
//! encodes and sends. Cores hand over what they have and never wait; what the queue can not take, or
//! the collector does not, is counted and dropped.

mod collector;
mod delivery;
mod messages;
mod otlp;
mod zipkin;

use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use wayline_model::tracing::TracingProvider;

pub use delivery::{Delivery, DialerFactory, QueueSettings, TraceExports, TraceMetrics};

use super::span::SpanRecord;

/// A future of the exporting thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A connection to a collector.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for T {}

/// Opens connections to collectors. Lives on the exporting thread, which is a tokio `LocalRuntime`.
pub trait Dialer {
    /// Connects to the provider's host and port.
    fn dial<'a>(
        &'a self,
        provider: &'a TracingProvider,
    ) -> LocalFuture<'a, io::Result<Box<dyn ByteStream>>>;
}

/// Sends spans somewhere.
trait SpanExporter {
    /// Sends a batch, and says how many of its spans the collector did not take.
    fn export<'a>(
        &'a mut self,
        batch: &'a [SpanRecord],
    ) -> LocalFuture<'a, Result<u64, ExportError>>;
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// The collector can not be reached, or did not answer (in time). Worth another try.
    #[error("the collector can not be reached: {0}")]
    Unreachable(String),
    /// The collector asks to come again.
    #[error("the collector is not ready: {0}")]
    NotReady(String),
    /// The collector does not want it.
    #[error("the collector refused: {0}")]
    Refused(String),
}

impl ExportError {
    fn is_worth_retrying(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NotReady(_) => true,
            Self::Refused(_) => false,
        }
    }
}
