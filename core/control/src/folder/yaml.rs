//! YAML (and so JSON) texts to values with line numbers.
//!
//! Owns what makes a text from a stranger safe to read: bounds on depth, size and the expansion of
//! aliases; duplicate keys refused. Scalars are typed as `kubectl` types them (YAML 1.1 booleans
//! included), so that a manifest means the same here and there. Stands on the event parser
//! `granit-parser`, which resumes at the next `---` after an error.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag, options};
use serde_json::{Map, Number, Value};

use super::document::{Children, Fault, Lines};

/// Deepest nesting of one document. Kubernetes objects stay below 30.
const MAX_DEPTH: usize = 100;
/// Most nodes of one document, to bound memory.
const MAX_NODES: usize = 1_000_000;
/// Most that aliases may add to one document: bytes of text, and [`NODE_WEIGHT`] per node.
const ALIAS_BUDGET: usize = 4 << 20;
/// What a node weighs beside its text.
const NODE_WEIGHT: usize = 32;

/// A value and its lines.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) lines: Lines,
}

/// The documents of one text.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) nodes: Vec<Node>,
    pub(crate) faults: Vec<Fault>,
}

/// Reads all documents. One that cannot be read leaves a fault and is skipped.
pub(crate) fn read(text: &str) -> Stream {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str_with_options(
        text,
        options! {
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        },
    );
    let mut stream = Stream::default();
    let mut builder = Builder::default();

    while let Some(event) = parser.next_event() {
        let outcome = event
            .map_err(|error| syntax_fault(error.marker(), &error.kind().to_string()))
            .and_then(|(event, span)| builder.take(event, &span));
        match outcome {
            Ok(None) => {}
            Ok(Some(node)) => stream.nodes.push(node),
            Err(fault) => {
                builder.faults.push(fault);
                builder.reset();
                if !skip_document(&mut parser) {
                    break;
                }
            }
        }
    }
    stream.faults = builder.faults;
    stream
}

/// Goes on to the next document; false at the end of the text.
fn skip_document<'input>(parser: &mut Parser<'input, StrInput<'input>>) -> bool {
    parser.proceed_next_document().unwrap_or(false)
}

fn syntax_fault(at: &Marker, reason: &str) -> Fault {
    Fault {
        reason: format!("this is not valid YAML: {reason}"),
        remedy: Some("check indentation, quotes and colons on this line and the one before"),
        ..fault(at, String::new())
    }
}

fn fault(at: &Marker, reason: String) -> Fault {
    Fault {
        line: line(at),
        column: u32::try_from(at.col() + 1).unwrap_or(u32::MAX),
        reason,
        remedy: None,
        object: None,
    }
}

fn line(at: &Marker) -> u32 {
    u32::try_from(at.line()).unwrap_or(u32::MAX)
}

/// Builds one document from events, without recursion.
#[derive(Default)]
struct Builder {
    open: Vec<Frame>,
    /// Finished nodes that carry an anchor, with their weight.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    aliased: usize,
    root: Option<Node>,
    /// The document has a fault and will not be given out.
    broken: bool,
    /// Of all documents so far.
    faults: Vec<Fault>,
}

/// A collection whose end has not been seen.
struct Frame {
    line: u32,
    anchor: usize,
    weight: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>, Vec<Lines>),
    Mapping(Mapping),
}

#[derive(Default)]
struct Mapping {
    fields: Map<String, Value>,
    lines: Vec<(Box<str>, Lines)>,
    key: Option<(String, u32)>,
    merged: Vec<Node>,
}

