//! The objects in force: of each its last good version, with the revision at which it changed.
//!
//! A source either hands over everything it has ([`Resources::replace`], a folder) or single changes
//! ([`Resources::upsert`], [`Resources::remove`], a watch). Both end in the same state. An object that
//! turns invalid keeps its last good version; one that never was valid is kept as what can be told of
//! it, so that a broken policy still denies and a broken route still answers 500.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::{
    AuthorizationPolicy, Broken, BrokenRoute, Content, EndpointSlice, Extension, Gateway,
    GatewayClass, HttpRoute, Namespace, Node, Origin, Parsed, PeerAuthentication, Pod,
    ReferenceGrant, RegistryCredentials, RequestAuthentication, Resource, Restriction, Service,
    ServiceAccount,
};

/// All objects in force.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    revision: u64,
    pub(crate) namespaces: Shelf<Namespace>,
    pub(crate) services: Shelf<Service>,
    pub(crate) slices: Shelf<EndpointSlice>,
    pub(crate) pods: Shelf<Pod>,
    pub(crate) nodes: Shelf<Node>,
    pub(crate) accounts: Shelf<ServiceAccount>,
    pub(crate) mesh: Shelf<MeshSettings>,
    pub(crate) classes: Shelf<GatewayClass>,
    pub(crate) gateways: Shelf<Gateway>,
    pub(crate) routes: Shelf<HttpRoute>,
    pub(crate) grants: Shelf<ReferenceGrant>,
    pub(crate) policies: Shelf<AuthorizationPolicy>,
    /// By namespace and `Kind/name`.
    pub(crate) extensions: Shelf<Extension>,
    pub(crate) secrets: Shelf<RegistryCredentials>,
    pub(crate) authentications: Shelf<RequestAuthentication>,
    pub(crate) peers: Shelf<PeerAuthentication>,
    /// What can not be enforced as written, by namespace and `Kind/name`.
    pub(crate) restrictions: Shelf<Restriction>,
    /// Routes that never were valid.
    pub(crate) broken_routes: Shelf<BrokenRoute>,
    documents: BTreeMap<ObjectRef, Document>,
    /// Findings of documents that name no object, and of duplicates.
    loose: Vec<Finding>,
}

/// What is known of the document that an object was last seen in.
#[derive(Clone, Debug, Default, PartialEq)]
struct Document {
    origin: Option<Origin>,
    findings: Vec<Finding>,
}

impl Resources {
    /// No objects.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes everything a source has, in the order in which the first of two documents for one object
    /// wins. Objects that are not among them are gone, but for those in `keep`: their documents are
    /// known to exist and can not be read at the moment. Tells whether anything changed.
    pub fn replace(
        &mut self,
        documents: impl IntoIterator<Item = Parsed>,
        keep: &HashSet<ObjectRef>,
    ) -> bool {
        let mut seen: HashSet<ObjectRef> = keep.clone();
        let mut listed: HashSet<ObjectRef> = HashSet::new();
        let mut loose = Vec::new();
        let mut changed = false;
        for parsed in documents {
            let Some(object) = parsed.object.clone() else {
                loose.extend(located(parsed.findings, parsed.origin.as_ref()));
                continue;
            };
            if parsed.content == Content::Skipped {
                continue;
            }
            if !listed.insert(object.clone()) {
                loose.push(self.duplicate(&object, parsed.origin.as_ref()));
                continue;
            }
            seen.insert(object);
            changed |= self.upsert(parsed);
        }
        let gone: Vec<ObjectRef> = self
            .documents
            .keys()
            .filter(|object| !seen.contains(*object))
            .cloned()
            .collect();
        for object in gone {
            changed |= self.remove(&object);
        }
        changed |= self.loose != loose;
        self.loose = loose;
        changed
    }

    /// Takes the newest document of one object. Tells whether anything changed, findings included.
    pub fn upsert(&mut self, parsed: Parsed) -> bool {
        let Some(object) = parsed.object else {
            self.loose
                .extend(located(parsed.findings, parsed.origin.as_ref()));
            return true;
        };
        let mut changed = match parsed.content {
            Content::Valid(resource) => self.put(&object, resource),
            Content::Broken(broken) => self.put_broken(&object, broken),
            Content::Later(restriction) => {
                // It is no longer what it was: a Secret of another type, say.
                let withdrawn = self.withdraw(&object);
                let restricted = match restriction {
                    Some(restriction) => self.restrict(&object, restriction),
                    None => self.unrestrict(&object),
                };
                withdrawn || restricted
            }
            Content::Skipped => return self.remove(&object),
        };
        let document = Document {
            findings: located(parsed.findings, parsed.origin.as_ref()).collect(),
            origin: parsed.origin,
        };
        if self.documents.get(&object) != Some(&document) {
            self.documents.insert(object, document);
            changed = true;
        }
        changed
    }

