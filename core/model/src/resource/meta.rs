//! What all objects have: metadata, label selectors, and fields that exist but are not read.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// The part of `metadata` that is read.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; empty for cluster-scoped kinds, `default` where a namespaced object names none.
    #[serde(default)]
    pub namespace: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 time of creation; what has none counts as oldest.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    /// Counts changes of the spec; absent from files that never were in a cluster.
    #[serde(default)]
    pub generation: Option<i64>,
    /// The prefix a Pod's name was made from.
    #[serde(default)]
    pub generate_name: Option<String>,
    /// Who made the object.
    #[serde(default)]
    pub owner_references: Vec<OwnerReference>,
    #[serde(default, rename = "uid")]
    _uid: Unread,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: Unread,
    #[serde(default, rename = "managedFields")]
    _managed_fields: Unread,
    #[serde(default, rename = "finalizers")]
    _finalizers: Unread,
    #[serde(default, rename = "selfLink")]
    _self_link: Unread,
    #[serde(default, rename = "deletionTimestamp")]
    _deletion_timestamp: Unread,
    #[serde(default, rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Unread,
}

/// One owner.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct OwnerReference {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it manages the object.
    pub controller: bool,
    #[serde(rename = "apiVersion")]
    _api_version: Unread,
    #[serde(rename = "uid")]
    _uid: Unread,
    #[serde(rename = "blockOwnerDeletion")]
    _block_owner_deletion: Unread,
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must all be there.
    pub match_labels: BTreeMap<String, String>,
    /// Expressions that must all hold.
    pub match_expressions: Vec<LabelExpression>,
}

impl LabelSelector {
    /// Whether labels satisfy it; an empty selector is satisfied by all.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        is_subset(&self.match_labels, labels)
            && self.match_expressions.iter().all(|e| e.matches(labels))
    }
}

/// Whether every wanted label is there with its value.
pub(crate) fn is_subset(
    wanted: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// One expression of a label selector.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// With what.
    #[serde(default)]
    pub values: Vec<String>,
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => listed(),
            LabelOperator::NotIn => !listed(),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// Operator of a label expression.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// A field that legally exists and that nobody here reads: it is neither checked nor kept, and two
/// objects that differ only in it are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not `deserialize_ignored_any`: that is how unknown fields are noticed.
        deserializer.deserialize_any(UnreadVisitor)
    }
}

struct UnreadVisitor;

impl<'de> Visitor<'de> for UnreadVisitor {
    type Value = Unread;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_unit<E>(self) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unread, A::Error> {
        while items.next_element::<Unread>()?.is_some() {}
        Ok(Unread)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unread, A::Error> {
        while entries.next_entry::<Unread, Unread>()?.is_some() {}
        Ok(Unread)
    }
}
