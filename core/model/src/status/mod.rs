//! What Wayline says about the objects it reads, in the words of their own `status` fields.
//!
//! This folder owns the shape: conditions with reasons (`reason`), and what carries them. It is made
//! by translation from the very outcomes that are served, so that a status can not claim what is not
//! so. It refuses to know clocks and the API server: `lastTransitionTime`, merging with what other
//! controllers wrote, and writing at all are for whoever has a cluster.

pub mod reason;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::names::ObjectRef;

/// All statuses, by kind, namespace and name of their objects; each object stands there once.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Statuses {
    /// The statuses.
    pub all: Vec<ObjectStatus>,
}

impl Statuses {
    /// What is said about an object; `None` where it is none of ours.
    #[must_use]
    pub fn of(&self, object: &ObjectRef) -> Option<&Status> {
        let at = self.all.binary_search_by(|it| it.object.cmp(object)).ok()?;
        self.all.get(at).map(|it| &it.status)
    }
}

/// What is said about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// What is said about it.
    pub status: Status,
}

impl Serialize for ObjectStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", &*self.object.kind)?;
        if !self.object.namespace.is_empty() {
            map.serialize_entry("namespace", &*self.object.namespace)?;
        }
        map.serialize_entry("name", &*self.object.name)?;
        map.serialize_entry("status", &self.status)?;
        map.end()
    }
}

/// The `status` of one object: the part of it that is ours to write.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// Of a Gateway.
    Gateway(GatewayStatus),
    /// Of an HTTPRoute.
    Route(RouteStatus),
    /// Of anything that has conditions only: a GatewayClass, a Service.
    Conditions(Conditions),
}

/// A status that is nothing but conditions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Conditions {
    /// Each type once.
    pub conditions: Vec<Condition>,
}

/// `status` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GatewayStatus {
    /// Where it is reached, as far as the objects tell.
    pub addresses: Vec<Address>,
    /// Accepted and Programmed.
    pub conditions: Vec<Condition>,
    /// One for each listener, in their order.
    pub listeners: Vec<ListenerStatus>,
}

impl GatewayStatus {
    /// Says that a port of it could not be bound.
    pub fn deny_programmed(&mut self, because: &str) {
        let mut conditions = self.conditions.iter_mut();
        if let Some(programmed) = conditions.find(|it| it.kind == reason::PROGRAMMED) {
            programmed.status = Truth::False;
            programmed.reason = reason::ADDRESS_NOT_USABLE;
            programmed.message = Cow::Owned(because.to_owned());
        }
    }
}

/// One address of a Gateway.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Address {
    /// `IPAddress` or `Hostname`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The address.
    pub value: String,
}

/// `status.listeners[]` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Name of the listener.
    pub name: String,
    /// Kinds of routes that may attach.
    pub supported_kinds: Vec<RouteKind>,
    /// Routes that do, sound or not.
    pub attached_routes: u32,
    /// Accepted, Conflicted, Programmed and ResolvedRefs.
    pub conditions: Vec<Condition>,
}

/// A kind of routes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RouteKind {
    /// Its API group.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
}

/// `status` of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteStatus {
    /// One for each parent that is not known to be another controller's.
    pub parents: Vec<ParentStatus>,
}

/// `status.parents[]` of a route.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent as the route names it.
    pub parent_ref: Parent,
    /// The controller that says so.
    pub controller_name: String,
    /// Whether the parent is known to be ours. One that is not may be another controller's, to whom
    /// saying so in a cluster is left.
    #[serde(skip)]
    pub ours: bool,
    /// Accepted, ResolvedRefs, and PartiallyInvalid where it is so.
    pub conditions: Vec<Condition>,
}

/// A parent as its route names it, defaults of group and kind filled in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Listener, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Port, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// One condition, as metav1.Condition without `lastTransitionTime`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is judged, e.g. `Accepted`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it is so.
    pub status: Truth,
    /// Why, for programs: one of [`reason`].
    pub reason: &'static str,
    /// Why, for people.
    pub message: Cow<'static, str>,
    /// The `metadata.generation` that was judged; `None` for objects that carry none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition that holds.
    #[must_use]
    pub fn holds(
        kind: &'static str,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(kind, Truth::True, reason, message.into())
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn fails(
        kind: &'static str,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(kind, Truth::False, reason, message.into())
    }

    /// Says which generation of the object was judged.
    #[must_use]
    pub fn observing(mut self, generation: Option<i64>) -> Self {
        self.observed_generation = generation;
        self
    }

    fn new(
        kind: &'static str,
        status: Truth,
        reason: &'static str,
        message: Cow<'static, str>,
    ) -> Self {
        Self {
            kind,
            status,
            reason,
            message,
            observed_generation: None,
        }
    }
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Kubernetes'")]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}
