//! Compiling a module in a process of its own, which may be killed.
//!
//! A module decides how much work its compilation is, so that the compiler runs where that harms nobody:
//! its CPU time and its memory are limited, the kernel ends it first when memory is short, and a crash
//! is an exit status. The process is this very program ([`run_child`]), so that what it compiles fits.

mod child;
mod headroom;

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wayline_model::defence::{hand_down, stands};

pub use child::run_child;

/// The arguments by which this program is told to be the compiler.
pub const COMPILER_ARGS: [&str; 2] = ["wasm", "compile-module"];

/// Exit status of a compiler that has a sentence to say about the module.
const REFUSED: u8 = 3;

/// Bytes of compiled code at the most; modules become about five times as long.
const MAX_CODE_BYTES: u64 = 256 << 20;

/// Addresses that the program itself takes up.
const PROGRAM_BYTES: u64 = 128 << 20;

/// Memory below which no compiler is started.
const LEAST_HEADROOM: u64 = 32 << 20;

/// What compiling one module may use up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CompileLimits {
    /// CPU time, in whole seconds; default 5.
    pub cpu: Duration,
    /// Time by the clock on the wall, for a machine that is busy with other things; default 30 s.
    pub wall: Duration,
    /// Address space in bytes; default 512 MiB, and less where the container has less left.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_secs(5),
            wall: Duration::from_secs(30),
            memory: 512 << 20,
        }
    }
}

/// Starts compilers.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The program that is called with [`COMPILER_ARGS`].
    pub program: PathBuf,
    /// What each may use up.
    pub limits: CompileLimits,
}

impl Default for Compiler {
    /// This program itself.
    fn default() -> Self {
        // Where it leads to is this program even when its file has been replaced since.
        let program = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe().unwrap_or_else(|_| PathBuf::from("wayline"))
        };
        Self {
            program,
            limits: CompileLimits::default(),
        }
    }
}

/// Why there is no compiled code. The texts have a remedy.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// It is the module's fault.
    Module(String),
    /// It is the machine's.
    Machine(String),
}

impl Compiler {
    /// Compiles a module. Blocks for as long as that takes.
    pub(crate) fn compile(&self, module: &[u8]) -> Result<Vec<u8>, Failure> {
        let (memory, scarce) = self.memory()?;
        let limits = &self.limits;
        let cpu = if stands("compile-cpu-limit") {
            limits.cpu.as_secs().max(1)
        } else {
            10 * limits.cpu.as_secs()
        };
        let mut command = Command::new(&self.program);
        command
            .args(COMPILER_ARGS)
            .arg(format!("--cpu-seconds={cpu}"))
            .arg(format!("--memory={memory}"))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        hand_down(&mut command);
        let child = command.spawn().map_err(|error| {
            Failure::Machine(format!(
                "the compiler {} can not be started ({error}); raise the limit of processes",
                self.program.display()
            ))
        })?;
        let ended = Running(child).end(module, limits.wall).map_err(|error| {
            Failure::Machine(format!(
                "talking to the compiler failed ({error}); look at the machine's limits"
            ))
        })?;
        self.verdict(ended, memory, scarce)
    }

    /// The address space that a compiler gets, and whether that is less than it should.
    fn memory(&self) -> Result<(u64, bool), Failure> {
        let wanted = if stands("compile-memory-limit") {
            self.limits.memory
        } else {
            8 * self.limits.memory
        };
        let Some(headroom) = headroom::left() else {
            return Ok((wanted, false));
        };
        if headroom < LEAST_HEADROOM {
            return Err(Failure::Machine(format!(
                "the container has {headroom} bytes of memory left, too few to compile anything; raise its memory limit"
            )));
        }
        let memory = wanted.min(headroom.saturating_add(PROGRAM_BYTES));
        Ok((memory, memory < wanted))
    }

