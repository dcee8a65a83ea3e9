//! A manifest document: its value, and where in the text each field stands.
//!
//! Owns the split of a file into objects: several documents, and `List` kinds unfolded into their
//! items. Refuses to know what the objects mean; that is `wayline-model`'s.

use serde_json::Value;
use wayline_model::ObjectRef;

use super::yaml::{self, Node};

/// How deep lists of lists are unfolded.
const MAX_LIST_DEPTH: usize = 4;

/// One object as it stands in a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The object.
    pub(crate) value: Value,
    lines: Lines,
}

/// One place in a file that keeps a document from being read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    /// Line, counted from 1.
    pub(crate) line: u32,
    /// Column, counted from 1.
    pub(crate) column: u32,
    /// What is wrong.
    pub(crate) reason: String,
    /// What the author can do.
    pub(crate) remedy: Option<&'static str>,
    /// What the document seems to describe, told from its lines as far as they can be read.
    pub(crate) object: Option<ObjectRef>,
}

/// What one file holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parsed {
    /// The objects that could be read, in the order of the text.
    pub(crate) documents: Vec<Document>,
    /// Why others could not.
    pub(crate) faults: Vec<Fault>,
}

impl Document {
    /// The line the object begins on.
    pub(crate) fn line(&self) -> u32 {
        self.lines.line
    }

    /// The line of a field such as `spec.rules[0].matches[1].path.value`; of its nearest ancestor
    /// that exists when the field itself does not.
    pub(crate) fn line_of(&self, field: &str) -> u32 {
        self.lines.find(field)
    }

    /// MeshConfig is YAML inside a string: its fields get lines of their own.
    fn find_mesh_config(&mut self) {
        let Some(mesh) = self.value.pointer("/data/mesh").and_then(Value::as_str) else {
            return;
        };
        // A block scalar's text begins on the line after its key.
        let shift = self.lines.find("data.mesh");
        if let Some(node) = yaml::read(mesh).nodes.pop() {
            self.lines.graft(&["data", "mesh"], node.lines, shift);
        }
    }
}

/// Reads every document of a YAML or JSON text. Documents that cannot be read become faults and
/// leave the others alone.
pub(crate) fn parse(text: &str) -> Parsed {
    let yaml::Stream { nodes, mut faults } = yaml::read(text);
    let is_json = text.trim_start().starts_with('{');
    for fault in &mut faults {
        fault.object = guess_object(text, fault.line);
        if is_json && fault.reason.contains("<document start>") {
            fault.remedy = Some("put `---` between JSON objects, or all of them into one List");
        }
    }
    let mut parsed = Parsed {
        documents: Vec::with_capacity(nodes.len()),
        faults,
    };
    for node in nodes {
        unfold(node, MAX_LIST_DEPTH, &mut parsed);
    }
    parsed
}

/// Reads a text that holds one value, such as MeshConfig within its ConfigMap; `null` where it holds none.
///
/// # Errors
/// Where and why it can not be read, or that it holds more.
pub fn parse_value(text: &str) -> Result<Value, String> {
    let yaml::Stream { mut nodes, faults } = yaml::read(text);
    if let Some(fault) = faults.first() {
        return Err(format!(
            "line {} of the text, column {}: {}",
            fault.line, fault.column, fault.reason
        ));
    }
    match nodes.len() {
        0 => Ok(Value::Null),
        1 => Ok(nodes.remove(0).value),
        more => Err(format!("expected one document, found {more}")),
    }
}

