//! The folder `tests/.tools`: one lock, one folder per tool and version, and `bin` with the names
//! that tests use. A tool appears there whole or not at all.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::process::{self, Error, at};
use crate::{curl, envoy, grpcio, registry};

/// The tools folder, locked against other runs until dropped.
pub(crate) struct Tools {
    root: PathBuf,
    _lock: File,
}

/// Sets up all tools that tests need and returns the absolute path of the folder that holds them
/// under their plain names. Quick when everything is in place; safe to run several times at once.
pub(crate) fn set_up() -> Result<PathBuf, Error> {
    let tools = Tools::open()?;
    envoy::set_up(&tools)?;
    curl::set_up(&tools)?;
    grpcio::set_up(&tools)?;
    registry::set_up(&tools)?;
    Ok(tools.dir("bin"))
}

impl Tools {
    /// Opens the folder, waiting while another run is setting it up.
    pub(crate) fn open() -> Result<Self, Error> {
        let root = workspace_root()?.join("tests/.tools");
        process::make_dir(&root.join("bin"))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(at("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("tools: waiting for another run to finish setting them up");
                lock.lock().map_err(at("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(at("lock", &path)(source)),
        }
        Ok(Self { root, _lock: lock })
    }

    /// The path under which tests find the program `name`.
    pub(crate) fn bin(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// What lies under `name` in the tools folder; it may not exist yet.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Fills the folder `name` anew through `fill`, which works in a staging folder that takes the
    /// final name only on success.
    pub(crate) fn install(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let staging = self.root.join(format!("staging-{name}"));
        let target = self.dir(name);
        remove_dir(&staging)?;
        process::make_dir(&staging)?;
        fill(&staging)?;
        remove_dir(&target)?;
        std::fs::rename(&staging, &target).map_err(at("rename", &staging))?;
        Ok(target)
    }

    /// Lets `bin/<name>` lead to `target`, in one step even for a test that is starting it.
    pub(crate) fn link(&self, name: &str, target: &Path) -> Result<(), Error> {
        let fresh = self.bin(&format!(".{name}"));
        remove_file(&fresh)?;
        std::os::unix::fs::symlink(target, &fresh).map_err(at("link", &fresh))?;
        std::fs::rename(&fresh, self.bin(name)).map_err(at("rename", &fresh))
    }
}

/// The folder with the root manifest.
pub(crate) fn workspace_root() -> Result<PathBuf, Error> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = package.join("../..");
    root.canonicalize().map_err(at("find", &root))
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    unless_absent(std::fs::remove_dir_all(path), path)
}

fn remove_file(path: &Path) -> Result<(), Error> {
    unless_absent(std::fs::remove_file(path), path)
}

fn unless_absent(result: std::io::Result<()>, path: &Path) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(at("remove", path)(error))
        }
        _ => Ok(()),
    }
}
