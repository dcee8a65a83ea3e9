//! What requests cost in instructions, compared with the counts kept in `benches/instructions.json`.
//!
//! Unlike times, counts can be repeated on a busy machine, so that they may fail a change. They depend
//! on compiler, C library and valgrind: where one differs from the recording, nothing is compared.
//!
//! There are two builds to count in. The optimised one tells what a request costs, and takes minutes to
//! make. The one that tests are run in costs nothing more; what it counts means little by itself, but grows when a
//! change makes requests do more: it is what CI compares.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::process::{self, Error, at};
use crate::{bench_peers, tools};

/// What more may be executed than recorded before it is a failure, as a ratio.
const TOLERANCE: f64 = 0.03;

/// Callgrind collects while this function of the harness is on the stack.
const MEASURED: &str = "--toggle-collect=bench_instructions::measured*";

type Counts = BTreeMap<String, u64>;

/// What is counted in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Build {
    /// As a release, but for link-time optimisation.
    Optimised,
    /// As for tests.
    Unoptimised,
}

impl Build {
    fn profile(self) -> &'static str {
        match self {
            Self::Optimised => "instructions",
            Self::Unoptimised => "dev",
        }
    }

    /// The key of its counts in the recording.
    fn key(self) -> &'static str {
        match self {
            Self::Optimised => "instructions",
            Self::Unoptimised => "unoptimised",
        }
    }

    /// Of so many repetitions those that are enough: without optimisation each takes ten times as long.
    fn repetitions(self, times: u64) -> u64 {
        match self {
            Self::Optimised => times,
            Self::Unoptimised => (times / 10).max(50),
        }
    }
}

/// Counts, and compares or records.
pub(crate) fn run(build: Build, record: bool) -> Result<(), Error> {
    bench_peers::install(&["valgrind"])?;
    let root = tools::workspace_root()?;
    let path = root.join("benches/instructions.json");
    let with = environment()?;
    let recorded = Recording::read(&path, build);
    let differs = recorded
        .as_ref()
        .is_none_or(|recorded| recorded.with != with);
    if differs && !record {
        eprintln!(
            "instructions: nothing is compared: the recording was made with {}, and here is {}\n  \
             remedy: `cargo xtask instructions --record` on the parent commit, then again here",
            recorded.map_or_else(|| "nothing".to_owned(), |it| shown(&it.with)),
            shown(&with)
        );
        return Ok(());
    }
    let counts = count(&compile(&root, build)?, build)?;
    let before = recorded.map(|it| it.counts).unwrap_or_default();
    println!("{}", table(&before, &counts));
    if record {
        let other = match build {
            Build::Optimised => Build::Unoptimised,
            Build::Unoptimised => Build::Optimised,
        };
        // The other build's stay, if they were counted with the same.
        let others = Recording::read(&path, other).filter(|it| it.with == with);
        let others = others.map(|it| it.counts).unwrap_or_default();
        let text = json!({ "with": with, build.key(): counts, other.key(): others });
        let text = format!("{text:#}\n");
        std::fs::write(&path, text).map_err(at("write", &path))?;
        eprintln!("instructions: recorded in {}", path.display());
        return Ok(());
    }
    judge(&before, &counts)
}

struct Recording {
    with: BTreeMap<String, String>,
    counts: Counts,
}

impl Recording {
    /// `None` where there is none that can be read.
    fn read(path: &Path, build: Build) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let value: Value = serde_json::from_str(&text).ok()?;
        Some(Self {
            with: value["with"]
                .as_object()?
                .iter()
                .map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect::<Option<_>>()?,
            counts: value[build.key()]
                .as_object()?
                .iter()
                .map(|(key, value)| Some((key.clone(), value.as_u64()?)))
                .collect::<Option<_>>()?,
        })
    }
}

