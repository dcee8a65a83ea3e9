//! C, compiled by Zig's bundled clang, which brings the C library of WASI with it: PyPI's `ziglang`.

use std::path::PathBuf;
use std::process::Command;

use super::Guests;
use crate::process::{self, Error};
use crate::pypi::Package;
use crate::tools::Tools;

const ZIG: Package = Package {
    name: "ziglang",
    version: "0.17.0",
    wheels: &[
        (
            "manylinux x86_64",
            "97079827064a7492cce5541ceb438ae8003ce1e54e399676da2d62fb7a5dc08b",
        ),
        (
            "manylinux aarch64",
            "d2804f94f54f7fcf8169f4b212a619ad688a4e2e6592e976f0cf2e58e2cd8af3",
        ),
        (
            "macOS 13 arm64",
            "87274af689c4128051b26c80f6f676757e0a81c2fdc137fd8b5679e928e4bc4f",
        ),
    ],
};

/// Builds `c-filter.wasm` and `c-probe.wasm`.
pub(super) fn build(tools: &Tools, guests: &Guests) -> Result<(), Error> {
    let zig = zig(tools)?;
    let folder = guests.sources.join("c");
    for name in ["filter", "probe"] {
        let sources = [&format!("{name}.c"), "proxy_wasm.h"].map(|name| folder.join(name));
        guests.module(
            &format!("c-{name}"),
            include_str!("c.rs"),
            &sources,
            |out| {
                let mut command = Command::new(&zig);
                command
                    .args(["cc", "-target", "wasm32-wasi", "-mexec-model=reactor"])
                    .args(["-std=c17", "-Wall", "-Wextra", "-Werror", "-Os", "-s", "-o"])
                    .arg(out)
                    .arg(&sources[0])
                    .env("ZIG_GLOBAL_CACHE_DIR", tools.dir("zig-cache"))
                    .env("ZIG_LOCAL_CACHE_DIR", tools.dir("zig-cache"));
                process::run(&mut command).map(drop)
            },
        )?;
    }
    Ok(())
}

fn zig(tools: &Tools) -> Result<PathBuf, Error> {
    let name = format!("zig-{}", ZIG.version);
    let program = |root: PathBuf| root.join("contents/ziglang/zig");
    let installed = program(tools.dir(&name));
    if process::run(Command::new(&installed).arg("version")).is_ok() {
        return Ok(installed);
    }
    eprintln!("guests: fetching zig {} by pip (101 MB)", ZIG.version);
    let root = tools.install(&name, |staging| {
        let zig = program(ZIG.unpack(tools, staging)?.join(".."));
        process::make_executable(&zig)?;
        process::run(Command::new(&zig).arg("version")).map(drop)
    })?;
    Ok(program(root))
}
