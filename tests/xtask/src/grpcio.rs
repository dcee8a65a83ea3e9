//! gRPC's own implementation, from PyPI by the machine's pip, for the interoperability cases.

use std::path::Path;
use std::process::Command;

use crate::process::{self, Error};
use crate::pypi::Pip;
use crate::tools::Tools;

const VERSION: &str = "1.85.1";

/// The only thing it needs at run time.
const TYPING_EXTENSIONS: &str = "4.16.0";

/// Provides `bin/grpcio`: a folder for `PYTHONPATH`.
pub(crate) fn set_up(tools: &Tools) -> Result<(), Error> {
    let name = format!("grpcio-{VERSION}");
    if check(&tools.bin("grpcio")).is_ok() {
        eprintln!("tools: grpcio {VERSION} is ready");
        return Ok(());
    }
    eprintln!("tools: fetching grpcio {VERSION} by pip (7 MB)");
    let pip = Pip::find(tools)?;
    tools.install(&name, |staging| {
        let mut install = pip.command();
        install
            .args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
            .arg("--target")
            .arg(staging)
            .arg(format!("grpcio=={VERSION}"))
            .arg(format!("typing_extensions=={TYPING_EXTENSIONS}"));
        process::run(&mut install).map_err(|error| Error::Missing {
            what: format!("cannot fetch grpcio {VERSION} from the Python package index: {error}"),
            remedy: "let pip reach an index that has it (PIP_INDEX_URL, pip.conf)".to_owned(),
        })?;
        check(staging)
    })?;
    tools.link("grpcio", &Path::new("..").join(name))
}

/// Whether Python finds that version there.
fn check(folder: &Path) -> Result<(), Error> {
    let mut python = Command::new("python3");
    python
        .args([
            "-c",
            &format!("import grpc; assert grpc.__version__ == '{VERSION}'"),
        ])
        .env("PYTHONPATH", folder);
    process::run(&mut python).map(drop)
}
