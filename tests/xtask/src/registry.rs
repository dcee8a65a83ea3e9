//! A real registry (Debian's docker-registry, the CNCF's Distribution) to pull images from.

use std::path::Path;
use std::process::Command;

use crate::apt::Debian;
use crate::process::{self, Error};
use crate::tools::Tools;

/// Provides `bin/docker-registry`.
pub(crate) fn set_up(tools: &Tools) -> Result<(), Error> {
    let bin = tools.bin("docker-registry");
    if bin.is_file()
        && let Ok(version) = version(&bin)
    {
        eprintln!("tools: {version} is ready");
        return Ok(());
    }
    let debian = Debian::of_this_machine()?;
    eprintln!(
        "tools: fetching docker-registry from Debian {} (6 MB)",
        debian.codename
    );
    let suite = debian.codename.clone();
    // It is of the machine's own release, so that the machine's own libraries fit.
    tools.install("docker-registry", |staging| {
        debian.unpack_without(&["libc6"], &[&suite], &["docker-registry"], staging)
    })?;
    let program = Path::new("../docker-registry/usr/bin/docker-registry");
    tools.link("docker-registry", program)?;
    eprintln!("tools: {} is ready", version(&bin)?);
    Ok(())
}

fn version(bin: &Path) -> Result<String, Error> {
    let output = process::run(Command::new(bin).arg("--version"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
