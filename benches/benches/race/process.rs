//! Processes that are pinned to a core and never outlive the race.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, at};

/// How long a contestant may take from start to listening.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Killed when dropped. Its output goes to a file.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Result<Self, Error> {
        let output = File::create(&log).map_err(at("create", &log))?;
        let errors = output.try_clone().map_err(at("open", &log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|e| not_run(command, &e))?;
        Ok(Self { child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Whether it has ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child
            .try_wait()
            .ok()
            .flatten()
            .map(|status| status.to_string())
    }

    /// Waits until `ready` says so; an error says what it was waiting for.
    pub(crate) fn wait_until(&mut self, mut ready: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let is_ready = ready();
            // Looked at second: whoever answers in the place of one that has ended is not it.
            if let Some(status) = self.ended() {
                return Err(format!("ended before it was ready, {status}"));
            }
            if is_ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("was not ready within {START_TIMEOUT:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

pub(crate) fn kill(child: &mut Child) {
    // Fails only where it has ended already.
    let _ended = child.kill().and_then(|()| child.wait());
}

/// `program`, to be run on this core. taskset replaces itself by the program, so that the child's
/// process id is the program's.
pub(crate) fn pinned(core: usize, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("taskset");
    command
        .args(["--cpu-list", &core.to_string()])
        .arg(program.as_ref());
    command
}

/// Runs a command to its end and returns what it wrote to either stream.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|e| not_run(command, &e))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if !output.status.success() {
        return Err(Error::Command {
            command: shown(command),
            reason: format!("{}: {}", output.status, text.trim()),
            remedy: "see what it says",
        });
    }
    Ok(text)
}

/// Runs a command whose output is for the person who runs the race.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|e| not_run(command, &e))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: shown(command),
        reason: status.to_string(),
        remedy: "see above what it says",
    })
}

pub(crate) fn not_run(command: &Command, error: &std::io::Error) -> Error {
    Error::Command {
        command: shown(command),
        reason: error.to_string(),
        remedy: "is it installed? taskset is part of util-linux, the peers come by `cargo xtask tools --bench`",
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A port of 127.0.0.1 on which nobody listens now.
pub(crate) fn free_port() -> Result<SocketAddr, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(at("find a free port on", "127.0.0.1"))
}

pub(crate) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Whether GET `path` there is answered 200.
pub(crate) fn answers_ok(address: SocketAddr, path: &str) -> bool {
    let get = || -> std::io::Result<String> {
        let mut tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(
            tcp,
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        Ok(answer)
    };
    get().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
