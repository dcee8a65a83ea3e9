//! The Proxy-Wasm filters that the tests run, built from source in four languages: Rust, Go, C and
//! AssemblyScript.
//!
//! Owns where they are built and when again. Each language's module owns how its compiler is found:
//! the machine's own where it will do, else one that the machine's package clients can fetch.

mod assemblyscript;
mod c;
mod go;
mod rust;

use std::path::{Path, PathBuf};

use crate::process::{self, Error, at};
use crate::tools::{self, Tools};

/// Builds what is not up to date and returns the absolute path of the folder with `*.wasm`.
pub(crate) fn build() -> Result<PathBuf, Error> {
    let tools = Tools::open()?;
    let root = tools::workspace_root()?;
    let guests = Guests::of(&root)?;
    rust::build(&tools, &root, &guests)?;
    go::build(&tools, &guests)?;
    c::build(&tools, &guests)?;
    assemblyscript::build(&tools, &guests)?;
    Ok(guests.out)
}

/// Builds those in Rust.
pub(crate) fn build_rust() -> Result<PathBuf, Error> {
    let tools = Tools::open()?;
    let root = tools::workspace_root()?;
    let guests = Guests::of(&root)?;
    rust::build(&tools, &root, &guests)?;
    Ok(guests.out)
}

/// Where guests come from and go to.
struct Guests {
    sources: PathBuf,
    out: PathBuf,
}

impl Guests {
    fn of(root: &Path) -> Result<Self, Error> {
        let guests = Self {
            sources: root.join("tests/guests"),
            out: root.join("target/guests"),
        };
        process::make_dir(&guests.out)?;
        Ok(guests)
    }

    /// Builds `<name>.wasm` by `compile`, which is given the path to write, unless it was built by the
    /// same `compiler` (any text that differs when it is used otherwise) from the same `sources`.
    fn module(
        &self,
        name: &str,
        compiler: &str,
        sources: &[PathBuf],
        compile: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let module = self.out.join(name).with_extension("wasm");
        let stamp = self.out.join(name).with_extension("built-from");
        // The whole text rather than a digest of it: it is short, and tells what was built.
        let mut made_from = format!("{compiler}\n");
        for source in sources {
            made_from += &std::fs::read_to_string(source).map_err(at("read", source))?;
        }
        if module.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|old| old == made_from) {
            eprintln!("guests: {name} is ready");
            return Ok(());
        }
        eprintln!("guests: building {name}");
        // A test may be reading the old one.
        let fresh = self.out.join(format!(".{name}.wasm"));
        compile(&fresh)?;
        std::fs::rename(&fresh, &module).map_err(at("rename", &fresh))?;
        std::fs::write(&stamp, made_from).map_err(at("write", &stamp))
    }
}
