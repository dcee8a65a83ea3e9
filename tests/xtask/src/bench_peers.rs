//! The peers of the race in `benches/`. They are servers with packaged settings, so they come as
//! the system's own packages and only when asked for.

use std::process::Command;

use crate::process::{self, Error};

const PEERS: [&str; 3] = ["haproxy", "nginx", "wrk"];

/// Installs those of haproxy, nginx and wrk that are missing, by apt-get, as root.
pub(crate) fn install() -> Result<(), Error> {
    let missing: Vec<&str> = PEERS
        .into_iter()
        .filter(|peer| process::find_on_path(peer).is_none())
        .collect();
    if missing.is_empty() {
        eprintln!("tools: {} are ready", PEERS.join(", "));
        return Ok(());
    }
    eprintln!("tools: installing {} by apt-get", missing.join(", "));
    let attempt = process::run(apt_get().arg("update")).and_then(|_| {
        process::run(
            apt_get()
                .args(["install", "--no-install-recommends"])
                .args(&missing),
        )
    });
    attempt.map_err(|error| Error::Missing {
        what: format!("cannot install {}: {error}", missing.join(", ")),
        remedy: format!("as root on Debian: apt-get install {}", missing.join(" ")),
    })?;
    match missing
        .iter()
        .find(|peer| process::find_on_path(peer).is_none())
    {
        None => Ok(()),
        Some(peer) => Err(Error::Missing {
            what: format!("apt-get installed {peer}, but it is not on PATH"),
            remedy: "put /usr/sbin and /usr/bin on PATH".to_owned(),
        }),
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["--quiet=2", "--yes"]);
    command
}
