//! The product: a folder of manifests, as a user would write them, and `wayline run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use wayline_benches::{Door, Module, manifests, plugin};

use crate::contestant::{one_header, workspace_root};
use crate::error::{Error, at};
use crate::process::{free_port, output, pinned};
use crate::scene::Scene;
use crate::stage::Places;

/// The command, and where it will say that it is ready.
pub(crate) fn command(
    scene: Scene,
    core: usize,
    dir: &Path,
    address: SocketAddr,
    places: &Places,
) -> Result<(Command, SocketAddr), Error> {
    let folder = dir.join("manifests");
    std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
    let path = folder.join("bench.json");
    let setup = scene.setup();
    let mut items = manifests(&setup, address.port(), places.backend);
    if let Some(module) = setup.module {
        items.extend(plugin(&setup, &file(module, dir)?));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    std::fs::write(&path, format!("{list:#}")).map_err(at("write", &path))?;

    let status = free_port()?;
    let mut command = pinned(core, program());
    command
        .arg("run")
        .arg("-f")
        .arg(&folder)
        .arg("--dev-ca")
        .arg(&places.ca);
    for (flag, address) in [
        ("--status", status),
        ("--admin", free_port()?),
        ("--metrics", free_port()?),
    ] {
        command.args([flag, &address.to_string()]);
    }
    let hbone = match scene.setup().door {
        Door::Hbone => address,
        Door::Plain => free_port()?,
    };
    command.args(["--hbone", &hbone.to_string(), "--workers", "1"]);
    // One workload opens more connections than it is given by default.
    command.args(["--max-connections", "0"]);
    command.args(["--max-connections-per-identity", "0"]);
    if setup.module.is_some() {
        command.arg("--wasm-cache-dir").arg(dir.join("cache"));
    }
    Ok((command, status))
}

/// Where a module is.
fn file(module: Module, dir: &Path) -> Result<PathBuf, Error> {
    if module == Module::OneHeader {
        return Ok(one_header());
    }
    let path = dir.join("poison.wasm");
    let text = include_str!("poison.wat");
    let binary = wat::parse_str(text).map_err(|error| Error::Module(error.to_string()))?;
    std::fs::write(&path, binary).map_err(at("write", &path))?;
    Ok(path)
}

pub(crate) fn version() -> Result<String, Error> {
    let said = output(Command::new(program()).arg("--version"))?;
    let commit = output(
        Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .current_dir(workspace_root()),
    )?;
    let version = said.split_ascii_whitespace().nth(1).unwrap_or_default();
    Ok(format!("Wayline {version} at commit {}", commit.trim()))
}

/// Built into the folder that the bench's own programs are in.
fn program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_bench-bare")).with_file_name("wayline")
}
