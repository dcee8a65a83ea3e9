//! Rust over the crate `proxy-wasm`, by the compiler that `cargo xtask wasm32` sees to.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Guests;
use crate::process::{self, Error, at};
use crate::tools::Tools;
use crate::wasm32;

/// Builds the members of `tests/guests/rust` and of `examples/filters`.
pub(super) fn build(tools: &Tools, root: &Path, guests: &Guests) -> Result<(), Error> {
    let environment = wasm32::environment(tools, root)?;
    for workspace in [guests.sources.join("rust"), root.join("examples/filters")] {
        // Cargo knows best what is up to date.
        let mut command = Command::new("cargo");
        command
            .args(["build", "--release", "--locked", "--target", wasm32::TARGET])
            .current_dir(&workspace);
        // What this program was started with speaks of the host's compiler.
        for name in ["CARGO", "RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        process::run(&mut command)?;
    }
    let built = root
        .join("target/wasm32")
        .join(wasm32::TARGET)
        .join("release");
    for module in modules_in(&built)? {
        let name = module.file_stem().unwrap_or_default().to_string_lossy();
        let name = name.replace('_', "-");
        let (fresh, to) = (
            guests.out.join(format!(".{name}.wasm")),
            guests.out.join(format!("{name}.wasm")),
        );
        std::fs::copy(&module, &fresh).map_err(at("copy", &module))?;
        std::fs::rename(&fresh, &to).map_err(at("rename", &fresh))?;
    }
    eprintln!("guests: those in Rust are ready");
    Ok(())
}

fn modules_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(at("read", folder))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.extension().is_some_and(|it| it == "wasm"))
        .collect())
}