impl Builder {
    /// Takes one event; gives the document when it is complete.
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<Option<Node>, Fault> {
        let at = &span.start;
        match event {
            Event::DocumentStart(..) => self.reset(),
            Event::DocumentEnd => {
                let sound = !self.broken;
                return Ok(self.root.take().filter(|_| sound));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let weight = NODE_WEIGHT + text.len();
                let as_key = self.expects_key();
                let value = if as_key && !is_tagged(tag.as_deref()) {
                    // Keys are names: `8080:` and `on:` stay what is written.
                    Value::String(text.into_owned())
                } else {
                    scalar(text, style, tag.as_deref()).map_err(|reason| fault(at, reason))?
                };
                let lines = Lines {
                    line: line(at),
                    children: Children::None,
                };
                self.place(Node { value, lines }, anchor, weight, at)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "seq").map_err(|reason| fault(at, reason))?;
                self.open(Content::Sequence(Vec::new(), Vec::new()), anchor, at)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "map").map_err(|reason| fault(at, reason))?;
                self.open(Content::Mapping(Mapping::default()), anchor, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at)?,
            Event::Alias(id) => {
                let Some(weight) = self.anchors.get(&id).map(|(_, weight)| *weight) else {
                    return Err(fault(
                        at,
                        "this alias stands inside what it refers to".to_owned(),
                    ));
                };
                self.spend(weight, at)?;
                if let Some((mut node, _)) = self.anchors.get(&id).cloned() {
                    node.lines.line = line(at);
                    self.place(node, 0, weight, at)?;
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Forgets the document begun, not the faults found.
    fn reset(&mut self) {
        let faults = std::mem::take(&mut self.faults);
        *self = Self {
            faults,
            ..Self::default()
        };
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Frame { content: Content::Mapping(mapping), .. }) if mapping.key.is_none()
        )
    }

    /// Counts what aliases and anchors copy.
    fn spend(&mut self, weight: usize, at: &Marker) -> Result<(), Fault> {
        self.aliased = self.aliased.saturating_add(weight);
        if self.aliased <= ALIAS_BUDGET {
            return Ok(());
        }
        Err(Fault {
            remedy: Some("write the repeated parts out"),
            ..fault(
                at,
                format!(
                    "aliases make this document larger by more than {} MiB",
                    ALIAS_BUDGET >> 20
                ),
            )
        })
    }

    fn open(&mut self, content: Content, anchor: usize, at: &Marker) -> Result<(), Fault> {
        if self.expects_key() {
            return Err(fault(
                at,
                "a key must be a plain text, not a list or mapping".to_owned(),
            ));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(fault(
                at,
                format!("this document is nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        self.open.push(Frame {
            line: line(at),
            anchor,
            weight: NODE_WEIGHT,
            content,
        });
        Ok(())
    }

    fn close(&mut self, at: &Marker) -> Result<(), Fault> {
        let Some(frame) = self.open.pop() else {
            return Ok(());
        };
        let (value, children) = match frame.content {
            Content::Sequence(items, lines) => (Value::Array(items), Children::Items(lines)),
            Content::Mapping(mut mapping) => {
                for node in std::mem::take(&mut mapping.merged) {
                    merge(&mut mapping, node);
                }
                (
                    Value::Object(mapping.fields),
                    Children::Fields(mapping.lines),
                )
            }
        };
        let lines = Lines {
            line: frame.line,
            children,
        };
        self.place(Node { value, lines }, frame.anchor, frame.weight, at)
    }

    /// Puts a finished node where it belongs.
    fn place(
        &mut self,
        node: Node,
        anchor: usize,
        weight: usize,
        at: &Marker,
    ) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(fault(
                at,
                format!("this document has more than {MAX_NODES} values"),
            ));
        }
        if anchor != 0 {
            self.spend(weight, at)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.weight = frame.weight.saturating_add(weight);
        match &mut frame.content {
            Content::Sequence(items, lines) => {
                items.push(node.value);
                lines.push(node.lines);
            }
            Content::Mapping(mapping) => match mapping.key.take() {
                None => mapping.key = Some((key_text(node.value, at)?, node.lines.line)),
                Some((key, _)) if key == "<<" => merge_source(mapping, node, at)?,
                Some((key, key_line)) => {
                    let duplicate = mapping.fields.contains_key(&key);
                    if duplicate {
                        self.broken = true;
                        self.faults.push(Fault {
                            line: key_line,
                            column: 1,
                            reason: format!("the key `{key}` stands twice in one mapping"),
                            remedy: Some("remove one of the two"),
                            object: None,
                        });
                    }
                    let lines = Lines {
                        line: key_line,
                        ..node.lines
                    };
                    mapping.lines.push((key.as_str().into(), lines));
                    mapping.fields.insert(key, node.value);
                }
            },
        }
        Ok(())
    }
}

fn key_text(value: Value, at: &Marker) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(fault(
            at,
            "a key must be a plain text, not empty, a list or a mapping".to_owned(),
        )),
    }
}

