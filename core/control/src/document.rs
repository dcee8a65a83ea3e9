//! A manifest document: its value, and where in the text each field stands.
//!
//! Owns the split of a file into objects: several documents, and `List` kinds unfolded into their
//! items. Refuses to know what the objects mean; that is `wayline-model`'s.

use serde_json::Value;

use crate::yaml::{self, Node};

/// How deep lists of lists are unfolded.
const MAX_LIST_DEPTH: usize = 4;

/// One object as it stands in a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The object.
    pub value: Value,
    lines: Lines,
}

/// One place in a file that keeps a document from being read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Line, counted from 1.
    pub line: u32,
    /// Column, counted from 1.
    pub column: u32,
    /// What is wrong.
    pub reason: String,
    /// What the author can do.
    pub remedy: Option<&'static str>,
}

/// What one file holds.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The objects that could be read, in the order of the text.
    pub documents: Vec<Document>,
    /// Why others could not.
    pub faults: Vec<Fault>,
}

impl Document {
    /// The line the object begins on.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.lines.line
    }

    /// The line of a field such as `spec.rules[0].matches[1].path.value`; of its nearest ancestor
    /// that exists when the field itself does not.
    #[must_use]
    pub fn line_of(&self, field: &str) -> u32 {
        self.lines.find(field)
    }
}

/// Reads every document of a YAML or JSON text. Documents that cannot be read become faults and
/// leave the others alone.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let yaml::Stream { nodes, faults } = yaml::read(text);
    let mut parsed = Parsed {
        documents: Vec::with_capacity(nodes.len()),
        faults,
    };
    for node in nodes {
        unfold(node, MAX_LIST_DEPTH, &mut parsed);
    }
    parsed
}

/// Adds an object, or the items of a list of objects.
fn unfold(node: Node, depth: usize, parsed: &mut Parsed) {
    let Node { mut value, lines } = node;
    if value.is_null() {
        return;
    }
    let (Some(kind), Some(api_version)) = (text(&value, "kind"), text(&value, "apiVersion")) else {
        parsed.faults.push(Fault {
            line: lines.line,
            column: 1,
            reason: "this document is not a Kubernetes object: it needs `apiVersion` and `kind`"
                .to_owned(),
            remedy: Some("add the two fields, or move the file out of the folder"),
        });
        return;
    };

    let is_list = kind.ends_with("List") && value.get("items").is_some_and(Value::is_array);
    if !is_list {
        let mut document = Document { value, lines };
        embedded_mesh_config(&mut document, &mut parsed.faults);
        parsed.documents.push(document);
        return;
    }
    if depth == 0 {
        parsed.faults.push(Fault {
            line: lines.line,
            column: 1,
            reason: "lists within lists are nested too deeply".to_owned(),
            remedy: Some("put the objects into one list"),
        });
        return;
    }

    // `ServiceList` implies the kind of its items; a plain `List` does not.
    let item_kind = kind.trim_end_matches("List").to_owned();
    let api_version = api_version.to_owned();
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

/// MeshConfig is YAML inside a string. It is read here, so that the model sees JSON only and so that
/// findings in it carry lines.
fn embedded_mesh_config(document: &mut Document, faults: &mut Vec<Fault>) {
    if text(&document.value, "kind") != Some("ConfigMap") {
        return;
    }
    let Some(Value::String(mesh)) = document.value.pointer_mut("/data/mesh") else {
        return;
    };
    // A block scalar's text begins on the line after its key.
    let shift = document.lines.find("data.mesh");
    let yaml::Stream {
        mut nodes,
        faults: inner,
    } = yaml::read(mesh);
    if let Some(fault) = inner.into_iter().next() {
        // Left as it is: the model refuses the text and keeps what it had.
        faults.push(Fault {
            line: fault.line + shift,
            reason: format!("MeshConfig in data.mesh: {}", fault.reason),
            ..fault
        });
        return;
    }
    let Some(node) = nodes.pop() else { return };
    *mesh = node.value.to_string();
    document.lines.graft(&["data", "mesh"], node.lines, shift);
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
    fn what_is_no_object_is_named_and_harms_nothing_else() {
        let parsed =
            parse("just: data\n---\napiVersion: v1\nkind: Namespace\n---\n---\n# nothing\n");
        assert_eq!(parsed.documents.len(), 1);
        assert_eq!(parsed.faults.len(), 1);
        assert_eq!(parsed.faults[0].line, 1);
    }

    #[test]
    fn mesh_config_becomes_json_with_lines_of_its_own() {
        let parsed = parse(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    trustDomain: td\n    defaultConfig:\n      tracing:\n        sampling: 5\n",
        );
        let document = &parsed.documents[0];
        let mesh: Value =
            serde_json::from_str(document.value["data"]["mesh"].as_str().unwrap()).unwrap();
        assert_eq!(mesh["defaultConfig"]["tracing"]["sampling"], 5);
        assert_eq!(
            document.line_of("data.mesh.defaultConfig.tracing.sampling"),
            9
        );
    }
}
