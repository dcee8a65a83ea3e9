//! `cargo xtask fuzz`: libFuzzer on the stable compiler, target by target, into the corpora and a table.
//!
//! What is kept of a corpus is its minimum for the coverage reached, so that the tests that replay it stay
//! short. Of each target the CPU time spent so far on the sources as they are is added up in
//! `tests/fuzz/figures.tsv`, from which `cargo xtask security-report` takes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Error, at};
use crate::tools;

const FOLDER: &str = "tests/fuzz";

/// What was run so far: target, CPU seconds, inputs tried, inputs kept, crashes.
pub(crate) const FIGURES: &str = "tests/fuzz/figures.tsv";

/// Coverage counters, comparisons traced: what `cargo fuzz` asks of a nightly compiler, without sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";

/// Fuzzes the targets that are named, or all, each for so many seconds of CPU time.
pub(crate) fn run(seconds: u64, names: &[&str]) -> Result<(), Error> {
    let root = tools::workspace_root()?;
    let known = targets(&root)?;
    let unknown = names
        .iter()
        .find(|name| !known.iter().any(|it| it == *name));
    if let Some(name) = unknown {
        return Err(Error::Missing {
            what: format!("there is no target `{name}`"),
            remedy: format!("name some of {}", known.join(", ")),
        });
    }
    let built = build(&root)?;
    let chosen = known
        .iter()
        .filter(|name| names.is_empty() || names.contains(&name.as_str()));
    let mut crashed = Vec::new();
    for name in chosen {
        let outcome = fuzz(&root, &built, name, seconds)?;
        if outcome.crashes > 0 {
            crashed.push(name.clone());
        }
        record(&root, name, &outcome)?;
    }
    if crashed.is_empty() {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("inputs on which {} hold", crashed.join(", ")),
        remedy: "see target/fuzz/artifacts; add the input to the corpus once it is mended"
            .to_owned(),
    })
}

struct Outcome {
    cpu_seconds: f64,
    tried: u64,
    kept: usize,
    crashes: u64,
}

