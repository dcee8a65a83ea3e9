//! A Rust compiler for `wasm32-wasip1`: that of rustup where it can download the target, else
//! Debian's, unpacked beside the tests' tools. Proves that it compiles before naming it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::apt::{Debian, Loader};
use crate::process::{self, Error, at};
use crate::tools::{self, Tools};

/// What filters are compiled for.
pub(crate) const TARGET: &str = "wasm32-wasip1";

/// Where Debian first had the standard library for this target; rustc 1.85.
const SUITE: &str = "trixie";

/// How long rustup may try to download before Debian's packages are taken instead.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sees that a compiler is there and prints the environment to build with as shell commands.
pub(crate) fn prepare() -> Result<(), Error> {
    let tools = Tools::open()?;
    for (name, value) in environment(&tools, &tools::workspace_root()?)? {
        println!("export {name}='{}'", value.display());
    }
    Ok(())
}

/// Sees that a compiler is there and says with which environment cargo uses it.
pub(crate) fn environment(
    tools: &Tools,
    root: &Path,
) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let compiler = match from_rustup(tools) {
        Ok(()) => None,
        Err(reason) => {
            eprintln!("wasm32: not by rustup: {reason}");
            Some(from_debian(tools).map_err(|error| Error::Missing {
                what: format!("no Rust compiler for {TARGET}: {error}"),
                remedy: format!("let `rustup target add {TARGET}` work, or use Debian"),
            })?)
        }
    };
    // Another compiler than the host's must not share its folder.
    let mut environment = vec![("CARGO_TARGET_DIR", root.join("target/wasm32"))];
    if let Some(Compiler { rustc, linker }) = compiler {
        environment.extend([
            ("RUSTC", rustc),
            ("CARGO_TARGET_WASM32_WASIP1_LINKER", linker.clone()),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker),
        ]);
    }
    Ok(environment)
}

struct Compiler {
    rustc: PathBuf,
    linker: PathBuf,
}

fn from_rustup(tools: &Tools) -> Result<(), Error> {
    let rustc = || Command::new("rustc");
    if compiles(tools, rustc()).is_ok() {
        eprintln!("wasm32: rustc is ready");
        return Ok(());
    }
    eprintln!("wasm32: rustup target add {TARGET}");
    let mut add = Command::new("rustup");
    add.args(["target", "add", TARGET])
        .env("RUSTUP_MAX_RETRIES", "1")
        .stdout(Stdio::null());
    let mut child = add
        .spawn()
        .map_err(|source| process::start_error(&add, source))?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if Instant::now() >= deadline {
            // It may have ended just now; `wait` below tells either way.
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child
        .wait()
        .map_err(|source| process::start_error(&add, source))?;
    compiles(tools, rustc())
}

fn from_debian(tools: &Tools) -> Result<Compiler, Error> {
    let (rustc, linker) = (tools.bin("wasm32-rustc"), tools.bin("wasm32-lld"));
    let ready = |linker: &Path| {
        let mut command = Command::new(&rustc);
        command
            .arg("-C")
            .arg(format!("linker={}", linker.display()));
        compiles(tools, command)
    };
    if !rustc.is_file() || ready(&linker).is_err() {
        eprintln!("wasm32: fetching rustc from Debian {SUITE} (200 MB)");
        let debian = Debian::of_this_machine()?;
        let root = tools.install("wasm32", |staging| {
            let packages = ["rustc", "libstd-rust-dev-wasm32", "lld"];
            // They are for linking to the host's system, which nobody does with this compiler.
            debian.unpack_without(
                &["gcc", "libc-dev", "binutils"],
                &[SUITE],
                &packages,
                staging,
            )
        })?;
        let loader = Loader::find(&root)?;
        let lld = find_lld(&root)?;
        let beside = "$(dirname \"$(readlink -f \"$0\")\")/../wasm32";
        let sysroot = ["--sysroot", "\"$root/usr\""];
        process::write_script(&rustc, &loader.script(beside, "usr/bin/rustc", &sysroot))?;
        process::write_script(&linker, &loader.script(beside, &lld, &[]))?;
        ready(&linker)?;
    }
    eprintln!("wasm32: Debian's rustc is ready");
    Ok(Compiler { rustc, linker })
}

/// Path below `root` of the linker, whose folder bears LLVM's version.
fn find_lld(root: &Path) -> Result<String, Error> {
    let dir = root.join("usr/lib");
    let entries = std::fs::read_dir(&dir).map_err(at("read", &dir))?;
    entries
        .filter_map(Result::ok)
        .map(|entry| format!("usr/lib/{}/bin/lld", entry.file_name().to_string_lossy()))
        .find(|path| root.join(path).is_file())
        .ok_or_else(|| at("find lld below", &dir)(std::io::ErrorKind::NotFound.into()))
}

/// Compiles and links a module that needs the standard library.
fn compiles(tools: &Tools, mut rustc: Command) -> Result<(), Error> {
    let out = tools.dir("wasm32-probe.wasm");
    rustc.args([
        "--target",
        TARGET,
        "--crate-type",
        "cdylib",
        "--crate-name",
        "probe",
        "-",
        "-o",
    ]);
    rustc
        .arg(&out)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = rustc
        .spawn()
        .map_err(|source| process::start_error(&rustc, source))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that ended early says why itself.
        let _ = stdin.write_all(b"#[unsafe(no_mangle)] pub extern \"C\" fn f() { println!(\"\") }");
    }
    let output = child
        .wait_with_output()
        .map_err(|source| process::start_error(&rustc, source))?;
    let _ = std::fs::remove_file(&out);
    process::successful(&rustc, output).map(drop)
}