    /// Forgets an object. Tells whether it was there.
    pub fn remove(&mut self, object: &ObjectRef) -> bool {
        let known = self.documents.remove(object).is_some();
        let withdrawn = self.withdraw(object);
        self.unrestrict(object) || withdrawn || known
    }

    /// Takes away what is served of an object. Tells whether anything was.
    fn withdraw(&mut self, object: &ObjectRef) -> bool {
        let (namespace, name) = (&*object.namespace, &*object.name);
        let at = self.revision + 1;
        let removed = match &*object.kind {
            "Namespace" => self.namespaces.take(namespace, name, at),
            "Service" => self.services.take(namespace, name, at),
            "EndpointSlice" => self.slices.take(namespace, name, at),
            "Pod" => self.pods.take(namespace, name, at),
            "Node" => self.nodes.take(namespace, name, at),
            "ServiceAccount" => self.accounts.take(namespace, name, at),
            "ConfigMap" => self.mesh.take(namespace, name, at),
            "GatewayClass" => self.classes.take(namespace, name, at),
            "Gateway" => self.gateways.take(namespace, name, at),
            "HTTPRoute" => self.routes.take(namespace, name, at),
            "ReferenceGrant" => self.grants.take(namespace, name, at),
            "AuthorizationPolicy" => self.policies.take(namespace, name, at),
            "WasmPlugin" | "TrafficExtension" => {
                let key = shared_key(object);
                self.extensions.take(&key.namespace, &key.name, at)
            }
            "Secret" => self.secrets.take(namespace, name, at),
            "RequestAuthentication" => self.authentications.take(namespace, name, at),
            "PeerAuthentication" => self.peers.take(namespace, name, at),
            _ => false,
        };
        if removed {
            self.revision = at;
        }
        self.unroute(object) || removed
    }

    /// The objects that are known, each once, in order.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.documents.keys()
    }

    /// Where the document of an object came from.
    #[must_use]
    pub fn origin(&self, object: &ObjectRef) -> Option<&Origin> {
        self.documents.get(object)?.origin.as_ref()
    }

    /// Counts changes of what is served; the same number means the same translation.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is wrong with the documents.
    pub(crate) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.documents
            .values()
            .flat_map(|document| &document.findings)
            .chain(&self.loose)
    }

    fn put(&mut self, object: &ObjectRef, resource: Resource) -> bool {
        let at = self.revision + 1;
        let changed = match resource {
            Resource::Namespace(it) => self.namespaces.put(object, it, at),
            Resource::Service(it) => self.services.put(object, it, at),
            Resource::EndpointSlice(it) => self.slices.put(object, it, at),
            Resource::Pod(it) => self.pods.put(object, it, at),
            Resource::Node(it) => self.nodes.put(object, it, at),
            Resource::ServiceAccount(it) => self.accounts.put(object, it, at),
            Resource::MeshConfig(it) => self.mesh.put(object, it, at),
            Resource::GatewayClass(it) => self.classes.put(object, it, at),
            Resource::Gateway(it) => self.gateways.put(object, it, at),
            Resource::HttpRoute(it) => self.routes.put(object, it, at),
            Resource::ReferenceGrant(it) => self.grants.put(object, it, at),
            Resource::AuthorizationPolicy(it) => self.policies.put(object, it, at),
            Resource::Extension(it) => self.extensions.put(&shared_key(object), it, at),
            Resource::Secret(it) => self.secrets.put(object, it, at),
            Resource::RequestAuthentication(it) => self.authentications.put(object, it, at),
            Resource::PeerAuthentication(it) => self.peers.put(object, it, at),
        };
        if changed {
            self.revision = at;
        }
        let unrouted = self.unroute(object);
        self.unrestrict(object) || unrouted || changed
    }

    fn put_broken(&mut self, object: &ObjectRef, broken: Broken) -> bool {
        let (namespace, name) = (&*object.namespace, &*object.name);
        match broken {
            Broken::Policy(restriction) => {
                let known = match &*object.kind {
                    "RequestAuthentication" => self.authentications.get(namespace, name).is_some(),
                    _ => self.policies.get(namespace, name).is_some(),
                };
                !known && self.restrict(object, restriction)
            }
            Broken::Route(route) => {
                if self.routes.get(namespace, name).is_some() {
                    return false;
                }
                let at = self.revision + 1;
                let changed = self.broken_routes.put(object, Arc::new(route), at);
                self.revision += u64::from(changed);
                changed
            }
            Broken::Extension(restriction) => {
                let key = shared_key(object);
                let known = self.extensions.get(&key.namespace, &key.name);
                match restriction {
                    _ if known.is_some() => false,
                    Some(restriction) => self.restrict(object, restriction),
                    None => self.unrestrict(object),
                }
            }
            Broken::MeshConfig => {
                self.mesh.get(namespace, name).is_none()
                    && self.put(
                        object,
                        Resource::MeshConfig(Arc::new(MeshSettings::unreadable())),
                    )
            }
            Broken::Other => false,
        }
    }

    fn restrict(&mut self, object: &ObjectRef, restriction: Restriction) -> bool {
        let at = self.revision + 1;
        let changed = self
            .restrictions
            .put(&shared_key(object), Arc::new(restriction), at);
        self.revision += u64::from(changed);
        changed
    }

    fn unrestrict(&mut self, object: &ObjectRef) -> bool {
        let key = shared_key(object);
        let at = self.revision + 1;
        let changed = self.restrictions.take(&key.namespace, &key.name, at);
        self.revision += u64::from(changed);
        changed
    }

    fn unroute(&mut self, object: &ObjectRef) -> bool {
        if &*object.kind != "HTTPRoute" {
            return false;
        }
        let at = self.revision + 1;
        let changed = self.broken_routes.take(&object.namespace, &object.name, at);
        self.revision += u64::from(changed);
        changed
    }

    fn duplicate(&self, object: &ObjectRef, origin: Option<&Origin>) -> Finding {
        let first = match self.origin(object) {
            Some(Origin { file, line }) => match line {
                Some(line) => format!("{file}:{line}"),
                None => file.to_string(),
            },
            None => "another document".to_owned(),
        };
        let finding = Finding::error(format!(
            "the object is already described by {first}, which counts; this document is ignored"
        ))
        .on(object)
        .remedy("remove one of the two");
        match origin {
            Some(origin) => finding.at(Arc::clone(&origin.file), origin.line),
            None => finding,
        }
    }
}

