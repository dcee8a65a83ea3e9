//! The runner: every spelling of every case, on every entrance it can be written for.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use super::bytes::{Plain, fields, unescape};
use super::mint::Mint;
use super::recorder::to_the_end;
use super::stage::Stage;
use super::{Case, Cell, Entrance, Expect, Group, Seen, frames};
use crate::Conversation;
use crate::client::Response;

/// Path normalisation modes in the order of the table of paths.
const MODES: [&str; 4] = ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"];

/// A request that tells whether a connection is where it should be.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: test\r\n\r\n";

/// How a group went.
#[derive(Debug, Default)]
pub struct Verdict {
    /// By case: right and total, and what was wrong.
    pub cases: BTreeMap<String, (usize, usize, Vec<String>)>,
}

impl Verdict {
    /// Everything that was wrong.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let all = self.cases.values();
        all.flat_map(|(_, _, wrong)| wrong.iter().cloned())
            .collect()
    }

    /// Cases right and total, spellings right and total.
    #[must_use]
    pub fn totals(&self) -> [usize; 4] {
        let mut totals = [0; 4];
        for (right, total, _) in self.cases.values() {
            totals[0] += usize::from(right == total);
            totals[1] += 1;
            totals[2] += right;
            totals[3] += total;
        }
        totals
    }

    fn has_failed(&self, case: &str) -> bool {
        let known = self.cases.get(case);
        known.is_some_and(|(right, total, _)| right < total)
    }

    fn note(&mut self, case: &str, outcome: Result<(), String>) {
        let entry = self.cases.entry(case.to_owned()).or_default();
        entry.1 += 1;
        match outcome {
            Ok(()) => entry.0 += 1,
            Err(wrong) => entry.2.push(wrong),
        }
    }
}

/// One spelling of a case.
struct Spelling {
    text: String,
    bytes: Written,
}

enum Written {
    H1 { bytes: Vec<u8>, head: bool },
    H2(Vec<u8>),
}

/// Replays the cases of a group that are chosen.
///
/// # Panics
/// When a scene can not be set up.
#[must_use]
pub fn replay(group: &Group, chosen: impl Fn(&Case) -> bool) -> Verdict {
    replay_without(None, group, chosen)
}

/// The same without a defence.
///
/// # Panics
/// When a scene can not be set up.
#[must_use]
pub fn replay_without(
    defence: Option<&str>,
    group: &Group,
    chosen: impl Fn(&Case) -> bool,
) -> Verdict {
    let mint = Rc::new(Mint::new(&group.keys, &group.tokens));
    let mut verdict = Verdict::default();
    let mut scenes: BTreeMap<(&str, Option<usize>), Vec<&Case>> = BTreeMap::new();
    for case in group.cases.iter().filter(|case| chosen(case)) {
        let by_mode = !case.paths.is_empty() || case.escapes_behind.is_some();
        if by_mode {
            for mode in 0..MODES.len() {
                scenes
                    .entry((&case.scene, Some(mode)))
                    .or_default()
                    .push(case);
            }
        }
        let as_they_are = |text: &str| text.to_owned();
        if !spellings(case, Entrance::GatewayH1, &as_they_are).is_empty()
            || !spellings(case, Entrance::GatewayH2, &as_they_are).is_empty()
        {
            scenes.entry((&case.scene, None)).or_default().push(case);
        }
    }
    for ((scene, mode), cases) in scenes {
        let mode_name = mode.map(|mode| MODES[mode]);
        let stage = Stage::set(defence, &group.scene(scene), mode_name, &mint);
        for case in cases {
            for entrance in Entrance::ALL.into_iter().filter(|it| case.is_for(*it)) {
                match mode {
                    Some(mode) => by_mode(&stage, case, entrance, mode, &mut verdict),
                    None => all(&stage, case, entrance, &mut verdict),
                }
            }
        }
    }
    verdict
}

