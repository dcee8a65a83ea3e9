//! Each defence is seen to be one: without it, the attacks that it is there for succeed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::sync::Mutex;

use wayline_tests::attacks::{Group, HostileModule, flood_without, has_switch, replay_without};
use wayline_tests::tools;

/// Defences that are left out at once, each in programs of its own. Most of the time they wait.
const AT_ONCE: usize = 6;

#[test]
fn attacks_succeed_without_the_defence_they_name() {
    let mut work = Vec::new();
    for group in Group::all() {
        let named = |defence: &Option<String>| defence.clone();
        let floods = group.floods.iter().filter_map(|it| named(&it.defence));
        let cases = group.cases.iter().filter_map(|it| named(&it.defence));
        let mut defences: Vec<String> = floods.chain(cases).collect();
        defences.sort();
        defences.dedup();
        let all = defences.into_iter().map(|it| (group.group.clone(), it));
        work.extend(all);
    }
    let pairs = work.len();
    let work = Mutex::new(work);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((group, defence)) = work.lock().unwrap().pop() else {
                        return;
                    };
                    let outcome = without(&group, &defence);
                    outcomes.lock().unwrap().push((defence, outcome));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    assert_eq!(outcomes.len(), pairs, "some were not tried to the end");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut needless = Vec::new();
    for (defence, (succeeded, failed)) in outcomes {
        *seen.entry(defence.clone()).or_default() += succeeded;
        needless.extend(
            failed
                .iter()
                .map(|it| format!("{it} does not need {defence}")),
        );
    }
    println!("{seen:?}");
    assert!(needless.is_empty(), "{}", needless.join("\n"));
    assert!(seen.len() >= 25, "{seen:?}");
}

/// How many attacks of a group succeed without a defence that they name, and which do not.
fn without(letter: &str, defence: &str) -> (usize, Vec<String>) {
    let mut group = Group::read(letter);
    let named = |it: &Option<String>| it.as_deref() == Some(defence);
    let verdict = replay_without(Some(defence), &group, |case| named(&case.defence));
    let mut outcomes: Vec<(String, bool)> = verdict
        .cases
        .into_iter()
        .map(|(case, (right, total, _))| (case, right < total))
        .collect();
    // One flood at one place: they take their time.
    group.floods.retain(|flood| named(&flood.defence));
    group.floods.truncate(1);
    for flood in &mut group.floods {
        flood.on.truncate(1);
    }
    let costs = flood_without(Some(defence), &group, |_| true);
    outcomes.extend(costs.into_iter().map(|it| (it.name, !it.wrong.is_empty())));
    let succeeded = outcomes.iter().filter(|(_, succeeded)| *succeeded).count();
    let failed = outcomes.into_iter().filter(|(_, succeeded)| !succeeded);
    (succeeded, failed.map(|(name, _)| name).collect())
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
