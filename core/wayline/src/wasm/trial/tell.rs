//! What a filter did, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Message, Trial};

/// As people read it: headers that the filter added begin with `+`, those that it took away with `-`.
pub(super) fn human(trial: &Trial) -> String {
    let mut text = String::new();
    let compiled = trial.module.compile_time.map_or_else(String::new, |took| {
        format!(", compiled in {} ms", took.as_millis())
    });
    let _ = writeln!(
        text,
        "module    ABI {}, {} bytes{compiled}",
        trial.abi, trial.module.inspection.bytes
    );
    match &trial.upstream {
        Some(upstream) => change(&mut text, "request", &trial.sent, upstream),
        None => same(&mut text, "request", &trial.sent),
    }
    if let Some(details) = &trial.local_reply {
        let _ = writeln!(
            text,
            "answered  by the filter ({details}); nothing goes upstream"
        );
    }
    if let Some(details) = &trial.reset {
        let _ = writeln!(text, "reset     by the filter ({details})");
    }
    if let Some(what) = trial.stuck {
        let _ = writeln!(
            text,
            "paused    the filter holds {what} and waits for what does not come here"
        );
    }
    match (&trial.answered, &trial.received) {
        (Some(answered), Some(received)) => change(&mut text, "response", answered, received),
        (None, Some(received)) => same(&mut text, "response", received),
        (_, None) => {}
    }
    for callout in &trial.callouts {
        let _ = writeln!(text, "callout   {callout}: not made in a trial");
    }
    for log in &trial.logs {
        let level = log.level.as_str().to_ascii_lowercase();
        let _ = writeln!(text, "log       {level}: {}", log.message);
    }
    text
}

fn same(text: &mut String, what: &str, message: &Message) {
    let _ = writeln!(text, "{what:<9} {}", message.line);
    for header in &message.headers {
        line(text, ' ', header);
    }
    body(text, ' ', &message.body);
}

fn change(text: &mut String, what: &str, before: &Message, after: &Message) {
    let _ = write!(text, "{what:<9} {}", after.line);
    if before.line != after.line {
        let _ = write!(text, " (was {})", before.line);
    }
    text.push('\n');
    let mut gone = before.headers.clone();
    for header in &after.headers {
        let kept = gone.iter().position(|it| it == header);
        if let Some(place) = kept {
            gone.remove(place);
        }
        line(text, if kept.is_some() { ' ' } else { '+' }, header);
    }
    for header in &gone {
        line(text, '-', header);
    }
    if before.body == after.body {
        body(text, ' ', &after.body);
    } else {
        body(text, '-', &before.body);
        body(text, '+', &after.body);
    }
}

fn line(text: &mut String, mark: char, (name, value): &(String, String)) {
    let _ = writeln!(text, "        {mark} {name}: {value}");
}

/// Lines of a body that are shown.
const SHOWN_LINES: usize = 20;

fn body(text: &mut String, mark: char, body: &str) {
    for shown in body.lines().take(SHOWN_LINES) {
        let _ = writeln!(text, "        {mark} | {shown}");
    }
    let more = body.lines().count().saturating_sub(SHOWN_LINES);
    if more > 0 {
        let _ = writeln!(text, "        {mark} | … {more} more lines");
    }
}

/// As programs read it. Fields are added, never changed, within one `apiVersion`.
pub(super) fn report(trial: &Trial) -> impl Serialize {
    let logs: Vec<Value> = trial
        .logs
        .iter()
        .map(
            |log| json!({"level": log.level.as_str().to_ascii_lowercase(), "message": log.message}),
        )
        .collect();
    json!({
        "apiVersion": "wayline.dev/v1",
        "kind": "WasmTrial",
        "module": {"sha256": trial.module.digest.to_string(), "abi": trial.abi},
        "request": message(&trial.sent),
        "upstream": trial.upstream.as_ref().map(message),
        "localReply": trial.local_reply,
        "reset": trial.reset,
        "stuck": trial.stuck,
        "backendResponse": trial.answered.as_ref().map(message),
        "response": trial.received.as_ref().map(message),
        "callouts": trial.callouts,
        "logs": logs,
    })
}

/// Values of one header are listed, however many there are.
fn message(message: &Message) -> Value {
    let mut headers = Map::new();
    for (name, value) in &message.headers {
        let values = headers
            .entry(name.clone())
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(Value::from(value.as_str()));
        }
    }
    json!({"line": message.line, "headers": headers, "body": message.body})
}
