//! What can keep the race from being run.

use std::path::{Path, PathBuf};

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot run `{command}`: {reason}; {remedy}")]
    Command {
        command: String,
        reason: String,
        remedy: &'static str,
    },
    #[error("{contestant} in scene {scene}: {reason}\n--- the last it said:\n{log}")]
    Contestant {
        contestant: &'static str,
        scene: &'static str,
        reason: String,
        log: String,
    },
    #[error("the module of a scene is none: {0}")]
    Module(String),
    #[error("the load generator: {0}")]
    Load(String),
    #[error(transparent)]
    Certificates(#[from] wayline_tls::DevCaError),
}

/// Names the file in a failed operation.
pub(crate) fn at(
    action: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.as_ref().to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}
