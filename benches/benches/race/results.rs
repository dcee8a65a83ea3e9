//! `benches/RESULTS.md`: the figures, and all that it takes to judge them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use jiff::Timestamp;

use crate::contestant::workspace_root;
use crate::error::{Error, at};
use crate::options::Options;
use crate::picture;
use crate::process::output;
use crate::report::{self, Entry};

/// Writes the file anew and returns its path.
pub(crate) fn write(
    entries: &[Entry],
    versions: &[String],
    options: &Options,
) -> Result<PathBuf, Error> {
    let path = workspace_root().join("benches/RESULTS.md");
    let text = document(entries, versions, options)?;
    std::fs::write(&path, text).map_err(at("write", &path))?;
    let picture = path.with_extension("svg");
    std::fs::write(&picture, picture::svg(entries)).map_err(at("write", &picture))?;
    Ok(path)
}

fn document(entries: &[Entry], versions: &[String], options: &Options) -> Result<String, Error> {
    let rustc = output(Command::new("rustc").arg("--version"))?;
    let date = Timestamp::now().strftime("%Y-%m-%d");
    let mut scenes = String::new();
    let mut told = None;
    for entry in entries {
        if told.replace(entry.scene) != Some(entry.scene) {
            let _infallible = writeln!(
                scenes,
                "- `{}`: {}",
                entry.scene.name(),
                entry.scene.title()
            );
        }
    }
    Ok(format!(
        "\
# Results of the race

Written by the race itself; run it again instead of editing. What the columns mean, and what they
do not: [README.md](README.md).

- Date: {date}
- Machine: {machine}
- Versions: {versions}, {rustc}
- Command: `{command}`
- Load: {load}
- {disturbance}

![CPU time per request](RESULTS.svg)

{scenes}
{table}
Budgets (ratios of CPU time per request, medians over rounds; then what is no ratio):

```text
{verdicts}```
",
        machine = machine(),
        versions = versions.join(", "),
        rustc = rustc.trim(),
        command = command(),
        load = options.load(),
        disturbance = report::disturbance(entries),
        table = report::markdown_table(entries),
        verdicts = report::verdicts(entries),
    ))
}

fn command() -> String {
    let mut text = "cargo bench -p wayline-benches --bench race".to_owned();
    let own: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if !own.is_empty() {
        text += " -- ";
        text += &own.join(" ");
    }
    for (name, value) in std::env::vars() {
        if name.starts_with("WAYLINE_RACE_") {
            text = format!("{name}={value} {text}");
        }
    }
    text
}

fn machine() -> String {
    let first = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = first("/proc/cpuinfo", "model name")
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH));
    let memory = first("/proc/meminfo", "MemTotal")
        .and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib >> 20);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    format!("{cores} cores of {model}, {memory} GiB, Linux {kernel}")
}
