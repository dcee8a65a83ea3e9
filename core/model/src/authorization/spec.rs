//! AuthorizationPolicy `spec`, as written (security.istio.io v1 and v1beta1 have the same fields).
//!
//! Unknown fields are errors: a restriction that is misspelt must not be skipped in silence. Lists
//! that are `null` count as absent, because an API server would have dropped them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// AuthorizationPolicy `spec`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// Workloads by label; has no effect at waypoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// What the policy is attached to; at most 16.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The older form of one target; counts only when `targetRefs` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// Rules, of which one must match. None at all never match.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub rules: Vec<Rule>,
    /// What a match means; default ALLOW.
    #[serde(deserialize_with = "null_as_default")]
    pub action: Action,
    /// Who decides, for CUSTOM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ExtensionProviderRef>,
}

impl AuthorizationPolicySpec {
    /// The targets in force: `targetRefs`, else `targetRef`.
    #[must_use]
    pub fn targets(&self) -> &[PolicyTargetReference] {
        if self.target_refs.is_empty() {
            self.target_ref.as_slice()
        } else {
            &self.target_refs
        }
    }
}

/// `selector`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels a workload must have.
    #[serde(deserialize_with = "null_as_default")]
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// One of `targetRefs`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyTargetReference {
    /// API group, empty for the core group.
    #[serde(default)]
    pub group: Arc<str>,
    /// `Service`, `ServiceEntry`, `Gateway` or `GatewayClass`.
    pub kind: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Namespace; Istio refuses policies that set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
}

/// `action`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Admits what matches; with one such policy, what no such policy matches is refused.
    #[default]
    Allow,
    /// Refuses what matches.
    Deny,
    /// Marks what matches for audit.
    Audit,
    /// Asks the provider about what matches.
    Custom,
}

/// `provider`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ExtensionProviderRef {
    /// Name of one of MeshConfig's `extensionProviders`.
    pub name: Arc<str>,
}

/// One of `rules`: `from`, `to` and `when` must all match; those left out do.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Sources, of which one must match.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub from: Vec<From>,
    /// Operations, of which one must match.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub to: Vec<To>,
    /// Conditions, which must all match.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub when: Vec<Condition>,
}

/// One of `from`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct From {
    /// The source.
    #[serde(deserialize_with = "null_as_default")]
    pub source: Source,
}

/// One of `to`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct To {
    /// The operation.
    #[serde(deserialize_with = "null_as_default")]
    pub operation: Operation,
}

/// Defines a struct of string lists: within a list the values are alternatives, lists that are given
/// must all match, and an empty list is one that is not given.
macro_rules! lists {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
        #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde(
                    deserialize_with = "null_as_default",
                    skip_serializing_if = "Vec::is_empty"
                )]
                pub $field: Vec<Arc<str>>,
            )*
        }

        impl $name {
            /// Whether nothing is asked.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                true $(&& self.$field.is_empty())*
            }
        }
    };
}

lists! {
    /// Who asks. Each `not` list must match none of its values.
    Source {
        /// `<trust domain>/ns/<namespace>/sa/<account>`, without `spiffe://`.
        principals,
        /// Negation of `principals`.
        not_principals,
        /// `<issuer>/<subject>` of a verified token.
        request_principals,
        /// Negation of `requestPrincipals`.
        not_request_principals,
        /// Namespaces of the peer's identity.
        namespaces,
        /// Negation of `namespaces`.
        not_namespaces,
        /// `<account>` (in the policy's namespace) or `<namespace>/<account>`.
        service_accounts,
        /// Negation of `serviceAccounts`.
        not_service_accounts,
        /// Trust domains of the peer's identity.
        trust_domains,
        /// Negation of `trustDomains`.
        not_trust_domains,
        /// Addresses or networks the connection comes from.
        ip_blocks,
        /// Negation of `ipBlocks`.
        not_ip_blocks,
        /// Addresses or networks the request comes from as trusted hops tell it.
        remote_ip_blocks,
        /// Negation of `remoteIpBlocks`.
        not_remote_ip_blocks,
    }
}

lists! {
    /// What is asked. Each `not` list must match none of its values.
    Operation {
        /// Authorities, without regard to case.
        hosts,
        /// Negation of `hosts`.
        not_hosts,
        /// Service ports.
        ports,
        /// Negation of `ports`.
        not_ports,
        /// Methods.
        methods,
        /// Negation of `methods`.
        not_methods,
        /// Paths, without query.
        paths,
        /// Negation of `paths`.
        not_paths,
    }
}

/// One of `when`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Condition {
    /// The attribute, e.g. `request.headers[x-role]`.
    pub key: Arc<str>,
    /// Values, of which one must match.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub values: Vec<Arc<str>>,
    /// Values, of which none may match.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub not_values: Vec<Arc<str>>,
}

/// Reads the annotation `istio.io/dry-run` as Istio does; `None` for a value that is no boolean, which
/// leaves the policy enforced.
#[must_use]
pub fn parse_dry_run(annotation: &str) -> Option<bool> {
    match annotation {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_restriction_is_an_error() {
        for bad in [
            r#"{"rule":[]}"#,
            r#"{"action":"DENNY"}"#,
            r#"{"action":"deny"}"#,
            r#"{"rules":[{"form":[]}]}"#,
            r#"{"rules":[{"from":[{"source":{"principal":["a"]}}]}]}"#,
            r#"{"rules":[{"from":[{"principals":["a"]}]}]}"#,
            r#"{"rules":[{"to":[{"operation":{"path":["a"]}}]}]}"#,
            r#"{"rules":[{"to":[{"operation":{"ports":[80]}}]}]}"#,
            r#"{"rules":[{"when":[{"values":["a"]}]}]}"#,
            r#"{"targetRefs":[{"kind":"Service"}]}"#,
        ] {
            assert!(
                serde_json::from_str::<AuthorizationPolicySpec>(bad).is_err(),
                "{bad} was accepted"
            );
        }
    }

    #[test]
    fn null_is_absent() {
        let spec: AuthorizationPolicySpec = serde_json::from_str(
            r#"{"action":null,"selector":null,"rules":[{"from":null,"to":[{"operation":null}]}]}"#,
        )
        .unwrap();
        assert_eq!(spec.action, Action::Allow);
        assert!(spec.rules[0].from.is_empty());
        assert!(spec.rules[0].to[0].operation.is_empty());
    }
}
