//! The contestants: where they come from and how each is started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use wayline_benches::{Door, Module, Upstream};

use crate::error::Error;
use crate::process::{self, Process, accepts, free_port, pinned};
use crate::scene::Scene;
use crate::stage::Places;
use crate::{peers, wayline};

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Contestant {
    /// A loop over hyper, or over rustls, h2 and hyper, that does nothing but forward
    Bare,
    /// nginx; it has no policy
    Nginx,
    /// HAProxy
    Haproxy,
    /// Envoy
    Envoy,
    /// The product, as released
    Wayline,
}

/// A contestant that waits for load.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// How long it took to be ready.
    pub(crate) start: Duration,
}

impl Contestant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Wayline => "wayline",
        }
    }

    pub(crate) fn enforces_policy(self) -> bool {
        !matches!(self, Self::Bare | Self::Nginx)
    }

    pub(crate) fn verifies_tokens(self) -> bool {
        matches!(self, Self::Envoy | Self::Wayline)
    }

    /// Starts it for a scene, with its configuration and output in `dir`, and waits until it
    /// is ready.
    pub(crate) fn start(
        self,
        scene: Scene,
        core: usize,
        dir: &Path,
        places: &Places,
    ) -> Result<Running, Error> {
        let address = free_port()?;
        let log = dir.join("output.log");
        let mut ready: Box<dyn FnMut() -> bool> = Box::new(move || accepts(address));
        let mut command = match self {
            Self::Bare => bare(scene, core, address, places),
            Self::Nginx => peers::nginx(core, dir, address, places)?,
            Self::Haproxy => peers::haproxy(scene, core, dir, address, places)?,
            Self::Envoy => peers::envoy(scene, core, dir, address, places)?,
            Self::Wayline => {
                let (command, status) = wayline::command(scene, core, dir, address, places)?;
                ready = Box::new(move || {
                    process::answers_ok(status, "/healthz/ready") && accepts(address)
                });
                command
            }
        };
        let began = Instant::now();
        let mut process = Process::start(&mut command, log)?;
        match process.wait_until(ready) {
            Ok(()) => Ok(Running {
                process,
                address,
                start: began.elapsed(),
            }),
            Err(reason) => Err(Error::Contestant {
                contestant: self.name(),
                scene: scene.name(),
                reason,
                log: process.log(),
            }),
        }
    }
}

/// Installs or builds those who run, and returns a line on the version of each.
pub(crate) fn set_up(lineup: &[(Scene, Contestant)]) -> Result<Vec<String>, Error> {
    let who: Vec<Contestant> = lineup.iter().map(|(_, contestant)| *contestant).collect();
    let one_header = Some(Module::OneHeader);
    if lineup
        .iter()
        .any(|(scene, _)| scene.setup().module == one_header)
    {
        process::run(cargo().args(["xtask", "guests", "rust"]))?;
    }
    let needs = |contestant| who.contains(&contestant);
    let mut versions = Vec::new();
    if needs(Contestant::Nginx) || needs(Contestant::Haproxy) {
        process::run(cargo().args(["xtask", "tools", "--bench"]))?;
    } else if needs(Contestant::Envoy) {
        process::run(cargo().args(["xtask", "tools"]))?;
    }
    if needs(Contestant::Wayline) {
        process::run(cargo().args(["build", "--release", "--package", "wayline"]))?;
        versions.push(wayline::version()?);
    }
    for (contestant, version) in [
        (Contestant::Envoy, peers::envoy_version as fn() -> _),
        (Contestant::Haproxy, peers::haproxy_version),
        (Contestant::Nginx, peers::nginx_version),
    ] {
        if needs(contestant) {
            versions.push(version()?);
        }
    }
    Ok(versions)
}

fn bare(scene: Scene, core: usize, address: SocketAddr, places: &Places) -> Command {
    let setup = scene.setup();
    let mut command = pinned(core, env!("CARGO_BIN_EXE_bench-bare"));
    let entrance = match setup.door {
        Door::Hbone => "--hbone",
        Door::Plain => "--plain",
    };
    command.args([entrance, &address.to_string()]);
    if setup.door == Door::Hbone {
        command.arg("--identity").arg(&places.identity);
    }
    let backend = places.backend.to_string();
    match setup.upstream {
        Upstream::Hbone => command.arg("--captured"),
        Upstream::Http1 => command.args(["--to", &backend]),
        Upstream::Http2 => command.args(["--http2", "--to", &backend]),
    };
    command
}

/// The cargo that runs this bench, in the folder of the root manifest.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    command
}

/// The filter with one header, as `cargo xtask guests` builds it.
pub(crate) fn one_header() -> PathBuf {
    workspace_root().join("target/guests/add-header.wasm")
}

pub(crate) fn workspace_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().unwrap_or(&package).to_path_buf()
}
