//! Go 1.24 or later, which is when it learned to export functions to WebAssembly hosts: the
//! machine's own, else Debian's, unpacked beside the tests' tools.

use std::path::PathBuf;
use std::process::Command;

use super::Guests;
use crate::apt::Debian;
use crate::process::{self, Error};
use crate::tools::Tools;

/// Minor version of the oldest Go 1 that will do.
const OLDEST: u32 = 24;

/// The first Debian that has it.
const SUITE: &str = "trixie";

/// Builds `go-filter.wasm`.
pub(super) fn build(tools: &Tools, guests: &Guests) -> Result<(), Error> {
    let go = Go::find(tools)?;
    let folder = guests.sources.join("go");
    let sources = ["go.mod", "main.go", "host.go"].map(|name| folder.join(name));
    let compiler = format!("{}\n{}", go.version, include_str!("go.rs"));
    guests.module("go-filter", &compiler, &sources, |out| {
        let mut command = go.command();
        command
            .args(["build", "-buildmode=c-shared", "-trimpath", "-o"])
            .arg(out)
            .arg(".")
            .current_dir(&folder)
            .env("GOOS", "wasip1")
            .env("GOARCH", "wasm")
            // Settings of the machine must not reach into the build.
            .env("GOFLAGS", "")
            .env("GOWORK", "off");
        process::run(&mut command).map(drop)
    })
}

struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    fn find(tools: &Tools) -> Result<Self, Error> {
        if let Some(found) = process::find_on_path("go").and_then(Self::at) {
            return Ok(found);
        }
        let root = tools.dir("go");
        let program = root.join("usr/lib/go-1.24/bin/go");
        if let Some(found) = Self::at(program.clone()) {
            return Ok(found);
        }
        eprintln!("guests: no Go 1.{OLDEST} here; fetching Debian {SUITE}'s (70 MB)");
        let fetched = Debian::of_this_machine().and_then(|debian| {
            tools.install("go", |staging| {
                // For linking to C, which a module does not.
                let unneeded = ["gcc", "g++", "libc6-dev", "pkg-config"];
                let packages = ["golang-1.24-go", "golang-1.24-src"];
                debian.unpack_without(&unneeded, &[SUITE], &packages, staging)
            })
        });
        fetched
            .map(|_| program)
            .and_then(|program| {
                Self::at(program.clone()).ok_or_else(|| Error::Missing {
                    what: format!("{} does not run", program.display()),
                    remedy: "remove tests/.tools/go and try again".to_owned(),
                })
            })
            .map_err(|error| Error::Missing {
                what: format!("no Go 1.{OLDEST} or later: {error}"),
                remedy: "install one and put it on PATH".to_owned(),
            })
    }

    /// The Go at `program`, if it is one and new enough.
    fn at(program: PathBuf) -> Option<Self> {
        let mut go = Self {
            program,
            version: String::new(),
        };
        let output = process::run(go.command().arg("version")).ok()?;
        go.version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (minor(&go.version)? >= OLDEST).then_some(go)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Neither another Go than this, nor one that somebody's shell speaks of.
        command
            .env("GOTOOLCHAIN", "local")
            .env_remove("GOROOT")
            .env_remove("GOEXPERIMENT");
        command
    }
}

/// The minor version in `go version go1.24.4 linux/amd64`.
fn minor(version: &str) -> Option<u32> {
    let number = version
        .split(' ')
        .find_map(|word| word.strip_prefix("go1."))?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_found_in_releases_and_previews() {
        assert_eq!(minor("go version go1.24.4 linux/amd64"), Some(24));
        assert_eq!(minor("go version go1.26rc1 linux/arm64"), Some(26));
        assert_eq!(minor("go version devel linux/arm64"), None);
    }
}