fn all(stage: &Stage, case: &Case, entrance: Entrance, verdict: &mut Verdict) {
    let expected = case.expected_at(entrance);
    let fill = |text: &str| stage.fill(text);
    let before = expected.series.map(|_| series(stage));
    let turns = (0..case.times).flat_map(|_| spellings(case, entrance, &fill));
    for spelling in turns {
        if stage.without_defence && verdict.has_failed(&case.id) {
            // Once is enough, and what broken framing leaves behind is mostly waiting.
            return;
        }
        let outcome = once(stage, case, entrance, &spelling, expected);
        verdict.note(&case.id, outcome);
    }
    if let (Some(before), Some(more)) = (before, expected.series) {
        let now = series(stage);
        let place = entrance.names()[0];
        let wrong = format!("{} at {place}: {now} series, where {before} were", case.id);
        let outcome = if now <= before + more {
            Ok(())
        } else {
            Err(wrong)
        };
        verdict.note(&case.id, outcome);
    }
}

/// Series of a scrape.
fn series(stage: &Stage) -> usize {
    stage.wayline.metrics().count()
}

fn by_mode(stage: &Stage, case: &Case, entrance: Entrance, mode: usize, verdict: &mut Verdict) {
    let mut table = Vec::new();
    for row in &case.paths {
        let [Cell::Path(sent), outcomes @ ..] = &row[..] else {
            panic!("{}: a row begins with a path", case.id);
        };
        let [_, _, _, _] = outcomes else {
            panic!("{}: {sent} has not four outcomes", case.id);
        };
        table.push((sent.clone(), outcomes[mode].clone()));
    }
    if let Some(prefix) = &case.escapes_behind {
        table.extend(escapes(prefix, mode));
    }
    for (sent, outcome) in table {
        if stage.without_defence && verdict.has_failed(&case.id) {
            return;
        }
        let expected = match outcome {
            Cell::Status(status) => Expect {
                ends: vec![status.to_string()],
                ..Expect::default()
            },
            Cell::Path(path) => {
                let path = if path == "=" { &sent } else { &path };
                let path = String::from_utf8_lossy(&unescape(path)).into_owned();
                Expect {
                    ends: vec!["200".to_owned()],
                    backend: Some(vec![format!("GET {path}")]),
                    ..Expect::default()
                }
            }
        };
        // Gateways may have a rule of their own for a whole case.
        let expected = case.at.get(entrance.names()[1]).unwrap_or(&expected);
        let sent = format!("GET {sent}");
        let spelling = plain(&sent, &sent, entrance);
        let outcome = once(stage, case, entrance, &spelling, expected)
            .map_err(|wrong| format!("{} {wrong}", MODES[mode]));
        verdict.note(&case.id, outcome);
    }
}

fn escapes(prefix: &str, mode: usize) -> Vec<(String, Cell)> {
    (1..=0xff_u8)
        .map(|value| {
            let sent = format!("{prefix}%{value:02x}x");
            let unreserved = value.is_ascii_alphanumeric() || b"-._~".contains(&value);
            let becomes = match value {
                _ if mode == 0 => "=".to_owned(),
                b'/' | b'\\' if mode == 3 => format!("{prefix}/x"),
                _ if unreserved => format!("{prefix}{}x", char::from(value)),
                _ => "=".to_owned(),
            };
            (sent, Cell::Path(becomes))
        })
        .collect()
}

fn spellings(case: &Case, entrance: Entrance, fill: &dyn Fn(&str) -> String) -> Vec<Spelling> {
    let of = |text: &String, bytes: &dyn Fn(&str) -> Written| Spelling {
        text: text.clone(),
        bytes: bytes(&fill(text)),
    };
    let plain = |text: &String| plain(text, &fill(text), entrance);
    let mut all: Vec<Spelling> = case.send.iter().map(plain).collect();
    if entrance.is_h2() {
        let request = |text: &str| Written::H2(frames::request(&fields(text), b""));
        let script = |text: &str| Written::H2(frames::script(text));
        all.extend(case.fields.iter().map(|text| of(text, &request)));
        all.extend(case.frames.iter().map(|text| of(text, &script)));
    } else {
        let raw = |text: &str| Written::H1 {
            bytes: unescape(text.trim_matches('\n')),
            head: text.starts_with("HEAD "),
        };
        all.extend(case.raw.iter().map(|text| of(text, &raw)));
    }
    all
}

