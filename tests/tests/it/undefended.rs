//! Each defence is seen to be one: without it, the attacks that it is there for succeed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};

use wayline_tests::attacks::{Group, HostileModule, flood_without, has_switch, replay_without};
use wayline_tests::tools;

const GROUPS: [&str; 9] = ["F", "H", "I", "M", "N", "P", "R", "S", "T"];

#[test]
fn attacks_succeed_without_the_defence_they_name() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for letter in GROUPS {
        let group = Group::read(letter);
        let named = |defence: &Option<String>, name: &str| defence.as_deref() == Some(name);
        let mut defences: Vec<String> = group
            .cases
            .iter()
            .filter_map(|case| case.defence.clone())
            .collect();
        defences.sort();
        defences.dedup();
        for defence in defences {
            let verdict = replay_without(Some(&defence), &group, |case| {
                named(&case.defence, &defence)
            });
            for (case, (right, total, _)) in &verdict.cases {
                assert!(right < total, "{case} does not need {defence}");
                *seen.entry(defence.clone()).or_default() += 1;
            }
        }
        let one_each = |defence: &str| {
            group
                .floods
                .iter()
                .find(|flood| named(&flood.defence, defence))
                .map(|flood| flood.id.clone())
        };
        if let Some(id) = one_each("frame-limits") {
            let costs = flood_without(Some("frame-limits"), &group, |flood| flood.id == id);
            for cost in costs {
                assert!(
                    !cost.wrong.is_empty(),
                    "{} needs no frame-limits",
                    cost.name
                );
            }
            *seen.entry("frame-limits".to_owned()).or_default() += 1;
        }
    }
    println!("{seen:?}");
    assert!(seen.len() >= 15, "{seen:?}");
}

/// Else `what_is_shipped_has_no_switch_for_defences` would look for what nobody has.
#[test]
fn this_program_has_the_switch() {
    assert!(has_switch(&tools::undefended()));
}

/// Hostile modules and registries: tests of this program fail with a proxy that lacks the defence their
/// catalogue names, and pass with one that has them all.
#[test]
fn modules_do_harm_without_the_defence_they_name() {
    let cases: Vec<_> = HostileModule::catalogue()
        .into_iter()
        .filter_map(|case| Some((case.black_box?, case.id, case.defence)))
        .collect();
    let tests: BTreeSet<_> = cases.iter().map(|(test, ..)| test).collect();
    for test in tests {
        let ended = again(test, None);
        assert!(ended.status.success(), "{test}: {}", told(&ended));
    }
    let harmless: Vec<_> = cases
        .iter()
        .filter(|(test, _, defence)| again(test, Some(defence)).status.success())
        .collect();
    assert!(harmless.is_empty(), "no need of a defence: {harmless:#?}");
}

/// Runs a test of this program once more, with the proxy that may lack a defence.
fn again(test: &str, without: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test])
        .env("WAYLINE_BIN", tools::undefended());
    if let Some(defence) = without {
        command.env("WAYLINE_DEFENCE_OFF", defence);
    }
    let ended = command.output().unwrap();
    assert!(told(&ended).contains("running 1 test"), "no test {test}");
    ended
}

fn told(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stdout).into_owned()
}
