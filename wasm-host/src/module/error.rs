//! Why a module can not be had.

use std::sync::Arc;

use thiserror::Error;
use wayline_fetch::FetchError;

/// Why a module can not be had: one sentence that names the place and the remedy.
///
/// What [`Self::is_retriable`] may be tried again by and by without anybody changing anything; all
/// else is definite until the source or the plugin changes.
#[derive(Clone, Debug, Error)]
pub enum ModuleError {
    /// The URL leads nowhere.
    #[error("{url:?} is no place for a module: {reason}; use file://, http://, https:// or oci://")]
    Url {
        /// As it was given.
        url: Arc<str>,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// The file can not be read.
    #[error("cannot read {path}: {reason}; check that it exists in the proxy's container")]
    File {
        /// Which file.
        path: Arc<str>,
        /// Why not.
        reason: Arc<str>,
    },
    /// Its server did not hand it out.
    #[error(transparent)]
    Fetch(#[from] Arc<FetchError>),
    /// The registry did not do what was asked.
    #[error("{image}: {reason}")]
    Registry {
        /// The image.
        image: Arc<str>,
        /// What happened, with a remedy.
        reason: Arc<str>,
        /// Whether it may go better later.
        retriable: bool,
    },
    /// The pull secret can not be used; nothing was asked anonymously instead.
    #[error("{image} is not pulled: {reason}")]
    Secret {
        /// The image.
        image: Arc<str>,
        /// What is wrong with it, with a remedy.
        reason: Arc<str>,
    },
    /// The bytes are others than those asked for.
    #[error(
        "{what} has the digest sha256:{found}, expected sha256:{expected}; correct the digest, or find out who changed it"
    )]
    Digest {
        /// The module, manifest or layer.
        what: Arc<str>,
        /// The digest asked for.
        expected: Arc<str>,
        /// That of the bytes.
        found: Arc<str>,
    },
    /// There is no module in what was fetched, or none that could be told.
    #[error("{what} holds no usable module: {reason}")]
    Layout {
        /// The image or URL.
        what: Arc<str>,
        /// What is wrong, with a remedy.
        reason: Arc<str>,
    },
    /// The module could not be hosted, or is not valid.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// Where it is from.
        what: Arc<str>,
        /// Why, with a remedy.
        reason: Arc<str>,
    },
    /// The compiler ended without a verdict on the module.
    #[error("{what} could not be compiled: {reason}")]
    Compile {
        /// Where it is from.
        what: Arc<str>,
        /// Why, with a remedy.
        reason: Arc<str>,
        /// Whether it may go better later: the machine was short of something.
        retriable: bool,
    },
}

impl ModuleError {
    /// Whether trying again later may help without anybody changing anything.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_retriable(),
            Self::Registry { retriable, .. } | Self::Compile { retriable, .. } => *retriable,
            // A file may be about to be written.
            Self::File { .. } => true,
            Self::Url { .. }
            | Self::Secret { .. }
            | Self::Digest { .. }
            | Self::Layout { .. }
            | Self::Refused { .. } => false,
        }
    }
}

impl From<FetchError> for ModuleError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Arc::new(error))
    }
}