/// `text` is how it is shown, `filled` what is meant.
fn plain(text: &str, filled: &str, entrance: Entrance) -> Spelling {
    let request = Plain::read(filled.trim_start_matches('\n'));
    let bytes = if entrance.is_h2() {
        Written::H2(frames::request(&request.fields(), &request.body))
    } else {
        Written::H1 {
            bytes: request.h1(),
            head: request.method == b"HEAD",
        }
    };
    Spelling {
        text: text.to_owned(),
        bytes,
    }
}

/// What came of one spelling.
#[derive(Debug)]
struct Outcome {
    ends: String,
    answers: Vec<Response>,
    unasked: Vec<u8>,
}

fn once(
    stage: &Stage,
    case: &Case,
    entrance: Entrance,
    spelling: &Spelling,
    expected: &Expect,
) -> Result<(), String> {
    let _earlier = stage.backend.take();
    stage.backend.answer(case.reply.as_deref().map(unescape));
    let address = stage.address(entrance, &case.from);
    let outcome = match &spelling.bytes {
        Written::H1 { bytes, head } => h1(address, stage.patience(), bytes, *head, expected),
        Written::H2(bytes) => h2(address, stage.patience(), bytes),
    };
    let seen = stage.backend.take();
    let place = entrance.names()[0];
    let wrong = |what: String| {
        let shown: String = spelling.text.chars().take(200).collect();
        Err(format!("{} at {place}: {shown:?}: {what}", case.id))
    };
    if let Some(problem) = compare(&outcome, &seen, expected, &|text| stage.fill(text)) {
        return wrong(problem);
    }
    for (host, lines) in &expected.asked {
        let asked = stage.servers[host].lines();
        if asked != *lines {
            return wrong(format!("host {host} was asked {asked:?}, not {lines:?}"));
        }
    }
    for words in &expected.logged {
        if !stage
            .mesh
            .access_log()
            .iter()
            .any(|line| line.contains(words))
        {
            // The writer may be a moment behind.
            let _line = stage.mesh.logged(words);
        }
    }
    if !expected.logged.is_empty()
        && let Some(line) = stage.mesh.access_log().iter().find(|line| !is_clean(line))
    {
        let shown: String = line.chars().take(300).collect();
        return wrong(format!("a line of the log: {shown:?}"));
    }
    let said = || {
        [
            stage.wayline.process.stderr(),
            stage.wayline.process.stdout(),
        ]
    };
    if let Some(words) = expected
        .never_said
        .iter()
        .find(|words| said().iter().any(|text| text.contains(*words)))
    {
        return wrong(format!("the log says {words}"));
    }
    Ok(())
}

/// Whether a line of the access log is one line of printable text that is not too long, and an object
/// where it is JSON.
fn is_clean(line: &str) -> bool {
    const LONGEST: usize = 8 * 1024;
    let printable = !line.chars().any(char::is_control) && line.len() <= LONGEST;
    let json = || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line).is_ok();
    printable && (!line.starts_with('{') || json())
}

