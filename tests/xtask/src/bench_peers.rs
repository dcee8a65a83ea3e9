//! What `benches/` needs of the system: the peers of the race, and valgrind. They come as the system's
//! own packages and only when asked for.

use std::process::Command;

use crate::process::{self, Error};

/// The peers that are servers with packaged settings.
pub(crate) const PEERS: [&str; 3] = ["haproxy", "nginx", "wrk"];

/// Installs those of the packages that are missing, by apt-get, as root. Each has a program of its name.
pub(crate) fn install(packages: &[&str]) -> Result<(), Error> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| process::find_on_path(package).is_none())
        .collect();
    if missing.is_empty() {
        eprintln!("tools: {}: ready", packages.join(", "));
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
        .find(|package| process::find_on_path(package).is_none())
    {
        None => Ok(()),
        Some(package) => Err(Error::Missing {
            what: format!("apt-get installed {package}, but it is not on PATH"),
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