fn targets(root: &Path) -> Result<Vec<String>, Error> {
    let folder = root.join(FOLDER).join("fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(at("read", &folder))? {
        let path = entry.map_err(at("read", &folder))?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn build(root: &Path) -> Result<PathBuf, Error> {
    let target = root.join("target/fuzz");
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    // With a target named, build scripts and macros are left without coverage.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command
        .current_dir(root.join(FOLDER))
        .args(["build", "--bins", "--target", &triple, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", COVERAGE);
    finish(&mut command)?;
    Ok(target.join(triple).join("debug"))
}

fn fuzz(root: &Path, built: &Path, name: &str, seconds: u64) -> Result<Outcome, Error> {
    let program = built.join(name);
    let corpus = root.join(FOLDER).join("corpus").join(name);
    let scratch = root.join("target/fuzz/work").join(name);
    let artifacts = root.join("target/fuzz/artifacts").join(name);
    for folder in [&scratch, &artifacts] {
        std::fs::create_dir_all(folder).map_err(at("create", folder))?;
    }
    let log = artifacts.join("log");
    let file = std::fs::File::create(&log).map_err(at("create", &log))?;
    eprintln!("fuzz: {name}, {seconds} s of CPU time");
    let mut command = Command::new(&program);
    // The kernel ends it once it has had its share of CPU time; libFuzzer counts by the clock.
    command
        .arg("-print_final_stats=1")
        .args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([&scratch, &corpus])
        .stdout(std::process::Stdio::null())
        .stderr(file);
    let mut child = command
        .spawn()
        .map_err(|source| process::start_error(&command, source))?;
    let mut used = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(at("wait for", &program))? {
            break status;
        }
        used = f64::max(used, cpu_seconds(child.id()).unwrap_or_default());
        if used >= seconds as f64 {
            // libFuzzer ends in order and prints its figures.
            let _ = Command::new("kill")
                .args(["-INT", &child.id().to_string()])
                .status();
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    let text = std::fs::read(&log).map_err(at("read", &log))?;
    let text = String::from_utf8_lossy(&text);
    let crashes =
        u64::from(text.contains("SUMMARY: libFuzzer: ") && !text.contains("run interrupted"));
    eprintln!("fuzz: {name}: {used:.0} s, {status}");
    // What is worth keeping, and no more.
    let mut merge = Command::new(&program);
    let minimum = root.join("target/fuzz/minimum").join(name);
    if minimum.exists() {
        std::fs::remove_dir_all(&minimum).map_err(at("remove", &minimum))?;
    }
    std::fs::create_dir_all(&minimum).map_err(at("create", &minimum))?;
    merge
        .args(["-merge=1", "-max_len=4096"])
        .args([&minimum, &corpus, &scratch])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    finish(&mut merge)?;
    let kept = adopt(&minimum, &corpus)?;
    Ok(Outcome {
        cpu_seconds: used,
        tried: number_behind(&text, "stat::number_of_executed_units:"),
        kept,
        crashes,
    })
}

/// Puts the minimum beside the seeds that people wrote; what fuzzers found before goes.
fn adopt(minimum: &Path, corpus: &Path) -> Result<usize, Error> {
    for entry in std::fs::read_dir(corpus).map_err(at("read", corpus))? {
        let path = entry.map_err(at("read", corpus))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with("seed-") && !name.starts_with("crash-") {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
        }
    }
    for entry in std::fs::read_dir(minimum).map_err(at("read", minimum))? {
        let path = entry.map_err(at("read", minimum))?.path();
        let bytes = std::fs::read(&path).map_err(at("read", &path))?;
        let name = path.file_name().unwrap_or_default();
        let to = corpus.join(name);
        std::fs::write(&to, bytes).map_err(at("write", &to))?;
    }
    Ok(std::fs::read_dir(corpus)
        .map_err(at("read", corpus))?
        .count())
}

/// Adds a run to what was run before.
fn record(root: &Path, name: &str, outcome: &Outcome) -> Result<(), Error> {
    let file = root.join(FIGURES);
    let mut rows: BTreeMap<String, [u64; 4]> = BTreeMap::new();
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    for line in before.lines() {
        let mut cells = line.split('\t');
        let name = cells.next().unwrap_or_default().to_owned();
        let mut numbers = [0; 4];
        for (number, cell) in numbers.iter_mut().zip(cells) {
            *number = cell.parse().unwrap_or_default();
        }
        rows.insert(name, numbers);
    }
    let row = rows.entry(name.to_owned()).or_default();
    row[0] += outcome.cpu_seconds as u64;
    row[1] += outcome.tried;
    row[2] = outcome.kept as u64;
    row[3] = outcome.crashes;
    let text: String = rows
        .iter()
        .map(|(name, [seconds, tried, kept, crashes])| {
            format!("{name}\t{seconds}\t{tried}\t{kept}\t{crashes}\n")
        })
        .collect();
    std::fs::write(&file, text).map_err(at("write", &file))
}

fn number_behind(text: &str, label: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(label));
    lines
        .filter_map(|rest| rest.trim().parse::<u64>().ok())
        .sum()
}

/// User and system time of a process, as the kernel counts it in hundredths.
fn cpu_seconds(process: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold spaces.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn finish(command: &mut Command) -> Result<(), Error> {
    let status = command
        .status()
        .map_err(|source| process::start_error(command, source))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(Error::TestsFailed {
        code: code.unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_what_libfuzzer_says() {
        let text =
            "#2 INITED\nstat::number_of_executed_units: 4711\nstat::average_exec_per_sec: 9\n";
        assert_eq!(number_behind(text, "stat::number_of_executed_units:"), 4711);
        assert_eq!(number_behind("", "stat::number_of_executed_units:"), 0);
        assert!(cpu_seconds(std::process::id()).is_some());
    }
}
