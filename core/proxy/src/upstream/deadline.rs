//! The time an exchange may take as a whole: all attempts, and the response to its last byte.

use std::pin::Pin;
use std::time::Duration;

use http::Response;
use tokio::time::Sleep;

use super::UpstreamBody;
use super::send::UpstreamError;

/// A timer that moves from the attempts into the response body.
pub(crate) type Deadline = Pin<Box<Sleep>>;

/// Bounds sending, and the response that comes of it.
pub(crate) async fn within(
    limit: Duration,
    sending: impl Future<Output = Result<(Response<()>, UpstreamBody), UpstreamError>>,
) -> Result<(Response<()>, UpstreamBody), UpstreamError> {
    let mut deadline: Deadline = Box::pin(tokio::time::sleep(limit));
    tokio::select! {
        biased;
        outcome = sending => outcome.map(|(response, body)| (response, body.until(deadline))),
        () = &mut deadline => Err(UpstreamError::RequestTimeout),
    }
}
