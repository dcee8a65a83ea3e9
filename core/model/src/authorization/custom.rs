//! CUSTOM policies: about what which provider is asked.

use std::sync::Arc;

use super::compile::object;
use super::matcher::{CompiledRule, Need, Subject};
use super::{AttachedPolicy, PolicyInput, RuleRef};
use crate::ext_authz::ExtAuthzProvider;
use crate::finding::Finding;
use crate::mesh::MeshSettings;

/// The CUSTOM rules of one target that ask the same provider.
#[derive(Clone, Debug)]
pub struct CustomRules {
    name: Arc<str>,
    provider: Result<Arc<ExtAuthzProvider>, Arc<str>>,
    rules: Vec<CompiledRule>,
}

impl CustomRules {
    /// The provider's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The provider; else why it can not be asked, so that what the rules match is refused.
    pub fn provider(&self) -> Result<&Arc<ExtAuthzProvider>, &Arc<str>> {
        self.provider.as_ref()
    }

    /// The rule because of which the provider is asked about a request.
    #[must_use]
    pub fn asks(&self, input: &PolicyInput<'_>) -> Option<RuleRef> {
        let subject = Subject::new(input);
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.holds(&subject, Need::May))?;
        Some(rule.name.clone())
    }

    pub(super) fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }
}

/// Adds the rules of one policy to those of its provider.
pub(super) fn add(
    all: &mut Vec<CustomRules>,
    policy: &AttachedPolicy,
    rules: Vec<CompiledRule>,
    mesh: &MeshSettings,
    findings: &mut Vec<Finding>,
) {
    let mut report = |finding: Finding, field: &str| {
        findings.push(finding.field(field).on(object(policy)));
    };
    if policy.dry_run {
        let reason = "a dry run never asks the provider; it changes nothing";
        return report(Finding::hint(reason), "spec.action");
    }
    let name = match &policy.spec.provider {
        Some(provider) => Arc::clone(&provider.name),
        None => Arc::from(""),
    };
    let provider = match mesh.ext_authz.get(&name) {
        Some(provider) => provider.clone(),
        None => Err("there is no such external authorization provider".into()),
    };
    if let Err(reason) = &provider {
        let reason = format!("`{name}`: {reason}; what its rules match is refused");
        report(
            Finding::error(reason).remedy(
                "name an envoyExtAuthzGrpc or envoyExtAuthzHttp of MeshConfig's extensionProviders",
            ),
            "spec.provider.name",
        );
    }
    match all.iter_mut().find(|group| group.name == name) {
        Some(group) => group.rules.extend(rules),
        None => all.push(CustomRules {
            name,
            provider,
            rules,
        }),
    }
}
