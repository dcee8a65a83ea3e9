//! Running other programs and touching files, with errors that say what to do about them.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start `{program}`: {source}; is it installed and on PATH?")]
    Start { program: String, source: io::Error },
    /// A program ran and reported failure.
    #[error("`{command}` failed ({status})\n{output}")]
    Failed {
        command: String,
        status: String,
        output: String,
    },
    /// Something the tests need is not there and cannot be fetched.
    #[error("{what}\n  remedy: {remedy}")]
    Missing { what: String, remedy: String },
    /// The tests ran and did not pass; they have said why themselves.
    #[error("tests failed")]
    TestsFailed { code: u8 },
}

/// Runs `command` with its output captured; anything but success is an error that carries the output.
pub(crate) fn run(command: &mut Command) -> Result<Output, Error> {
    let output = output(command)?;
    successful(command, output)
}

/// Makes anything but success of `command` an error that carries its `output`.
pub(crate) fn successful(command: &Command, output: Output) -> Result<Output, Error> {
    if output.status.success() {
        return Ok(output);
    }
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    Err(Error::Failed {
        command: describe(command),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}

/// Runs `command` with its output captured, whatever its exit status.
pub(crate) fn output(command: &mut Command) -> Result<Output, Error> {
    command
        .output()
        .map_err(|source| start_error(command, source))
}

/// Names the program that could not be started.
pub(crate) fn start_error(command: &Command, source: io::Error) -> Error {
    Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

/// The absolute path of `name` on PATH or, as Debian keeps servers there, in the system's `sbin`.
pub(crate) fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/local/sbin"), PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_absolute() && is_executable(candidate))
}

/// Turns an I/O error about `path` into one that names it.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

/// Makes the folder `path` and its parents.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(at("create", path))
}

/// Writes a file that may be executed.
pub(crate) fn write_script(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(at("write", path))?;
    make_executable(path)
}

/// Lets everybody execute the file `path`.
pub(crate) fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(at("make executable", path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