fn compare(
    outcome: &Outcome,
    seen: &[Seen],
    expected: &Expect,
    fill: &dyn Fn(&str) -> String,
) -> Option<String> {
    let seen: Vec<&Seen> = seen.iter().filter(|it| it.line != "GET /probe").collect();
    if !expected.ends.contains(&outcome.ends) {
        return Some(format!(
            "it ends with {}, not {:?}; the backend saw {seen:?}",
            outcome.ends, expected.ends
        ));
    }
    if !outcome.unasked.is_empty() {
        let text = String::from_utf8_lossy(&outcome.unasked);
        return Some(format!("more came than was expected: {text:?}"));
    }
    let lines: Vec<&str> = seen.iter().map(|it| it.line.as_str()).collect();
    let nothing = Vec::new();
    let backend = match &expected.backend {
        None if !outcome.ends.contains("200") && !outcome.ends.contains("101") => Some(&nothing),
        other => other.as_ref(),
    };
    if let Some(backend) = backend
        && lines != *backend
    {
        return Some(format!("the backend saw {lines:?}, not {backend:?}"));
    }
    for it in &seen {
        for line in &expected.backend_has {
            if !has(&it.headers, &fill(line)) {
                return Some(format!("the backend did not see {line}: {it:?}"));
            }
        }
        for line in &expected.backend_lacks {
            if has(&it.headers, line) || has(&it.trailers, line) {
                return Some(format!("the backend saw {line}: {it:?}"));
            }
        }
        if let Some(body) = &expected.backend_body
            && unescape(body) != it.body
        {
            return Some(format!("the backend got another body: {it:?}"));
        }
    }
    for line in &expected.answer_has {
        let first = outcome.answers.first();
        if !first.is_some_and(|answer| has(&answer.headers, line)) {
            return Some(format!("the answer has no {line}: {first:?}"));
        }
    }
    for line in &expected.answer_lacks {
        let bad = |it: &&Response| has(&it.headers, line) || has(&it.trailers, line);
        if let Some(answer) = outcome.answers.iter().find(bad) {
            return Some(format!("an answer has {line}: {answer:?}"));
        }
    }
    None
}

/// Whether a name, or a whole `name: value`, is among the headers.
fn has(headers: &[(String, String)], line: &str) -> bool {
    let (name, value) = match line.split_once(": ") {
        Some((name, value)) => (name, Some(value)),
        None => (line, None),
    };
    headers.iter().any(|(known, is)| {
        known.eq_ignore_ascii_case(name)
            && value.is_none_or(|value| is.as_bytes() == unescape(value))
    })
}

fn h1(
    address: SocketAddr,
    patience: Duration,
    bytes: &[u8],
    head: bool,
    expected: &Expect,
) -> Outcome {
    let mut conversation = Conversation::open(address);
    conversation
        .socket()
        .set_read_timeout(Some(patience))
        .unwrap();
    // A proxy that has heard enough may close before it has heard all.
    let _told = conversation.write(bytes);
    let wanted = expected
        .ends
        .iter()
        .map(|end| end.split(' ').count())
        .max()
        .unwrap_or(1);
    let mut outcome = Outcome {
        ends: String::new(),
        answers: Vec::new(),
        unasked: Vec::new(),
    };
    let mut ends = Vec::new();
    while ends.len() < wanted {
        let method = if head { "HEAD" } else { "GET" };
        let Ok(answer) = conversation.answer_to(method) else {
            ends.push("CLOSED".to_owned());
            break;
        };
        if matches!(answer.status, 100 | 102..=199) {
            continue;
        }
        let closes = answer
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let switched = answer.status == 101;
        ends.push(answer.status.to_string());
        outcome.answers.push(answer);
        if closes || switched {
            if closes {
                outcome.unasked = conversation.rest();
            }
            break;
        }
    }
    let open = ends
        .last()
        .is_some_and(|end| end != "CLOSED" && end != "101")
        && outcome
            .answers
            .last()
            .is_some_and(|answer| answer.header("connection") != Some("close"));
    if open {
        // Whatever is still to come on this connection comes before the answer to this.
        let asked = conversation.write(PROBE);
        if asked.is_ok()
            && let Ok(answer) = conversation.answer()
            && !(answer.body == b"/probe" || is_ours(&answer))
        {
            outcome.unasked = format!("{answer:?}").into_bytes();
        }
    }
    outcome.ends = ends.join(" ");
    outcome
}

/// Whether the proxy answered the probe in the backend's place.
fn is_ours(answer: &Response) -> bool {
    answer.header("server") == Some("wayline") && matches!(answer.status, 403 | 404 | 500 | 503)
}

fn h2(address: SocketAddr, patience: Duration, bytes: &[u8]) -> Outcome {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut all = frames::greeting(None);
    all.extend_from_slice(bytes);
    let _told = stream.write_all(&all);
    let (ends, _head) = frames::outcome(&mut stream, 1);
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _rest = to_the_end(&mut stream);
    Outcome {
        ends,
        answers: Vec::new(),
        unasked: Vec::new(),
    }
}
