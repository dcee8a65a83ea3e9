//! The attack catalogue, group by group, at every entrance.

use wayline_tests::attacks::{Group, replay};

fn holds(letter: &str) {
    let group = Group::read(letter);
    let verdict = replay(&group, |_| true);
    let [cases, of, spellings, of_them] = verdict.totals();
    println!("{letter}: {cases} of {of} cases, {spellings} of {of_them} requests");
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
fn identities() {
    holds("I");
}

#[test]
fn smuggling() {
    holds("S");
}
