//! The objects in force as they were written, for those who take them elsewhere.
//!
//! Of each object the last version that could be served, else the only one there ever was: left out, a
//! policy that is broken and so denies its target would be one that admits. It costs one pointer per
//! object, and nothing at publication; only who asks pays for copies.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use wayline_model::ObjectRef;
use wayline_model::resource::{Content, Parsed};

use crate::folder::document::Document;

/// The objects in force, shared with whoever asks for them.
#[derive(Clone, Debug, Default)]
pub struct LiveObjects(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<ObjectRef, Version>,
    /// Known to exist, though no version could ever be read.
    unreadable: BTreeSet<ObjectRef>,
}

#[derive(Clone, Debug)]
struct Version {
    document: Arc<Document>,
    is_good: bool,
}

impl LiveObjects {
    /// All of them, by kind, namespace and name. Costs a copy of each.
    #[must_use]
    pub fn all(&self) -> Vec<Value> {
        let documents: Vec<Arc<Document>> = {
            let kept = self.lock();
            let versions = kept.objects.values();
            versions.map(|it| Arc::clone(&it.document)).collect()
        };
        documents.iter().map(|it| it.value.clone()).collect()
    }

    /// Objects that are known to exist and of which no version can be had, as `Kind namespace/name`.
    #[must_use]
    pub fn unreadable(&self) -> Vec<String> {
        let kept = self.lock();
        kept.unreadable.iter().map(ToString::to_string).collect()
    }

    /// Takes the newest document of one object.
    pub(crate) fn update(&self, parsed: &Parsed, document: Option<&Arc<Document>>) {
        let mut kept = self.lock();
        if let Some(object) = &parsed.object {
            let before = kept.objects.remove(object);
            kept.unreadable.remove(object);
            kept.take(object, before, parsed, document);
        }
    }

    /// Takes everything there is; of several documents for one object the first counts. Of the objects
    /// in `hidden` what was known stays.
    pub(crate) fn replace<'a>(
        &self,
        documents: impl Iterator<Item = (&'a Parsed, Option<&'a Arc<Document>>)>,
        hidden: &HashSet<ObjectRef>,
    ) {
        let mut kept = self.lock();
        let mut before = std::mem::take(&mut *kept);
        let mut listed: HashSet<&ObjectRef> = HashSet::new();
        for (parsed, document) in documents {
            let Some(object) = &parsed.object else {
                continue;
            };
            // A document of no consequence is no rival.
            if (parsed.content == Content::Skipped && !is_secret(object)) || !listed.insert(object)
            {
                continue;
            }
            let known = before.objects.remove(object);
            kept.take(object, known, parsed, document);
        }
        let still = before.objects.into_iter();
        kept.objects
            .extend(still.filter(|(object, _)| hidden.contains(object)));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(
        &mut self,
        object: &ObjectRef,
        before: Option<Version>,
        parsed: &Parsed,
        document: Option<&Arc<Document>>,
    ) {
        let is_good = match parsed.content {
            Content::Valid(_) | Content::Later(_) => true,
            Content::Broken(_) => false,
            Content::Skipped if is_secret(object) => true,
            Content::Skipped => return,
        };
        let new = document.map(|document| Version {
            document: Arc::clone(document),
            is_good,
        });
        let version = match (before, new) {
            (Some(before), _) if before.is_good && !is_good => Some(before),
            (before, new) => new.or(before),
        };
        match version {
            Some(version) => {
                self.objects.insert(object.clone(), version);
            }
            None => {
                self.unreadable.insert(object.clone());
            }
        }
    }
}

/// Secrets are no business of the model's yet; a folder without them would not be the same.
fn is_secret(object: &ObjectRef) -> bool {
    &*object.kind == "Secret"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::document;
    use wayline_model::resource::parse;

    fn read(text: &str) -> Vec<(Parsed, Arc<Document>)> {
        let documents = document::parse(text).documents;
        let both = documents.into_iter().map(|it| {
            let parsed = parse(&it.value, &document::parse_value);
            (parsed, Arc::new(it))
        });
        both.collect()
    }

    fn replace(live: &LiveObjects, text: &str) {
        let documents = read(text);
        let documents = documents.iter().map(|(parsed, it)| (parsed, Some(it)));
        live.replace(documents, &HashSet::new());
    }

    fn names(live: &LiveObjects) -> Vec<String> {
        let all = live.all();
        let name = |it: &Value| {
            let mark = it["metadata"]["labels"]["v"].as_str().unwrap_or("-");
            format!("{} {mark}", it["metadata"]["name"].as_str().unwrap())
        };
        all.iter().map(name).collect()
    }

    const GOOD: &str = "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {v: one}}, spec: {ports: [{port: 1}]}}";
    const BAD: &str =
        "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {v: two}}, spec: {ports: x}}";

    #[test]
    fn the_last_good_version_is_kept_and_a_broken_one_where_there_is_none() {
        let live = LiveObjects::default();
        replace(&live, BAD);
        assert_eq!(names(&live), ["a two"]);
        replace(&live, GOOD);
        assert_eq!(names(&live), ["a one"]);
        replace(&live, BAD);
        assert_eq!(names(&live), ["a one"]);
        for (parsed, document) in read(BAD) {
            live.update(&parsed, Some(&document));
        }
        assert_eq!(names(&live), ["a one"]);
        replace(&live, "");
        assert!(names(&live).is_empty());
        replace(
            &live,
            &format!("{GOOD}\n---\n{}", GOOD.replace("one", "twice")),
        );
        assert_eq!(names(&live), ["a one"]);
    }

    #[test]
    fn what_is_hidden_stays_and_what_was_never_read_is_named() {
        let live = LiveObjects::default();
        replace(&live, GOOD);
        let object = ObjectRef::new("Service", "default", "a");
        live.replace(std::iter::empty(), &HashSet::from([object.clone()]));
        assert_eq!(names(&live), ["a one"]);

        let live = LiveObjects::default();
        let fault = wayline_model::Finding::error("no YAML");
        live.update(&Parsed::unreadable(object, fault), None);
        assert_eq!(live.unreadable(), ["Service default/a"]);
        replace(&live, GOOD);
        assert!(live.unreadable().is_empty());
    }

    #[test]
    fn secrets_are_kept_and_other_kinds_of_no_consequence_are_not() {
        let live = LiveObjects::default();
        replace(
            &live,
            "{apiVersion: v1, kind: Secret, metadata: {name: s}}\n---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}",
        );
        assert_eq!(names(&live), ["s -"]);
    }
}
