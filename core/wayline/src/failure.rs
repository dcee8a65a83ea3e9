//! An error as a person at a terminal is told it: what went wrong, and what to try.

use std::fmt;
use std::io::Write as _;

use wayline_control::SourceError;
use wayline_proxy::StartError;
use wayline_tls::{CredentialError, DevCaError};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: String,
    remedy: Option<String>,
}

impl Failure {
    /// A failure without a remedy of its own.
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
            remedy: None,
        }
    }

    /// Says what to try.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Prints it to stderr.
    pub(crate) fn tell(&self) {
        // Where stderr is closed there is nobody to tell.
        let _ = write!(std::io::stderr(), "{self}");
    }

    /// From a message whose last part, after a semicolon, is the remedy.
    pub(crate) fn split(message: &str) -> Self {
        match message.rsplit_once("; ") {
            Some((reason, remedy)) => Self::new(reason).remedy(remedy),
            None => Self::new(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.reason)?;
        match &self.remedy {
            Some(remedy) => writeln!(f, "  try: {remedy}"),
            None => Ok(()),
        }
    }
}

impl From<DevCaError> for Failure {
    fn from(error: DevCaError) -> Self {
        Self::split(&error.to_string())
    }
}

impl From<CredentialError> for Failure {
    fn from(error: CredentialError) -> Self {
        Self::split(&error.to_string())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let remedy = match &error {
            SourceError::Nothing => "name files or folders with -f PATH",
            SourceError::Path { .. } => "name an existing file or folder with -f PATH",
            SourceError::Thread(_) => "raise the limit of processes (ulimit -u)",
        };
        Self::new(error).remedy(remedy)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let remedy = match &error {
            StartError::NoListener(_) => {
                "stop what uses the ports, or choose others with --hbone, --admin, --status and --metrics"
            }
            StartError::Thread(_) => {
                "start fewer --workers, or raise the limit of processes (ulimit -u)"
            }
        };
        Self::new(error).remedy(remedy)
    }
}