/// What the counts depend on.
fn environment() -> Result<BTreeMap<String, String>, Error> {
    let first_line = |program: &str, args: &[&str]| -> Result<String, Error> {
        let output = process::run(Command::new(program).args(args))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    Ok(BTreeMap::from([
        ("rustc".to_owned(), first_line("rustc", &["--version"])?),
        (
            "libc".to_owned(),
            first_line("getconf", &["GNU_LIBC_VERSION"])?,
        ),
        (
            "valgrind".to_owned(),
            first_line("valgrind", &["--version"])?,
        ),
        ("processor".to_owned(), processor()),
    ]))
}

/// Libraries choose among implementations by what the processor can.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| info.split_ascii_whitespace().any(|word| word == flag);
    let flags: Vec<&str> = ["avx2", "aes", "vaes", "sha_ni", "asimd"]
        .into_iter()
        .filter(|flag| has(flag))
        .collect();
    format!("{} {}", std::env::consts::ARCH, flags.join(" "))
}

/// The harness.
fn compile(root: &Path, build: Build) -> Result<PathBuf, Error> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root)
        .args(["build", "--profile", build.profile()])
        .args([
            "--package",
            "wayline-benches",
            "--bin",
            "bench-instructions",
        ])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = process::run(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|message: &Value| message["target"]["name"] == "bench-instructions")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| Error::Missing {
            what: "cargo built no executable named bench-instructions".to_owned(),
            remedy: "see benches/Cargo.toml: the package must have that program".to_owned(),
        })
}

/// Runs each operation under callgrind.
fn count(harness: &Path, build: Build) -> Result<Counts, Error> {
    let listed = process::run(Command::new(harness).arg("--list"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut counts = Counts::new();
    for line in listed.lines() {
        let Some((name, times)) = line.split_once(' ') else {
            continue;
        };
        let times = times.parse().map_or(1, |times| build.repetitions(times));
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(MEASURED)
            .arg(harness)
            .args([name, &times.to_string()]);
        let output = process::run(&mut command)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let each = collected(&said)
            .map(|all| all / times.max(1))
            .filter(|each| *each > 0)
            .ok_or_else(|| Error::Missing {
                what: format!("callgrind counted nothing in {name}"),
                remedy: format!("see what it says: {said}"),
            })?;
        counts.insert(name.to_owned(), each);
    }
    Ok(counts)
}

/// As in `==7== Collected : 1234`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit_once(':')?.1.trim().parse().ok()
}

fn table(before: &Counts, now: &Counts) -> String {
    let rows = now.iter().map(|(name, now)| match before.get(name) {
        Some(before) => format!(
            "{name:<22} {now:>9}  {:+.1} %",
            change(*before, *now) * 100.0
        ),
        None => format!("{name:<22} {now:>9}  new"),
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn judge(before: &Counts, now: &Counts) -> Result<(), Error> {
    let grown: Vec<&str> = now
        .iter()
        .filter(|(name, now)| {
            let before = before.get(*name);
            before.is_some_and(|before| change(*before, **now) > TOLERANCE)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !grown.is_empty() {
        return Err(Error::Missing {
            what: format!(
                "more instructions than recorded, by more than {:.0} %: {}",
                TOLERANCE * 100.0,
                grown.join(", ")
            ),
            remedy: "find them (docs/performance.md), or record what they are worth: \
                     `cargo xtask instructions --record`"
                .to_owned(),
        });
    }
    if before.keys().ne(now.keys())
        || before
            .iter()
            .any(|(name, before)| change(*before, now[name]) < -TOLERANCE)
    {
        eprintln!(
            "instructions: the recording is out of date: `cargo xtask instructions --record`"
        );
    }
    Ok(())
}

fn change(before: u64, now: u64) -> f64 {
    (now as f64 - before as f64) / before.max(1) as f64
}

fn shown(with: &BTreeMap<String, String>) -> String {
    with.values().cloned().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_callgrind_says() {
        let said = "==1== Events    : Ir\n==1== Collected : 52265000\n==1== \n";
        assert_eq!(collected(said), Some(52_265_000));
        assert_eq!(collected("==1== Events    : Ir\n"), None);
    }

    #[test]
    fn only_growth_beyond_the_tolerance_fails() {
        let counts =
            |plain, hbone| Counts::from([("plain".to_owned(), plain), ("hbone".to_owned(), hbone)]);
        let before = counts(1000, 2000);
        assert!(judge(&before, &counts(1030, 1000)).is_ok());
        let failure = judge(&before, &counts(1031, 1000)).unwrap_err().to_string();
        assert!(failure.contains("plain") && !failure.contains("hbone"));
        assert!(judge(&Counts::new(), &before).is_ok());
    }
}
