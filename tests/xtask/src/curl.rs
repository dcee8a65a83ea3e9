//! A curl that tunnels through an HTTP/2 proxy (`--proxy-http2`, curl 8.1 and later): an HBONE
//! client that none of us wrote. The machine's own if it can, else Debian's from a newer suite.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::apt::{Debian, Loader};
use crate::process::{self, Error, at};
use crate::tools::Tools;

/// Provides `bin/curl`.
pub(crate) fn set_up(tools: &Tools) -> Result<(), Error> {
    let bin = tools.bin("curl");
    if bin.is_file() && speaks_http2_to_proxies(&bin)? {
        eprintln!("tools: {} is ready", version(&bin)?);
        return Ok(());
    }
    if let Some(system) = process::find_on_path("curl")
        && speaks_http2_to_proxies(&system)?
    {
        tools.link("curl", &system)?;
        eprintln!("tools: using the machine's {}", version(&system)?);
        return Ok(());
    }
    fetch(tools, &bin).map_err(|reason| Error::Missing {
        what: format!("no curl with --proxy-http2: the machine's lacks it, and {reason}"),
        remedy: "install curl 8.1 or later, built with HTTP/2, and put it first on PATH".to_owned(),
    })
}

fn fetch(tools: &Tools, bin: &Path) -> Result<(), Error> {
    let debian = Debian::of_this_machine()?;
    let backports = format!("{}-backports", debian.codename);
    let sources: [&[&str]; 2] = [&[&backports, &debian.codename], &["trixie"]];
    let mut last = Ok(());
    for suites in sources {
        eprintln!("tools: fetching curl from Debian {} (12 MB)", suites[0]);
        last = unpack(tools, &debian, suites, bin);
        match &last {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("tools: that did not do: {error}"),
        }
    }
    last
}

fn unpack(tools: &Tools, debian: &Debian, suites: &[&str], bin: &Path) -> Result<(), Error> {
    let root = tools.install("curl", |staging| debian.unpack(suites, &["curl"], staging))?;
    let loader = Loader::find(&root)?;
    let script = loader.script(
        "$(dirname \"$(readlink -f \"$0\")\")/../curl",
        "usr/bin/curl",
        &[],
    );
    let fresh: PathBuf = tools.bin(".curl");
    process::write_script(&fresh, &script)?;
    std::fs::rename(&fresh, bin).map_err(at("rename", &fresh))?;
    let version = version(bin)?;
    if !speaks_http2_to_proxies(bin)? {
        return Err(Error::Missing {
            what: format!("{version} does not offer HTTP/2 to a proxy"),
            remedy: "a newer suite may have one that does".to_owned(),
        });
    }
    eprintln!("tools: {version} is ready");
    Ok(())
}

/// Lets `curl` open a tunnel through a proxy and looks at what it offers: the option must be known,
/// and the TLS hello must name `h2` as application protocol.
fn speaks_http2_to_proxies(curl: &Path) -> Result<bool, Error> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(at("listen for", curl))?;
    let address = listener.local_addr().map_err(at("listen for", curl))?;
    let mut command = Command::new(curl);
    command.args([
        "-q",
        "--silent",
        "--max-time",
        "5",
        "--noproxy",
        "",
        "--proxytunnel",
    ]);
    command.args([
        "--proxy-http2",
        "--proxy",
        &format!("https://{address}"),
        "http://peer.test/",
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|source| process::start_error(&command, source))?;
    let hello = accept_hello(&listener, || {
        child.try_wait().is_ok_and(|ended| ended.is_none())
    });
    drop(listener);
    child
        .wait()
        .map_err(|source| process::start_error(&command, source))?;
    Ok(hello.windows(3).any(|window| window == b"\x02h2"))
}

/// The first bytes of the first connection; nothing if `running` turns false before there is one.
fn accept_hello(listener: &TcpListener, mut running: impl FnMut() -> bool) -> Vec<u8> {
    let mut hello = vec![0; 4096];
    if listener.set_nonblocking(true).is_err() {
        return Vec::new();
    }
    loop {
        let alive = running();
        match listener.accept() {
            Ok((mut socket, _)) => {
                let read = socket
                    .set_nonblocking(false)
                    .and_then(|()| socket.read(&mut hello));
                hello.truncate(read.unwrap_or(0));
                return hello;
            }
            Err(_) if alive => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => return Vec::new(),
        }
    }
}

fn version(curl: &Path) -> Result<String, Error> {
    let output = process::run(Command::new(curl).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    Ok(words.join(" "))
}
