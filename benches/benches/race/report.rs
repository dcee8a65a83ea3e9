//! Figures of a race, and how they are shown: on a terminal, and in Markdown.

use std::fmt::Write as _;

use wayline_benches::{Entrance, Measurement, OpenLoop, Summary};

use crate::contestant::Contestant;
use crate::scene::{Against, Scene};

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

    /// Memory that grew by a connection, in KB, where connections do nothing else.
    fn per_connection(&self) -> Option<f64> {
        let Entrance::Idle { tunnels } = self.scene.entrance() else {
            return None;
        };
        let grown = self.median(|m| m.resident_kib.saturating_sub(m.resident_before_kib) as f64);
        Some(grown * 1.024 / tunnels as f64)
    }

    fn summary(&self, of: impl Fn(&Measurement) -> f64) -> Option<Summary> {
        Summary::of(self.rounds.iter().map(of))
    }

    pub(crate) fn median(&self, of: impl Fn(&Measurement) -> f64) -> f64 {
        self.summary(of).map_or(f64::NAN, |s| s.median)
    }
}

/// Of the two cores, other processes may use so many percent of one.
const QUIET: f64 = 10.0;

const HEADINGS: [&str; 14] = [
    "scene",
    "contestant",
    "CPU µs/request",
    "min–max",
    "× HAProxy",
    "× Envoy",
    "× bare",
    "peak/s",
    "core busy",
    "p50 µs",
    "p99 µs",
    "RSS MiB",
    "KB/connection",
    "start ms",
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
        for (against, budget) in wayline.scene.budgets() {
            let (scene, peer) = match against {
                Against::Peer(peer) => (wayline.scene, *peer),
                Against::Itself(scene) => (*scene, Contestant::Wayline),
            };
            let Some(ratio) = ratio(wayline, find(entries, scene, peer)) else {
                continue;
            };
            let verdict = if ratio.median <= *budget {
                "met"
            } else {
                "missed"
            };
            let other = match against {
                Against::Peer(peer) => peer.name(),
                Against::Itself(scene) => scene.name(),
            };
            let _infallible = writeln!(
                text,
                "{:<14} wayline / {other:<11} {:>5.2}  budget {budget:.2}  {verdict}",
                wayline.scene.name(),
                ratio.median,
            );
        }
        if let Some((calm, budget)) = wayline.scene.latency_budget()
            && let Some(ratio) = p99_ratio(wayline, find(entries, calm, Contestant::Wayline))
        {
            let verdict = if ratio.median <= budget {
                "met"
            } else {
                "missed"
            };
            let _infallible = writeln!(
                text,
                "{:<14} p99 / p99 of {:<8} {:>5.2}  budget {budget:.2}  {verdict}",
                wayline.scene.name(),
                calm.name(),
                ratio.median,
            );
        }
        for (what, found, most) in absolutes(wayline) {
            let verdict = if found <= most { "met" } else { "missed" };
            let _infallible = writeln!(
                text,
                "{:<14} {what:<21} {found:>5.1}  budget {most:.0}  {verdict}",
                wayline.scene.name(),
            );
        }
    }
    text
}

/// How much other processes disturbed the race.
pub(crate) fn disturbance(entries: &[Entry]) -> String {
    let rounds = entries.iter().flat_map(|entry| &entry.rounds);
    let rounds = rounds.filter(|m| m.requests > 0);
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

fn rows(entries: &[Entry]) -> Vec<[String; HEADINGS.len()]> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(entries.iter().map(|entry| row(entry, entries)));
    rows
}

fn row(entry: &Entry, entries: &[Entry]) -> [String; HEADINGS.len()] {
    let none = || "–".to_owned();
    let asked = entry.rounds.iter().any(|m| m.requests > 0);
    let cpu = entry.summary(Measurement::cpu_micros).filter(|_| asked);
    let figure = |of: &dyn Fn(&Measurement) -> f64| match asked {
        true => format!("{:.0}", entry.median(of)),
        false => none(),
    };
    let latency = |of: fn(&OpenLoop) -> f64| {
        let open: Vec<OpenLoop> = entry.rounds.iter().filter_map(|m| m.open).collect();
        let keeps_up = open.iter().all(|open| open.answered > open.rate * 0.98);
        match Summary::of(open.iter().map(of)) {
            Some(_) if !keeps_up => "too slow".to_owned(),
            Some(summary) => format!("{:.0}", summary.median),
            None => none(),
        }
    };
    let against = |peer| {
        let ratio = ratio(entry, find(entries, entry.scene, peer));
        ratio.map_or_else(none, |r| format!("{:.2}", r.median))
    };
    [
        entry.scene.name().to_owned(),
        entry.contestant.name().to_owned(),
        cpu.map_or_else(none, |s| format!("{:.1}", s.median)),
        cpu.map_or_else(none, |s| format!("{:.1}–{:.1}", s.min, s.max)),
        against(Contestant::Haproxy),
        against(Contestant::Envoy),
        against(Contestant::Bare),
        figure(&Measurement::rate),
        figure(&|m| m.cpu / m.seconds * 100.0) + if asked { " %" } else { "" },
        latency(|open| open.p50),
        latency(|open| open.p99),
        format!("{:.0}", entry.median(|m| m.resident_kib as f64 / 1024.0)),
        entry
            .per_connection()
            .map_or_else(none, |kb| format!("{kb:.1}")),
        format!("{:.0}", entry.median(|m| m.start_millis)),
    ]
}

/// Budgets that are no ratios: what, found, at most.
fn absolutes(wayline: &Entry) -> Vec<(&'static str, f64, f64)> {
    let mut all = Vec::new();
    if let Some(kb) = wayline.per_connection() {
        all.push(("KB per connection", kb, 12.0));
        let idle = wayline.median(|m| m.resident_before_kib as f64 / 1024.0);
        all.push(("MiB idle", idle, 30.0));
    }
    if wayline.scene == Scene::Routes1000 {
        all.push(("ms to start", wayline.median(|m| m.start_millis), 300.0));
    }
    all
}

pub(crate) fn find(entries: &[Entry], scene: Scene, contestant: Contestant) -> Option<&Entry> {
    entries
        .iter()
        .find(|e| e.scene == scene && e.contestant == contestant)
}

/// The p99 of one to that of another, compared within each round.
fn p99_ratio(of: &Entry, to: Option<&Entry>) -> Option<Summary> {
    let pairs = of.rounds.iter().zip(&to?.rounds);
    Summary::of(pairs.filter_map(|(of, to)| Some(of.open?.p99 / to.open?.p99)))
}

/// CPU per request of one to that of another, compared within each round.
pub(crate) fn ratio(of: &Entry, to: Option<&Entry>) -> Option<Summary> {
    let to = to.filter(|to| !std::ptr::eq(*to, of))?;
    let pairs = of.rounds.iter().zip(&to.rounds);
    let asked = pairs.filter(|(of, to)| of.requests > 0 && to.requests > 0);
    Summary::of(asked.map(|(of, to)| of.cpu_micros() / to.cpu_micros()))
}
