//! From files to the objects they describe.
//!
//! Owns which document of which file speaks for an object, what stays in force while a file cannot
//! be read in full, and on which line a finding's field stands. Refuses to know what is valid: the
//! model reads each document.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wayline_model::resource::{Content, Origin, Parsed, parse};
use wayline_model::{Finding, ObjectRef, Resources};

use super::document::{self, Document, Fault};
use super::scan::{Change, shown};
use crate::live::LiveObjects;

/// The objects of all files.
#[derive(Debug)]
pub(crate) struct Objects {
    /// In the order in which they were named to us.
    roots: Vec<PathBuf>,
    /// In the order in which the first of two documents for one object counts: as their roots were
    /// named, then by path. By path alone, where a folder lies would decide.
    files: BTreeMap<(usize, PathBuf), FileObjects>,
    resources: Resources,
    /// How many documents describe an object, and the place of the first of them. Keyed as findings
    /// name objects.
    places: HashMap<String, Place>,
    /// The same objects as they were written.
    live: LiveObjects,
}

#[derive(Debug, Default)]
struct FileObjects {
    name: Option<Arc<str>>,
    /// Each document as the model read it, and where its fields stand.
    documents: Vec<(Parsed, Option<Arc<Document>>)>,
    /// Objects that were here before and may still be, hidden in a part that cannot be read.
    hidden: HashSet<ObjectRef>,
}

#[derive(Debug)]
struct Place {
    claims: usize,
    file: Arc<str>,
    document: Option<Arc<Document>>,
}

impl Objects {
    pub(crate) fn new(roots: Vec<PathBuf>) -> Self {
        Self {
            roots,
            files: BTreeMap::new(),
            resources: Resources::default(),
            places: HashMap::new(),
            live: LiveObjects::default(),
        }
    }

    /// What is in force.
    pub(crate) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// What is in force, as it was written.
    pub(crate) fn live(&self) -> &LiveObjects {
        &self.live
    }

    /// How many files were read.
    pub(crate) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Takes what changed in the files. Tells whether that changed anything, findings included.
    pub(crate) fn apply(&mut self, changes: Vec<(PathBuf, Change)>) -> bool {
        let mut changed = false;
        let mut in_place = true;
        for (path, change) in changes {
            let below = |root: &PathBuf| path.starts_with(root);
            let root = self.roots.iter().position(below).unwrap_or_default();
            let key = (root, path);
            match change {
                Change::Gone => {
                    in_place = false;
                    self.files.remove(&key);
                }
                Change::Read(parsed) => {
                    let known = self.files.remove(&key).unwrap_or_default();
                    let file = FileObjects::read(&key.1, parsed, &known);
                    if in_place && self.describe_same(&known, &file) {
                        changed |= self.update(&file);
                    } else {
                        in_place = false;
                    }
                    self.files.insert(key, file);
                }
            }
        }
        if !in_place {
            changed |= self.replace();
        }
        changed
    }

    /// Adds file and line to a finding that names an object.
    pub(crate) fn locate(&self, finding: Finding) -> Finding {
        if finding.line.is_some() {
            return finding;
        }
        let Some(place) = finding.object.as_deref().and_then(|it| self.places.get(it)) else {
            return finding;
        };
        let line = place.document.as_ref().map(|document| {
            finding
                .field
                .as_deref()
                .map_or_else(|| document.line(), |field| document.line_of(field))
        });
        finding.at(Arc::clone(&place.file), line)
    }

    /// Whether a file describes the same objects as before, each alone: the common edit, which
    /// costs what it touches.
    fn describe_same(&self, before: &FileObjects, after: &FileObjects) -> bool {
        let plain = |file: &FileObjects| {
            file.hidden.is_empty()
                && file.documents.iter().all(|(parsed, _)| {
                    parsed
                        .object
                        .as_ref()
                        .is_some_and(|object| self.is_alone(object))
                })
        };
        before.documents.len() == after.documents.len()
            && plain(before)
            && plain(after)
            && before
                .documents
                .iter()
                .zip(&after.documents)
                .all(|((a, _), (b, _))| a.object == b.object)
    }

