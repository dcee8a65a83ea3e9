//! Figures of a race, and how they are shown: on a terminal, and in Markdown.

use std::fmt::Write as _;

use wayline_benches::{Measurement, Summary};

use crate::contestant::Contestant;
use crate::scene::Scene;

/// All measurements of one contestant in one scene, one per round.
pub(crate) struct Entry {
    pub(crate) scene: Scene,
    pub(crate) contestant: Contestant,
    pub(crate) rounds: Vec<Measurement>,
}

impl Entry {
    pub(crate) fn new((scene, contestant): (Scene, Contestant)) -> Self {
        Self {
            scene,
            contestant,
            rounds: Vec::new(),
        }
    }

    fn summary(&self, of: impl Fn(&Measurement) -> f64) -> Option<Summary> {
        Summary::of(self.rounds.iter().map(of))
    }

    fn median(&self, of: impl Fn(&Measurement) -> f64) -> f64 {
        self.summary(of).map_or(f64::NAN, |s| s.median)
    }
}

/// Of the two cores, other processes may use so many percent of one.
const QUIET: f64 = 10.0;

const HEADINGS: [&str; 11] = [
    "scene",
    "contestant",
    "CPU µs/request",
    "min–max",
    "× Envoy",
    "× bare",
    "p50 µs",
    "p99 µs",
    "requests/s",
    "core busy",
    "RSS MiB",
];

/// The one table, for a terminal.
pub(crate) fn table(entries: &[Entry]) -> String {
    let rows = rows(entries);
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    let mut last_scene = HEADINGS[0];
    for row in &rows {
        if row[0] != last_scene && last_scene != HEADINGS[0] {
            text.push('\n');
        }
        last_scene = &row[0];
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let _infallible = if column < 2 {
                write!(text, "{cell}{padding}  ")
            } else {
                write!(text, "{padding}{cell}  ")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The same table in Markdown.
pub(crate) fn markdown_table(entries: &[Entry]) -> String {
    let mut text = String::new();
    for (index, row) in rows(entries).iter().enumerate() {
        let _infallible = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            let _infallible = writeln!(text, "|---|---|{}", "---:|".repeat(HEADINGS.len() - 2));
        }
    }
    text
}

/// Wayline against its budgets, a line each; empty when there is nothing to compare.
pub(crate) fn verdicts(entries: &[Entry]) -> String {
    let mut text = String::new();
    for wayline in entries {
        if wayline.contestant != Contestant::Wayline {
            continue;
        }
        for (peer, budget) in wayline.scene.budgets() {
            let Some(ratio) = ratio(wayline, find(entries, wayline.scene, *peer)) else {
                continue;
            };
            let verdict = if ratio.median <= *budget {
                "met"
            } else {
                "missed"
            };
            let _infallible = writeln!(
                text,
                "{:<13} wayline / {:<8} {:>5.2}  budget {budget:.2}  {verdict}",
                wayline.scene.name(),
                peer.name(),
                ratio.median,
            );
        }
    }
    text
}

/// How much other processes disturbed the race.
pub(crate) fn disturbance(entries: &[Entry]) -> String {
    let rounds = entries.iter().flat_map(|entry| &entry.rounds);
    let Some(others) = Summary::of(rounds.map(|m| m.others_cpu / m.seconds * 100.0)) else {
        return String::new();
    };
    let judgement = if others.median > QUIET {
        "the machine was busy and the figures are worth little: run it again"
    } else {
        "the machine was quiet"
    };
    format!(
        "Other processes used {:.0} % of a core meanwhile, {:.0} % at most: {judgement}.",
        others.median, others.max
    )
}

fn rows(entries: &[Entry]) -> Vec<[String; 11]> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(entries.iter().map(|entry| row(entry, entries)));
    rows
}

fn row(entry: &Entry, entries: &[Entry]) -> [String; 11] {
    let cpu = entry.summary(Measurement::cpu_micros);
    let against = |peer| {
        let ratio = ratio(entry, find(entries, entry.scene, peer));
        ratio.map_or_else(|| "–".to_owned(), |r| format!("{:.2}", r.median))
    };
    [
        entry.scene.name().to_owned(),
        entry.contestant.name().to_owned(),
        cpu.map_or_else(String::new, |s| format!("{:.1}", s.median)),
        cpu.map_or_else(String::new, |s| format!("{:.1}–{:.1}", s.min, s.max)),
        against(Contestant::Envoy),
        against(Contestant::Bare),
        format!("{:.0}", entry.median(|m| m.p50)),
        format!("{:.0}", entry.median(|m| m.p99)),
        format!("{:.0}", entry.median(Measurement::rate)),
        format!("{:.0} %", entry.median(|m| m.cpu / m.seconds * 100.0)),
        format!("{:.0}", entry.median(|m| m.resident_kib as f64 / 1024.0)),
    ]
}

fn find(entries: &[Entry], scene: Scene, contestant: Contestant) -> Option<&Entry> {
    entries
        .iter()
        .find(|e| e.scene == scene && e.contestant == contestant)
}

/// CPU per request of one to that of another, compared within each round.
fn ratio(of: &Entry, to: Option<&Entry>) -> Option<Summary> {
    let pairs = of.rounds.iter().zip(&to?.rounds);
    Summary::of(pairs.map(|(of, to)| of.cpu_micros() / to.cpu_micros()))
}
