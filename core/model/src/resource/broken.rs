//! What can still be told of objects that can not be read, and what is said about them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::http_route::{HttpRouteMatch, ParentRef};
use super::read::{self, ReadError};
use super::{Attachment, Content, Known, Metadata, Parsed, Restriction, extension};
use crate::finding::Finding;
use crate::names::ObjectRef;

/// What can still be told of an object that can not be read. It counts only while the object never
/// was valid.
#[derive(Clone, Debug, PartialEq)]
pub enum Broken {
    /// A policy: its target is denied.
    Policy(Restriction),
    /// A route: what it matched answers 500.
    Route(BrokenRoute),
    /// A plugin: its target is denied, unless it says that traffic may pass without it.
    Extension(Option<Restriction>),
    /// MeshConfig: Istio's defaults, but the strictest path normalisation.
    MeshConfig,
    /// Anything else is as if it were not there.
    Other,
}

/// What is left of an HTTPRoute that can not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokenRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its parents; empty where they can not be read.
    pub parent_refs: Vec<ParentRef>,
    /// Its hostnames.
    pub hostnames: Vec<String>,
    /// The matches of all its rules; a single default one where any can not be read.
    pub matches: Vec<HttpRouteMatch>,
    /// Why it can not be read.
    pub reason: Arc<str>,
    /// Whether it reads well, but has filters that exclude each other.
    pub incompatible_filters: bool,
}

/// The document of a known kind that can not be read, with what is done about it.
pub(super) fn broken(
    object: ObjectRef,
    document: &Value,
    known: Known,
    error: ReadError,
) -> Parsed {
    let reason: Arc<str> = error.reason.as_str().into();
    let (content, consequence) = match known {
        Known::AuthorizationPolicy | Known::RequestAuthentication => (
            Broken::Policy(Restriction {
                object: object.clone(),
                attachment: Attachment::salvage_policy(document, &[]),
                reason: format!("{object} is not valid: {reason}").into(),
            }),
            "its last good version stays in force, and while there is none its target is denied",
        ),
        Known::HttpRoute => (
            Broken::Route(BrokenRoute::salvage(&object, document, reason)),
            "its last good version stays in force, and while there is none what it matches answers 500",
        ),
        Known::WasmPlugin | Known::TrafficExtension => {
            let broken = Broken::extension(&object, document, &reason);
            let consequence = match &broken {
                Broken::Extension(None) => {
                    "its last good version stays in force, and while there is none requests pass \
                     without it, as its failStrategy says"
                }
                _ => {
                    "its last good version stays in force, and while there is none its target is denied"
                }
            };
            (broken, consequence)
        }
        Known::ConfigMap => (
            Broken::MeshConfig,
            "the last good settings stay in force, and while there are none Istio's defaults with the strictest path normalisation",
        ),
        _ => (
            Broken::Other,
            "its last good version stays in force, if there is one",
        ),
    };
    let mut finding = Finding::error(format!("{}; {consequence}", error.reason)).on(&object);
    if !error.path.is_empty() {
        finding = finding.field(error.path);
    }
    Parsed::new(Some(object), Content::Broken(content), vec![finding])
}

impl Broken {
    /// What stands for a plugin that can not be read.
    pub(super) fn extension(object: &ObjectRef, document: &Value, reason: &str) -> Self {
        if extension::fails_open(document, &*object.kind == "TrafficExtension") {
            return Self::Extension(None);
        }
        // Their content may speak of targets as it likes.
        let free = ["pluginConfig", "vmConfig", "wasm", "lua"];
        Self::Extension(Some(Restriction {
            object: object.clone(),
            attachment: Attachment::salvage_policy(document, &free),
            reason: format!("{object} is not valid: {reason}").into(),
        }))
    }
}

impl BrokenRoute {
    fn salvage(object: &ObjectRef, document: &Value, reason: Arc<str>) -> Self {
        let spec = &document["spec"];
        let mut metadata = read::read::<Metadata>(&document["metadata"])
            .map(|read| read.value)
            .unwrap_or_default();
        metadata.name = object.name.to_string();
        metadata.namespace = object.namespace.to_string();
        let parents = spec["parentRefs"].as_array();
        let matches = || -> Option<Vec<HttpRouteMatch>> {
            let mut all = Vec::new();
            for rule in spec["rules"].as_array()? {
                match &rule["matches"] {
                    Value::Null => all.push(HttpRouteMatch::default()),
                    written => {
                        let read = read::read::<Vec<HttpRouteMatch>>(written).ok()?;
                        if !read.unknown.is_empty() {
                            return None;
                        }
                        all.extend(read.value);
                    }
                }
            }
            Some(all)
        };
        Self {
            metadata,
            parent_refs: parents
                .into_iter()
                .flatten()
                .filter_map(|parent| ParentRef::deserialize(parent).ok())
                .collect(),
            hostnames: Vec::deserialize(&spec["hostnames"]).unwrap_or_default(),
            matches: matches()
                .filter(|matches| !matches.is_empty())
                .unwrap_or_else(|| vec![HttpRouteMatch::default()]),
            reason,
            incompatible_filters: false,
        }
    }
}