/// Objects of several kinds share a shelf.
fn shared_key(object: &ObjectRef) -> ObjectRef {
    ObjectRef::new(
        "",
        &object.namespace,
        &format!("{}/{}", object.kind, object.name),
    )
}

/// Names the file where a finding names no object by which its caller could find it.
fn located(findings: Vec<Finding>, origin: Option<&Origin>) -> impl Iterator<Item = Finding> {
    let origin = origin.cloned();
    findings.into_iter().map(move |finding| match &origin {
        Some(origin) if finding.object.is_none() && finding.file.is_none() => {
            finding.at(Arc::clone(&origin.file), origin.line)
        }
        _ => finding,
    })
}

/// The objects of one kind, by namespace and name.
#[derive(Clone, Debug)]
pub(crate) struct Shelf<T> {
    namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Entry<T>>>,
    revision: u64,
}

/// One object with the revision at which it became what it is. Revisions are never used twice, so
/// that equal revisions mean the same content of the same object.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) revision: u64,
    pub(crate) object: Arc<T>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            revision: self.revision,
            object: Arc::clone(&self.object),
        }
    }
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            revision: 0,
        }
    }
}

impl<T> Shelf<T> {
    /// The revision of the last change of anything here.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Entry<T>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// All objects in the order of namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Entry<T>)> {
        self.namespaces.iter().flat_map(|(namespace, objects)| {
            objects
                .iter()
                .map(move |(name, entry)| (namespace, name, entry))
        })
    }

    /// The objects of one namespace.
    pub(crate) fn within(&self, namespace: &str) -> impl Iterator<Item = (&Arc<str>, &Entry<T>)> {
        self.namespaces.get(namespace).into_iter().flatten()
    }

    fn take(&mut self, namespace: &str, name: &str, at: u64) -> bool {
        let Some(objects) = self.namespaces.get_mut(namespace) else {
            return false;
        };
        let taken = objects.remove(name).is_some();
        if objects.is_empty() {
            self.namespaces.remove(namespace);
        }
        if taken {
            self.revision = at;
        }
        taken
    }
}

impl<T: PartialEq> Shelf<T> {
    fn put(&mut self, object: &ObjectRef, value: Arc<T>, at: u64) -> bool {
        if let Some(entry) = self.get(&object.namespace, &object.name)
            && *entry.object == *value
        {
            return false;
        }
        self.namespaces
            .entry(Arc::clone(&object.namespace))
            .or_default()
            .insert(
                Arc::clone(&object.name),
                Entry {
                    revision: at,
                    object: value,
                },
            );
        self.revision = at;
        true
    }
}