/// Adds an object, or the items of a list of objects.
fn unfold(node: Node, depth: usize, parsed: &mut Parsed) {
    let Node { mut value, lines } = node;
    if value.is_null() {
        return;
    }
    let kind = text(&value, "kind").unwrap_or_default();
    let is_list = kind.ends_with("List") && value.get("items").is_some_and(Value::is_array);
    if !is_list {
        let mut document = Document { value, lines };
        document.find_mesh_config();
        parsed.documents.push(document);
        return;
    }
    if depth == 0 {
        parsed.faults.push(Fault {
            line: lines.line,
            column: 1,
            reason: "lists within lists are nested too deeply".to_owned(),
            remedy: Some("put the objects into one list"),
            object: None,
        });
        return;
    }

    // `ServiceList` implies the kind of its items; a plain `List` does not.
    let item_kind = kind.trim_end_matches("List").to_owned();
    let api_version = text(&value, "apiVersion").unwrap_or_default().to_owned();
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let mut places = lines.into_items_of("items").into_iter();
    for mut item in items {
        let lines = places.next().unwrap_or_default();
        if let (Some(fields), false) = (item.as_object_mut(), item_kind.is_empty()) {
            fields
                .entry("kind")
                .or_insert_with(|| item_kind.clone().into());
            fields
                .entry("apiVersion")
                .or_insert_with(|| api_version.clone().into());
        }
        unfold(Node { value: item, lines }, depth - 1, parsed);
    }
}