    fn is_alone(&self, object: &ObjectRef) -> bool {
        self.places
            .get(&object.to_string())
            .is_some_and(|place| place.claims == 1)
    }

    fn update(&mut self, file: &FileObjects) -> bool {
        let mut changed = false;
        for (parsed, document) in &file.documents {
            changed |= self.resources.upsert(parsed.clone());
            self.live.update(parsed, document.as_ref());
            if let Some(object) = &parsed.object
                && let Some(place) = self.places.get_mut(&object.to_string())
            {
                place.document.clone_from(document);
            }
        }
        changed
    }

    fn replace(&mut self) -> bool {
        let hidden: HashSet<ObjectRef> = self
            .files
            .values()
            .flat_map(|file| file.hidden.iter().cloned())
            .collect();
        let documents = self
            .files
            .values()
            .flat_map(|file| file.documents.iter().map(|(parsed, _)| parsed.clone()));
        let changed = self.resources.replace(documents, &hidden);
        let documents = self.files.values().flat_map(|file| &file.documents);
        let documents = documents.map(|(parsed, document)| (parsed, document.as_ref()));
        self.live.replace(documents, &hidden);

        self.places.clear();
        for file in self.files.values() {
            for (parsed, document) in &file.documents {
                let (Some(object), Some(name)) = (&parsed.object, &file.name) else {
                    continue;
                };
                self.places
                    .entry(object.to_string())
                    .or_insert_with(|| Place {
                        claims: 0,
                        file: Arc::clone(name),
                        document: document.clone(),
                    })
                    .claims += 1;
            }
        }
        changed
    }
}

impl FileObjects {
    fn read(path: &Path, parsed: document::Parsed, before: &Self) -> Self {
        let name = shown(path);
        let mut file = Self {
            name: Some(Arc::clone(&name)),
            ..Self::default()
        };
        for document in parsed.documents {
            let mut parsed = parse(&document.value, &document::parse_value);
            let line = document.line();
            parsed.origin = Some(Origin {
                file: Arc::clone(&name),
                line: Some(line),
            });
            file.documents.push((parsed, Some(Arc::new(document))));
        }
        let mut any_nameless = file
            .documents
            .iter()
            .any(|(parsed, _)| parsed.object.is_none() && !parsed.findings.is_empty());
        for fault in parsed.faults {
            any_nameless |= fault.object.is_none();
            file.documents.push((fault_document(&name, fault), None));
        }
        if any_nameless {
            let present: HashSet<&ObjectRef> = file.objects().collect();
            file.hidden = before
                .objects()
                .chain(&before.hidden)
                .filter(|object| !present.contains(object))
                .cloned()
                .collect();
        }
        file
    }

    fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.documents
            .iter()
            .filter_map(|(parsed, _)| parsed.object.as_ref())
    }
}

/// A document that is no more than what is wrong with it.
fn fault_document(file: &Arc<str>, fault: Fault) -> Parsed {
    let kept = match &fault.object {
        Some(_) => "the object's last good version stays in force",
        None => "what stood here before stays in force",
    };
    let reason = format!("column {}: {}; {kept}", fault.column, fault.reason);
    let mut finding = Finding::error(reason).at(Arc::clone(file), Some(fault.line));
    if let Some(remedy) = fault.remedy {
        finding = finding.remedy(remedy);
    }
    let mut parsed = match fault.object {
        Some(object) => Parsed::unreadable(object, finding),
        None => Parsed {
            object: None,
            origin: None,
            content: Content::Skipped,
            findings: vec![finding],
        },
    };
    parsed.origin = Some(Origin {
        file: Arc::clone(file),
        line: Some(fault.line),
    });
    parsed
}
