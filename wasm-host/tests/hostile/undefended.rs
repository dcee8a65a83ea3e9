//! The catalogue of hostile modules: each class of it has a case, each case a test that shows it and a
//! defence without which that test fails.
//!
//! The second is seen where this program is built with the feature `undefended`
//! (`cargo test -p wayline-wasm-host --features undefended --test hostile`): each test is run once more in a
//! process of its own with the defence switched off. What is endless then ends with the CPU time that this
//! process may have.

use std::collections::BTreeSet;
use std::process::Command;

use serde::Deserialize;

const CATALOGUE: &str = include_str!("../../../tests/attacks/modules.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    what: String,
    defence: String,
    /// A test of this program.
    test: Option<String>,
    /// A test of the black box: its own `undefended` tries it.
    black_box: Option<String>,
}

fn catalogue() -> Vec<Case> {
    toml::from_str::<Catalogue>(CATALOGUE).unwrap().case
}

#[test]
fn every_class_of_the_catalogue_has_a_defence_and_a_test() {
    let cases = catalogue();
    let classes = (1..=22).map(|n| format!("W{n:02}"));
    for class in classes.chain((1..=6).map(|n| format!("O{n:02}"))) {
        assert!(cases.iter().any(|case| case.id == class), "no {class}");
    }
    let known = tests();
    for case in &cases {
        let what = format!("{}: {}", case.id, case.what);
        assert!(!case.defence.is_empty(), "{what}: no defence");
        match (&case.test, &case.black_box) {
            (Some(test), None) => assert!(known.contains(test), "{what}: no test {test}"),
            (None, Some(_)) => {}
            _ => panic!("{what}: one test, please"),
        }
    }
}

/// The tests of this program.
fn tests() -> BTreeSet<String> {
    let listed = Command::new(std::env::current_exe().unwrap())
        .arg("--list")
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

#[cfg(feature = "undefended")]
#[test]
fn hostile_modules_do_harm_without_the_defence_they_name() {
    let mut harmless = Vec::new();
    for case in catalogue() {
        let Some(test) = &case.test else { continue };
        let ended = without(&case.defence, test);
        eprintln!("{} without {}: {ended:?}", case.id, case.defence);
        if ended.success() {
            harmless.push(format!(
                "{} ({test}) does not need {}",
                case.id, case.defence
            ));
        }
    }
    assert!(harmless.is_empty(), "{harmless:#?}");
}

/// Runs a test of this program without a defence; within 3 s of CPU time, whatever it does then.
#[cfg(feature = "undefended")]
fn without(defence: &str, test: &str) -> std::process::ExitStatus {
    Command::new("sh")
        .args(["-c", "ulimit -c 0; ulimit -t 3; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(wayline_model::defence::SWITCH, defence)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
}
