//! An object as YAML that people read and that our reader reads back as the very same value.
//!
//! Block style throughout; a text stands without quotes only where no reader could take it for anything
//! else.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The value as one YAML document, without separators.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(&mut text, fields, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

fn mapping(text: &mut String, fields: &Map<String, Value>, indent: usize) {
    for (key, value) in fields {
        let _ = write!(text, "{:indent$}{}:", "", string(key));
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push('\n');
                mapping(text, fields, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                sequence(text, items, indent);
            }
            Value::String(lines) if fits_block(lines) => block(text, lines, indent + 2),
            scalar => {
                let _ = writeln!(text, " {}", inline(scalar));
            }
        }
    }
}

fn sequence(text: &mut String, items: &[Value], indent: usize) {
    for item in items {
        let begin = text.len();
        match item {
            Value::Object(fields) if !fields.is_empty() => mapping(text, fields, indent + 2),
            Value::Array(items) if !items.is_empty() => sequence(text, items, indent + 2),
            scalar => {
                let _ = writeln!(text, "{:indent$}  {}", "", inline(scalar));
            }
        }
        // The first line of an item begins with two spaces more than its dash does.
        text.replace_range(begin + indent..begin + indent + 1, "-");
    }
}

/// A literal block, which needs its first line to tell its indentation.
fn block(text: &mut String, lines: &str, indent: usize) {
    let (lines, mark) = match lines.strip_suffix('\n') {
        Some(lines) => (lines, " |\n"),
        None => (lines, " |-\n"),
    };
    text.push_str(mark);
    for line in lines.split('\n') {
        if !line.is_empty() {
            let _ = write!(text, "{:indent$}{line}", "");
        }
        text.push('\n');
    }
}

fn fits_block(text: &str) -> bool {
    let ends_well = !text.ends_with("\n\n") && text.contains('\n');
    let begins_well = !text.starts_with([' ', '\n', '#', '-']);
    ends_well && begins_well && text.chars().all(|it| it == '\n' || is_printable(it))
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

fn string(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            _ if is_printable(character) => quoted.push(character),
            _ => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(character));
            }
        }
    }
    quoted.push('"');
    quoted
}

/// YAML's printable characters, without those that break or begin a line.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

/// Whether a text means itself without quotes, in YAML 1.1 as well.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan",
    ];
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'.' | b'/' | b'-'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::document::parse_value;
    use serde_json::json;

    #[test]
    fn it_reads_as_people_write_it() {
        let value = json!({
            "kind": "Service", "metadata": {"name": "a", "labels": {"x.io/y": "true", "v": "1"}},
            "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81}], "empty": [], "none": {}},
            "data": {"mesh": "a: b\n  c: d\n"},
        });
        assert_eq!(
            to_yaml(&value),
            "data:\n  mesh: |\n    a: b\n      c: d\nkind: Service\nmetadata:\n  labels:\n    v: \"1\"\n    x.io/y: \"true\"\n  name: a\nspec:\n  empty: []\n  none: {}\n  ports:\n  - name: http\n    port: 80\n  - port: 81\n"
        );
    }

    #[test]
    fn every_value_is_read_back_as_it_was() {
        const TEXTS: &[&str] = &[
            "",
            " ",
            "a",
            "a b",
            "a: b",
            "- a",
            "-",
            "#",
            "a #b",
            "~",
            "null",
            "Null",
            "yes",
            "No",
            "0",
            "00",
            "1.5",
            "1e3",
            "0x1f",
            "0o7",
            ".inf",
            ".nan",
            "2024-01-01",
            "12:30",
            "+1",
            "\"",
            "'",
            "\\",
            "\\n",
            "\n",
            "a\n",
            "a\n\n",
            "\na",
            "a\nb",
            "a\n\nb",
            " a\nb",
            "a \nb\n",
            "a\n  b",
            "a\n \nb",
            "---",
            "a\n---\nb",
            "...",
            "a\n...\nb",
            "# a\nb",
            "%a",
            "@a",
            "`a",
            "!a",
            "&a",
            "*a",
            "|",
            ">",
            "[a]",
            "{a}",
            "a,b",
            "a\tb",
            "a\t\nb",
            "\ta\nb",
            "a\rb",
            "a\r\nb",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{a0}",
            "\u{2028}",
            "\u{feff}a",
            "ä",
            "日本",
            "😀",
            "<<",
            "=",
            "?",
            "? a",
            ":",
            "a:",
            "/a/b",
            "a\nb: [\n",
        ];
        let mut values: Vec<Value> = TEXTS.iter().map(|text| json!(text)).collect();
        values.extend([
            json!(null),
            json!(true),
            json!(0),
            json!(-7),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1.5),
            json!(1e30),
            json!([]),
            json!({}),
        ]);
        let mut cases = Vec::new();
        for value in &values {
            cases.push(json!({"a": value, "b": 1}));
            cases.push(json!({"a": [value, [value, value], {"b": value, "c": [value]}]}));
            cases.push(json!([[[value]], {"x": {"y": value}}, value]));
            // As a key, `<<` merges, quoted or not.
            if let Some(text) = value.as_str().filter(|text| *text != "<<") {
                cases.push(json!({text: {text: value}, "z": [{text: [text]}]}));
            }
        }
        cases.push(json!(values));
        for case in cases {
            let text = to_yaml(&case);
            assert_eq!(parse_value(&text).as_ref(), Ok(&case), "{text}");
        }
    }
}
