//! The figures of `docs/security.md`: measured by the tests that prove them, never typed by hand.
//!
//! Tests that have a figure write it, when they are asked to, into the folder that `WAYLINE_FIGURES`
//! names: a file each, with lines of a name, what is right, how many there are, and more columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::process::{self, Error, at};
use crate::tools;

/// Where the tables stand.
const PAGE: &str = "docs/security.md";

/// Where tests leave their figures.
const FIGURES: &str = "target/security-figures";

const BEGIN: &str = "<!-- figures: cargo xtask security-report -->";
const END: &str = "<!-- end of figures -->";

/// Random (policy, request) pairs that matcher and reference are compared on.
const PAIRS: &str = "1000000";

/// Runs the tests that have figures and writes them into the page.
pub(crate) fn run() -> Result<(), Error> {
    let root = tools::workspace_root()?;
    let figures = root.join(FIGURES);
    if figures.exists() {
        std::fs::remove_dir_all(&figures).map_err(at("remove", &figures))?;
    }
    std::fs::create_dir_all(&figures).map_err(at("create", &figures))?;
    tests(
        &root,
        &figures,
        &[
            "test",
            "-p",
            "wayline-model",
            "--lib",
            "authorization::tests::property",
        ],
    )?;
    let program = std::env::current_exe().map_err(at("find", Path::new("xtask")))?;
    let mut command = Command::new(program);
    command.current_dir(&root).args([
        "test",
        "--",
        "-p",
        "wayline-tests",
        "--test",
        "it",
        "--",
        "attacks",
        "authorization_same",
    ]);
    command.env("WAYLINE_FIGURES", &figures);
    finish(command)?;
    write()
}

/// Writes what was measured last into the page.
pub(crate) fn write() -> Result<(), Error> {
    let root = tools::workspace_root()?;
    let figures = root.join(FIGURES);
    let page = root.join(PAGE);
    let text = std::fs::read_to_string(&page).map_err(at("read", &page))?;
    let mut read = read(&figures)?;
    let fuzzed = root.join(crate::fuzz::FIGURES);
    // Nobody has fuzzed yet: then there is nothing to tell.
    if fuzzed.exists() {
        let rows = std::fs::read_to_string(&fuzzed).map_err(at("read", &fuzzed))?;
        read.insert("fuzzed".to_owned(), rows.lines().map(cells).collect());
    }
    for row in read.get_mut("floods").into_iter().flatten() {
        row.push(amplification(row).unwrap_or_else(|| "-".to_owned()));
    }
    let tables = tables(&read);
    let text = replaced(&text, &tables).ok_or_else(|| Error::Missing {
        what: format!("{PAGE} has no place for figures"),
        remedy: format!("put the lines `{BEGIN}` and `{END}` into it"),
    })?;
    std::fs::write(&page, text).map_err(at("write", &page))?;
    eprintln!("security-report: wrote {PAGE}");
    Ok(())
}

fn tests(root: &Path, figures: &Path, args: &[&str]) -> Result<(), Error> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .current_dir(root)
        .args(args)
        .env("WAYLINE_FIGURES", figures)
        .env("WAYLINE_PAIRS", PAIRS);
    finish(command)
}

fn finish(mut command: Command) -> Result<(), Error> {
    let status = command
        .status()
        .map_err(|source| process::start_error(&command, source))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(Error::TestsFailed {
        code: code.unwrap_or(1),
    })
}

type Figures = BTreeMap<String, Vec<Vec<String>>>;

fn read(folder: &Path) -> Result<Figures, Error> {
    let mut figures = Figures::new();
    for entry in std::fs::read_dir(folder).map_err(at("read", folder))? {
        let path = entry.map_err(at("read", folder))?.path();
        let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let rows = text.lines().map(cells).collect();
        figures.insert(name.into_owned(), rows);
    }
    Ok(figures)
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

/// Memory at the peak for each byte sent, of a row of floods; of little that was sent it says nothing.
fn amplification(row: &[String]) -> Option<String> {
    let [sent, peak] = [1, 2].map(|at| row.get(at)?.parse::<f64>().ok());
    let (sent, peak) = (sent?, peak?);
    (sent >= 1024.0).then(|| format!("{:.1}", peak / sent))
}

fn tables(figures: &Figures) -> String {
    let mut text = String::new();
    let mut table = |name: &str, head: &[&str]| {
        let mut rows: Vec<_> = figures
            .iter()
            .filter(|(file, _)| file.starts_with(name))
            .flat_map(|(_, rows)| rows)
            .collect();
        if rows.is_empty() {
            return;
        }
        rows.sort();
        let _ = writeln!(text, "| {} |", head.join(" | "));
        let _ = writeln!(text, "|{}", "---|".repeat(head.len()));
        for row in rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text.push('\n');
    };
    table(
        "group-",
        &[
            "Group",
            "About",
            "Cases right",
            "Cases",
            "Requests right",
            "Requests",
        ],
    );
    table(
        "floods",
        &[
            "Attack by amount",
            "Sent (KiB)",
            "Memory at the peak (KiB)",
            "Left afterwards (KiB)",
            "CPU (ms)",
            "Memory for a byte sent, from 1 MiB",
        ],
    );
    table("compared-", &["Compared", "Pairs", "Disagreements"]);
    table(
        "fuzzed",
        &[
            "Fuzzed",
            "CPU (s)",
            "Inputs tried",
            "Inputs in the corpus",
            "Crashes",
        ],
    );
    text
}

fn replaced(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_take_the_place_of_those_before() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = replaced(&page, "| x |\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\n\n| x |\n{END}\nb\n"));
        assert_eq!(replaced(&once, "| x |\n").unwrap(), once);
        assert_eq!(replaced("nothing", ""), None);
    }

    #[test]
    fn amplification_is_memory_by_what_was_sent() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        assert_eq!(amplification(&row(["a", "1024", "3072"])).unwrap(), "3.0");
        assert_eq!(amplification(&row(["a", "1023", "1"])), None);
    }

    #[test]
    fn rows_are_gathered_by_name() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let figures = Figures::from([
            (
                "group-S".to_owned(),
                vec![row(&["S", "s", "1", "1", "2", "2"])],
            ),
            (
                "group-P".to_owned(),
                vec![row(&["P", "p", "3", "3", "4", "4"])],
            ),
        ]);
        let text = tables(&figures);
        let (p, s) = (text.find("| P | p | 3"), text.find("| S | s | 1"));
        assert!(p.is_some() && p < s, "{text}");
    }
}
