//! HBONE: TCP streams carried as HTTP/2 CONNECT inside mutual TLS.
//!
//! This room owns the HTTP/2 connection that a tunnel's peers share: serving CONNECT
//! ([`serve`]), opening CONNECT ([`connect`], [`TunnelPool`]), and the tunnelled bytes as plain I/O
//! ([`TunnelStream`]) with flow control end to end. It refuses to know what the tunnel leads to,
//! whether the peer may go there, and what protocol runs inside: the caller is asked once per
//! stream and answers with [`Responder::accept`] or [`Responder::refuse`]. Where a ztunnel in front of
//! us has taken the tunnel apart, [`ProxyHeader`] is what is left of it.
//!
//! `LIFECYCLE.md` beside this crate's manifest walks through one tunnel.

mod authority;
mod client;
mod frames;
mod keepalive;
mod pool;
mod proxy_protocol;
mod server;
mod settings;
mod stream;

use std::time::Duration;

pub use authority::{AuthorityError, TunnelAuthority};
pub use client::{Client, Driver, OpenError, connect};
pub use frames::{Flood, FloodNotice, FrameGuard, FrameLimits};
pub use pool::{DialError, DialFailure, TunnelError, TunnelPool};
pub use proxy_protocol::{ProxyHeader, ProxyHeaderError};
pub use server::{Connect, Handler, Refusal, Responder, ServeError, serve};
pub use settings::Settings;
pub use stream::TunnelStream;

/// An HTTP/2 connection, or a stream on it, ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection failed, a side broke the protocol, or the peer reset or refused the stream.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    /// The peer answers no pings.
    #[error("the peer left a ping unanswered for {0:?}")]
    PingTimeout(Duration),
    /// The peer closed before it sent its SETTINGS.
    #[error("the peer closed the connection before HTTP/2 began")]
    ClosedEarly,
}

impl ConnectionError {
    /// Whether the peer said that it never looked at the stream, so that nothing is lost by
    /// sending it again elsewhere.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::Http2(error) => {
                error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.is_remote())
            }
            Self::PingTimeout(_) => false,
            Self::ClosedEarly => true,
        }
    }
}
