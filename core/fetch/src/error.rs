//! Why something was not fetched.

use std::time::Duration;

use http::StatusCode;
use thiserror::Error;
use wayline_tls::PublicTlsError;

use crate::dial::DialError;
use crate::url::Url;

/// Why something was not fetched. Every text names the host or the URL.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It is no URL to fetch from.
    #[error("{url:?} can not be fetched: {reason}; use http://HOST/PATH or https://HOST/PATH")]
    Url {
        /// The text, without a user and a password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server is not who it should be, or speaks no TLS.
    #[error("{host} is not trusted: {source}")]
    Tls {
        /// The host asked for.
        host: String,
        /// What is wrong.
        source: PublicTlsError,
    },
    /// What came is no HTTP/1.1, or ended early.
    #[error("{host} did not answer in HTTP/1.1: {reason}; check that a web server listens there")]
    Http {
        /// The host asked for.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The time for everything was over.
    #[error("{url} was not fetched within {timeout:?}; check that its server is quick enough")]
    Timeout {
        /// Where it was, after redirects.
        url: Box<Url>,
        /// The time allowed.
        timeout: Duration,
    },
    /// The body is longer than allowed.
    #[error(
        "{url} is longer than the {limit} bytes that are allowed; serve less, or raise the limit"
    )]
    TooLarge {
        /// Where it was, after redirects.
        url: Box<Url>,
        /// Most that is taken.
        limit: u64,
    },
    /// It leads on and on.
    #[error("{url} was redirected more than {limit} times; name the last URL in the first place")]
    Redirects {
        /// What was asked for.
        url: Box<Url>,
        /// Most that are followed.
        limit: u32,
    },
    /// A redirect without TLS from a server with TLS.
    #[error("{from} redirects to {to}, which is not protected by TLS; let it redirect to https")]
    Downgrade {
        /// Who redirected.
        from: Box<Url>,
        /// Where to.
        to: Box<Url>,
    },
    /// The server said something else than yes.
    #[error("{url} answers {status}; check that it exists and is public")]
    Status {
        /// Where it was, after redirects.
        url: Box<Url>,
        /// What it said.
        status: StatusCode,
    },
}

impl FetchError {
    /// Whether the server answered a TLS handshake with something that is no TLS.
    #[must_use]
    pub fn is_no_tls(&self) -> bool {
        matches!(
            self,
            Self::Tls {
                source: PublicTlsError::NotTls,
                ..
            }
        )
    }

    /// Whether trying again later may help without anybody changing anything.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Dial(error) => !matches!(error, DialError::Refused { .. }),
            Self::Tls { source, .. } => matches!(source, PublicTlsError::Io(_)),
            Self::Http { .. } | Self::Timeout { .. } => true,
            Self::Status { status, .. } => retriable_status(*status),
            Self::Url { .. }
            | Self::TooLarge { .. }
            | Self::Redirects { .. }
            | Self::Downgrade { .. } => false,
        }
    }
}

/// Whether an answer of this status may be another one later: Istio retries from 500 on, but not what
/// says that it will stay so.
#[must_use]
pub fn retriable_status(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED
        | StatusCode::HTTP_VERSION_NOT_SUPPORTED
        | StatusCode::NETWORK_AUTHENTICATION_REQUIRED => false,
        other => other.is_server_error(),
    }
}