/// Notes what a `<<` key refers to: one mapping or a list of them.
fn merge_source(mapping: &mut Mapping, node: Node, at: &Marker) -> Result<(), Fault> {
    let refused = || fault(at, "`<<` takes a mapping or a list of mappings".to_owned());
    match (node.value, node.lines.children) {
        (value @ Value::Object(_), children) => {
            let lines = Lines {
                line: node.lines.line,
                children,
            };
            mapping.merged.push(Node { value, lines });
        }
        (Value::Array(values), Children::Items(places)) => {
            for (value, lines) in values.into_iter().zip(places) {
                if !value.is_object() {
                    return Err(refused());
                }
                mapping.merged.push(Node { value, lines });
            }
        }
        _ => return Err(refused()),
    }
    Ok(())
}

/// Adds the fields of a merged mapping that are not there yet.
fn merge(mapping: &mut Mapping, node: Node) {
    let (Value::Object(fields), Children::Fields(lines)) = (node.value, node.lines.children) else {
        return;
    };
    let mut lines: HashMap<Box<str>, Lines> = lines.into_iter().collect();
    for (key, value) in fields {
        if mapping.fields.contains_key(&key) {
            continue;
        }
        let place = lines.remove(key.as_str()).unwrap_or_default();
        mapping.lines.push((key.as_str().into(), place));
        mapping.fields.insert(key, value);
    }
}

fn is_tagged(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.core_suffix().is_none_or(|suffix| suffix != "str"))
}

fn collection_tag(tag: Option<&Tag>, expected: &str) -> Result<(), String> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(expected) => Err(unknown_tag(tag)),
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag) -> String {
    format!("the tag `{}` has no meaning here", tag.original())
}

/// Types a scalar.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain {
            plain(text)
        } else {
            Ok(Value::String(text.into_owned()))
        };
    };
    let suffix = tag.core_suffix().ok_or_else(|| unknown_tag(tag))?;
    if matches!(suffix, "str" | "binary" | "timestamp") {
        return Ok(Value::String(text.into_owned()));
    }
    let shown = text.clone().into_owned();
    let value = plain(text)?;
    let fits = match suffix {
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        "bool" => value.is_boolean(),
        "null" => value.is_null(),
        _ => return Err(unknown_tag(tag)),
    };
    if fits {
        Ok(value)
    } else {
        Err(format!(
            "`{shown}` does not fit its tag `{}`",
            tag.original()
        ))
    }
}

fn plain(text: Cow<'_, str>) -> Result<Value, String> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        _ => {}
    }
    if let Some(number) = number(&text)? {
        return Ok(Value::Number(number));
    }
    Ok(Value::String(text.into_owned()))
}