/// The object a broken document seems to describe: `kind`, `metadata.name` and
/// `metadata.namespace` as they stand in block style on lines of their own.
fn guess_object(text: &str, line: u32) -> Option<ObjectRef> {
    let lines: Vec<&str> = text.lines().collect();
    let at = (line as usize)
        .saturating_sub(1)
        .min(lines.len().checked_sub(1)?);
    let is_separator = |line: &&str| line.starts_with("---");
    // A fault found at the separator itself belongs to the document before it.
    let start = lines[..at]
        .iter()
        .rposition(is_separator)
        .map_or(0, |separator| separator + 1);
    let end = lines[start..]
        .iter()
        .position(is_separator)
        .map_or(lines.len(), |length| start + length);

    let (mut kind, mut name, mut namespace) = (None, None, "default");
    let mut in_metadata = false;
    let mut indent = None;
    for line in &lines[start..end] {
        let body = line.trim_start();
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        let Some((key, value)) = body.split_once(':') else {
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.trim().trim_matches(['"', '\'']);
        let depth = line.len() - body.len();
        if depth == 0 {
            in_metadata = key == "metadata";
            if key == "kind" {
                kind = Some(value);
            }
        } else if in_metadata && depth == *indent.get_or_insert(depth) {
            match key {
                "name" => name = Some(value),
                "namespace" => namespace = value,
                _ => {}
            }
        }
    }
    let is_name = |text: &&str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    let kind = kind.filter(is_name)?;
    let namespace = match kind {
        "Namespace" | "GatewayClass" => "",
        _ => namespace,
    };
    Some(ObjectRef::new(kind, namespace, name.filter(is_name)?))
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// The lines of a value and of everything in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) line: u32,
    pub(crate) children: Children,
}

/// What stands below a value.
#[derive(Clone, Debug, Default)]
pub(crate) enum Children {
    #[default]
    None,
    Fields(Vec<(Box<str>, Lines)>),
    Items(Vec<Lines>),
}

impl Lines {
    /// Follows a path. Keys may hold dots themselves (`metadata.labels.istio.io/rev`), so the
    /// longest key that fits wins.
    fn find(&self, path: &str) -> u32 {
        let mut here = self;
        let mut rest = path;
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let next = match &here.children {
                Children::Fields(fields) => fields
                    .iter()
                    .filter_map(|(key, lines)| {
                        let after = rest.strip_prefix(&**key)?;
                        let ends = after.is_empty() || after.starts_with(['.', '[']);
                        ends.then_some((key.len(), lines, after))
                    })
                    .max_by_key(|(length, ..)| *length)
                    .map(|(_, lines, after)| (lines, after)),
                Children::Items(items) => rest
                    .strip_prefix('[')
                    .and_then(|rest| rest.split_once(']'))
                    .and_then(|(index, after)| {
                        let index: usize = index.parse().ok()?;
                        Some((items.get(index)?, after))
                    }),
                Children::None => None,
            };
            let Some((lines, after)) = next else {
                return here.line;
            };
            here = lines;
            rest = after;
        }
    }

    fn into_items_of(self, key: &str) -> Vec<Self> {
        let Children::Fields(fields) = self.children else {
            return Vec::new();
        };
        fields
            .into_iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, lines)| match lines.children {
                Children::Items(items) => items,
                Children::None | Children::Fields(_) => Vec::new(),
            })
            .unwrap_or_default()
    }

    /// Hangs the lines of an embedded text below a field.
    fn graft(&mut self, path: &[&str], mut embedded: Self, shift: u32) {
        let Some((first, rest)) = path.split_first() else {
            embedded.shift(shift);
            self.children = embedded.children;
            return;
        };
        if let Children::Fields(fields) = &mut self.children
            && let Some((_, child)) = fields.iter_mut().find(|(key, _)| &**key == *first)
        {
            child.graft(rest, embedded, shift);
        }
    }

    fn shift(&mut self, by: u32) {
        self.line += by;
        match &mut self.children {
            Children::None => {}
            Children::Fields(fields) => fields.iter_mut().for_each(|(_, lines)| lines.shift(by)),
            Children::Items(items) => items.iter_mut().for_each(|lines| lines.shift(by)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_on_their_lines() {
        let parsed = parse(
            "# a comment\napiVersion: v1\nkind: Service\nmetadata:\n  labels:\n    istio.io/use-waypoint: w\n    istio: x\nspec:\n  ports:\n    - port: 80\n    - name: http\n      port: 81\n",
        );
        let document = &parsed.documents[0];
        assert_eq!(document.line(), 2);
        assert_eq!(document.line_of("metadata.labels.istio.io/use-waypoint"), 6);
        assert_eq!(document.line_of("metadata.labels.istio"), 7);
        assert_eq!(document.line_of("spec.ports[1].port"), 12);
        assert_eq!(document.line_of("spec.ports[1].protocol"), 11);
        assert_eq!(document.line_of("spec.ports[9]"), 9);
    }

    #[test]
    fn lists_are_unfolded_and_keep_their_lines() {
        let parsed = parse(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- apiVersion: v1\n  kind: ServiceList\n  items:\n  - metadata:\n      name: b\n",
        );
        assert!(parsed.faults.is_empty(), "{:?}", parsed.faults);
        let kinds: Vec<_> = parsed
            .documents
            .iter()
            .map(|document| (text(&document.value, "kind").unwrap(), document.line()))
            .collect();
        assert_eq!(kinds, [("Namespace", 4), ("Service", 10)]);
        assert_eq!(parsed.documents[1].line_of("metadata.name"), 11);
    }

    #[test]
    fn a_broken_document_is_told_by_its_lines() {
        let parsed = parse(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy # deny\nmetadata:\n  name: \"p\"\n  labels:\n    name: x\n  namespace: ns\nspec:\n  rules: [\n---\nkind: Oops\nfoo: [\n",
        );
        assert_eq!(parsed.documents.len(), 1);
        let objects: Vec<_> = parsed.faults.iter().map(|f| f.object.clone()).collect();
        let policy = ObjectRef::new("AuthorizationPolicy", "ns", "p");
        assert_eq!(objects, [Some(policy), None]);
    }

    #[test]
    fn mesh_config_has_lines_of_its_own() {
        let parsed = parse(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    trustDomain: td\n    defaultConfig:\n      tracing:\n        sampling: 5\n",
        );
        let document = &parsed.documents[0];
        assert_eq!(
            document.line_of("data.mesh.defaultConfig.tracing.sampling"),
            9
        );
    }

    #[test]
    fn one_value_is_read_or_refused_with_its_place() {
        assert_eq!(parse_value("a: [1]").unwrap()["a"][0], 1);
        assert_eq!(parse_value("# nothing").unwrap(), Value::Null);
        assert!(parse_value("a: 1\nb: [").unwrap_err().contains("line"));
        assert!(parse_value("a: 1\n---\nb: 2").is_err());
    }
}