    fn verdict(&self, ended: Ended, memory: u64, scarce: bool) -> Result<Vec<u8>, Failure> {
        let said = ended.said.trim();
        let status = ended.status;
        let out_of_memory = said.contains("memory allocation of") || said.contains("out of memory");
        match (status.code(), status.signal()) {
            _ if ended.too_late => Err(Failure::Machine(format!(
                "compiling it was not done within {:?}, on a machine that is busy with other things; give the proxy more CPU",
                self.limits.wall
            ))),
            (Some(0), _) if ended.code.len() as u64 > MAX_CODE_BYTES => {
                Err(Failure::Module(format!(
                    "it compiles to more than {MAX_CODE_BYTES} bytes; build it in release mode"
                )))
            }
            (Some(0), _) if !ended.code.is_empty() => Ok(ended.code),
            (Some(code), _) if code == i32::from(REFUSED) && !said.is_empty() => {
                Err(Failure::Module(said.to_owned()))
            }
            (_, Some(signal)) if signal == libc_signal::XCPU => Err(Failure::Module(format!(
                "compiling it takes more than {:?} of CPU time; build it in release mode, or split large functions",
                self.limits.cpu
            ))),
            _ if out_of_memory && scarce => Err(Failure::Machine(format!(
                "compiling it takes more than the {memory} bytes that the container has left; raise its memory limit"
            ))),
            _ if out_of_memory => Err(Failure::Module(format!(
                "compiling it takes more than {memory} bytes of memory; build it in release mode, or split large functions"
            ))),
            (_, Some(signal)) if signal == libc_signal::KILL => Err(Failure::Machine(
                "the system ended the compiler, most likely for lack of memory; raise the container's memory limit".to_owned(),
            )),
            (_, Some(signal)) => Err(Failure::Module(format!(
                "the compiler crashed on it (signal {signal}); build it with another compiler, and report this"
            ))),
            (code, None) => Err(Failure::Module(format!(
                "the compiler failed on it ({}); build it with another compiler, and report this",
                first_line(said).map_or_else(|| format!("exit code {}", code.unwrap_or(-1)), str::to_owned)
            ))),
        }
    }
}

/// The numbers of the signals that tell something, as in POSIX's tables.
mod libc_signal {
    use rustix::process::Signal;

    pub(super) const XCPU: i32 = Signal::XCPU.as_raw();
    pub(super) const KILL: i32 = Signal::KILL.as_raw();
}

fn first_line(text: &str) -> Option<&str> {
    text.lines().find(|line| !line.trim().is_empty())
}

/// A compiler at work; killed when dropped.
struct Running(Child);

/// What a compiler left behind.
struct Ended {
    status: ExitStatus,
    code: Vec<u8>,
    said: String,
    too_late: bool,
}

impl Running {
    /// Feeds it and waits for its end, which is brought about when the time is over.
    fn end(mut self, module: &[u8], wall: Duration) -> io::Result<Ended> {
        let deadline = Instant::now() + wall;
        let (stdin, stdout, stderr) = (
            self.0.stdin.take(),
            self.0.stdout.take(),
            self.0.stderr.take(),
        );
        thread::scope(|scope| {
            let feeding = scope.spawn(move || {
                // A compiler that refuses does not read to the end.
                stdin.map_or(Ok(()), |mut stdin| stdin.write_all(module))
            });
            let code = scope.spawn(move || all_of(stdout, MAX_CODE_BYTES + 1));
            let said = scope.spawn(move || all_of(stderr, 4096));
            let mut pause = Duration::from_millis(1);
            let mut too_late = false;
            let status = loop {
                if let Some(status) = self.0.try_wait()? {
                    break status;
                }
                if Instant::now() >= deadline {
                    too_late = true;
                    self.0.kill()?;
                    break self.0.wait()?;
                }
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            };
            let _ = feeding.join();
            Ok(Ended {
                status,
                code: code.join().unwrap_or_default(),
                said: String::from_utf8_lossy(&said.join().unwrap_or_default()).into_owned(),
                too_late,
            })
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What comes out of a pipe. What is more than `limit` is read as well, so that nobody waits, and left.
fn all_of(pipe: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe that breaks has ended.
        let _ = (&mut pipe).take(limit).read_to_end(&mut bytes);
        let _ = io::copy(&mut pipe, &mut io::sink());
    }
    bytes
}
