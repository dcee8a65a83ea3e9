//! PINGs that find out whether a silent peer is still there.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use crate::settings::Settings;

/// Polled beside its connection, by the same task.
pub(crate) struct Keepalive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    unanswered: bool,
}

impl Keepalive {
    pub(crate) fn new(pings: PingPong, settings: &Settings) -> Self {
        Self {
            pings,
            timer: Box::pin(tokio::time::sleep(settings.ping_interval)),
            interval: settings.ping_interval,
            timeout: settings.ping_timeout,
            unanswered: false,
        }
    }

    /// How long a ping may stay unanswered.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Ready when the peer left a ping unanswered for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.unanswered && self.pings.poll_pong(cx).is_ready() {
                // An error means that the connection ends, which its own poll reports.
                self.unanswered = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.unanswered {
                return Poll::Ready(());
            }
            self.unanswered = self.pings.send_ping(Ping::opaque()).is_ok();
            let wait = if self.unanswered {
                self.timeout
            } else {
                self.interval
            };
            self.timer.as_mut().reset(Instant::now() + wait);
        }
    }
}