fn number(text: &str) -> Result<Option<Number>, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("`{text}` has no place in a Kubernetes object"));
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(None);
    }
    let radix = match digits.as_bytes() {
        [b'0', b'x', ..] => Some((16, &digits[2..])),
        [b'0', b'o', ..] => Some((8, &digits[2..])),
        [b'0', b'b', ..] => Some((2, &digits[2..])),
        // YAML 1.1, and so kubectl: a leading zero means octal.
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(|b| (b'0'..=b'7').contains(b)) => {
            Some((8, &digits[1..]))
        }
        _ => None,
    };
    if let Some((radix, digits)) = radix {
        // from_str_radix takes a sign of its own.
        let parsed = digits
            .starts_with(|c: char| c.is_ascii_alphanumeric())
            .then(|| i64::from_str_radix(digits, radix).ok())
            .flatten();
        return Ok(parsed.map(|n| Number::from(if negative { -n } else { n })));
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = unsigned.parse::<i64>() {
            return Ok(Some(number.into()));
        }
        if let Ok(number) = unsigned.parse::<u64>() {
            return Ok(Some(number.into()));
        }
    }
    let looks_decimal = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !looks_decimal {
        return Ok(None);
    }
    Ok(text.parse::<f64>().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Value {
        let mut stream = read(text);
        assert!(stream.faults.is_empty(), "{text}: {:?}", stream.faults);
        assert_eq!(stream.nodes.len(), 1, "{text}");
        stream.nodes.remove(0).value
    }

    fn refused(text: &str) -> Fault {
        let stream = read(text);
        assert!(stream.nodes.is_empty(), "{text}: {:?}", stream.nodes);
        stream.faults.into_iter().next().unwrap()
    }

    #[test]
    fn scalars_are_typed_as_kubectl_types_them() {
        let value = one(
            "[a, 'true', true, on, 12, -3, 0x1f, 0644, 1.5, 1e3, ~, null, 1.2.3, 10.0.0.1, '5', !!str 5, 2024-01-01, 18446744073709551615, y, 0x, 1_000]",
        );
        assert_eq!(
            value,
            json!([
                "a",
                "true",
                true,
                true,
                12,
                -3,
                31,
                420,
                1.5,
                1000.0,
                null,
                null,
                "1.2.3",
                "10.0.0.1",
                "5",
                "5",
                "2024-01-01",
                18446744073709551615u64,
                "y",
                "0x",
                "1_000"
            ])
        );
        assert_eq!(one("{8080: a, on: b}"), json!({"8080": "a", "on": "b"}));
    }

    #[test]
    fn json_with_tabs_is_read() {
        let value = one("{\n\t\"a\": [\n\t\t1,\n\t\t\"\\u00e9\\n\"\n\t],\n\t\"b\": {}\n}\n");
        assert_eq!(value, json!({"a": [1, "é\n"], "b": {}}));
    }

    #[test]
    fn a_broken_document_leaves_its_neighbours_alone() {
        let stream = read("a: 1\n---\nb: [1, 2\n---\nc: 3\n");
        let values: Vec<_> = stream.nodes.iter().map(|node| node.value.clone()).collect();
        assert_eq!(values, [json!({"a": 1}), json!({"c": 3})]);
        assert_eq!(stream.faults.len(), 1);
        assert!(
            (3..=4).contains(&stream.faults[0].line),
            "{:?}",
            stream.faults
        );
    }

    #[test]
    fn tabs_as_indentation_are_a_fault_with_its_place() {
        let fault = refused("a:\n\tb: 1\n");
        assert_eq!(fault.line, 2, "{fault:?}");
    }

    #[test]
    fn duplicate_keys_are_refused() {
        let fault = refused("a: 1\nb:\n  c: 1\n  c: 2\n");
        assert_eq!(fault.line, 4);
        assert!(fault.reason.contains("`c`"));

        let stream = read("a: 1\na: 2\n---\nb: 1\n---\nc: 1\nc: 2\n");
        assert_eq!((stream.nodes.len(), stream.faults.len()), (1, 2));
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let value = one("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nagain: *b\n");
        assert_eq!(value["use"], json!({"x": 1, "y": 3}));
        assert_eq!(value["again"], json!({"x": 1, "y": 2}));
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for level in 1..30 {
            let previous = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![previous; 9].join(", ")
            ));
        }
        assert!(refused(&bomb).reason.contains("aliases"));

        let long = "x".repeat(100_000);
        let wide = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 1000].join(", "));
        assert!(refused(&wide).reason.contains("aliases"));
        assert!(refused("a: &a [*a]\n").reason.contains("alias"));
    }

    #[test]
    fn depth_bombs_are_refused() {
        refused(&"[".repeat(100_000));
        refused(&"{a: ".repeat(100_000));
        let mut block = String::new();
        for level in 0..2000 {
            block.push_str(&" ".repeat(level));
            block.push_str("a:\n");
        }
        refused(&block);
    }

    #[test]
    fn unknown_tags_are_refused() {
        assert!(refused("a: !exec rm\n").reason.contains("!exec"));
    }
}
