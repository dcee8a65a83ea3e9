//! The attack catalogue, group by group, at every entrance.

use std::path::Path;
use std::process::Command;

use wayline_tests::attacks::{Cost, Group, HostileModule, flood, has_switch, replay};
use wayline_tests::tools;

use crate::figures;

fn holds(letter: &str) {
    let group = Group::read(letter);
    let verdict = replay(&group, |_| true);
    let [cases, of, spellings, of_them] = verdict.totals();
    println!("{letter}: {cases} of {of} cases, {spellings} of {of_them} requests");
    let about = &group.about;
    figures::write(
        &format!("group-{letter}"),
        &format!("{letter}\t{about}\t{cases}\t{of}\t{spellings}\t{of_them}\n"),
    );
    let wrong = verdict.wrong();
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn paths() {
    holds("P");
}

#[test]
fn hosts() {
    holds("H");
}

#[test]
fn headers() {
    holds("N");
}

#[test]
fn methods() {
    holds("M");
}

#[test]
fn tokens() {
    holds("J");
}

#[test]
fn identities() {
    holds("I");
}

#[test]
fn smuggling() {
    holds("S");
}

#[test]
fn exhaustion() {
    holds("R");
}

#[test]
fn tunnels() {
    holds("T");
}

#[test]
fn spoofing() {
    holds("F");
}

/// The tables are written by `cargo xtask security-report`; that takes long, this does not.
#[test]
fn the_page_of_figures_is_of_these_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let row = |group: &Group| {
        let begin = format!("| {} | {} | ", group.group, group.about);
        let row = page.lines().find_map(|line| line.strip_prefix(&begin))?;
        let numbers = row.split('|').map_while(|cell| cell.trim().parse().ok());
        Some(numbers.collect::<Vec<usize>>())
    };
    let mut stale = Vec::new();
    for entry in std::fs::read_dir(root.join("tests/attacks")).unwrap() {
        let path = entry.unwrap().path();
        let letter = path.file_name().unwrap().to_str().unwrap();
        let Some(letter) = letter.strip_suffix(".toml").filter(|it| it.len() == 1) else {
            continue;
        };
        let group = Group::read(letter);
        if group.cases.is_empty() {
            continue;
        }
        let cases = group.cases.len();
        match row(&group).as_deref() {
            Some([right, of, requests, of_them])
                if (*right, *of) == (cases, cases) && requests == of_them => {}
            other => stale.push(format!("{}: {cases} cases, but {other:?}", group.group)),
        }
    }
    assert!(
        stale.is_empty(),
        "docs/security.md is not up to date, run `cargo xtask security-report`:\n{}",
        stale.join("\n")
    );
}

/// `undefended` sees to it that there is such a switch to look for.
#[test]
fn what_is_shipped_has_no_switch_for_defences() {
    assert!(!has_switch(&tools::wayline()));
}

/// What `undefended` tries without a defence is there.
#[test]
fn hostile_modules_have_the_tests_that_their_catalogue_names() {
    let program = std::env::current_exe().unwrap();
    let listed = Command::new(program).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for case in HostileModule::catalogue() {
        let Some(test) = case.black_box else { continue };
        let known = listed.lines().any(|line| line == format!("{test}: test"));
        assert!(known, "{}: no test {test}", case.id);
    }
}

#[test]
fn targets_of_tunnels() {
    let costs = flood(&Group::read("T"), |_| true);
    let wrong: Vec<_> = costs.iter().flat_map(|cost| cost.wrong.clone()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn admin_port() {
    let costs = flood(&Group::read("F"), |_| true);
    let wrong: Vec<_> = costs.iter().flat_map(|cost| cost.wrong.clone()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn floods() {
    let costs = flood(&Group::read("R"), |_| true);
    let rows: String = costs.iter().map(row).collect();
    println!("{rows}");
    figures::write("floods", &rows);
    let wrong: Vec<_> = costs.iter().flat_map(|cost| cost.wrong.clone()).collect();
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn row(cost: &Cost) -> String {
    let kib = |bytes: f64| (bytes / 1024.0).round();
    format!(
        "{}\t{}\t{}\t{}\t{}\n",
        cost.name,
        kib(cost.sent),
        kib(cost.peak),
        kib(cost.left),
        (cost.cpu_s * 1000.0).round()
    )
}
