//! From AuthorizationPolicies to compiled rules.
//!
//! What can not be enforced as written becomes a test that is unknown, so that the rule tightens, and
//! a finding says so. Names are compared by their parts: no pattern is ever built from one.

use std::sync::Arc;

use super::kind::Kind;
use super::matcher::{Attribute, Clause, CompiledRule, Test};
use super::network::NetworkSet;
use super::spec::{Action, Condition, Operation, Rule, Source};
use super::template::PathTemplate;
use super::text::TextSet;
use super::token::PrincipalSet;
use super::{AttachedPolicy, RuleRef};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;

/// In policies this trust domain means the mesh's own, whatever its name (Istio does so too).
const OWN_TRUST_DOMAIN: &str = "cluster.local";

/// Compiles the rules of one policy.
pub(super) fn rules(
    policy: &AttachedPolicy,
    mesh: &MeshSettings,
    findings: &mut Vec<Finding>,
) -> Vec<CompiledRule> {
    let mut compiler = Compiler {
        policy,
        mesh,
        findings,
        field: String::new(),
    };
    let rules = policy.spec.rules.iter().enumerate();
    rules
        .map(|(index, rule)| compiler.rule(index, rule))
        .collect()
}

struct Compiler<'a> {
    policy: &'a AttachedPolicy,
    mesh: &'a MeshSettings,
    findings: &'a mut Vec<Finding>,
    /// The list entry that is being compiled, as findings name it.
    field: String,
}

impl Compiler<'_> {
    fn rule(&mut self, index: usize, rule: &Rule) -> CompiledRule {
        let mut from = Vec::with_capacity(rule.from.len());
        for (at, entry) in rule.from.iter().enumerate() {
            self.field = format!("spec.rules[{index}].from[{at}].source");
            from.push(self.source(&entry.source));
        }
        let mut to = Vec::with_capacity(rule.to.len());
        for (at, entry) in rule.to.iter().enumerate() {
            self.field = format!("spec.rules[{index}].to[{at}].operation");
            to.push(self.operation(&entry.operation));
        }
        let mut when = Clause::default();
        for (at, condition) in rule.when.iter().enumerate() {
            self.field = format!("spec.rules[{index}].when[{at}]");
            self.condition(condition, &mut when);
        }
        CompiledRule {
            name: RuleRef {
                namespace: Arc::clone(&self.policy.namespace),
                policy: Arc::clone(&self.policy.name),
                rule: index,
            },
            from,
            to,
            when,
        }
    }

    fn source(&mut self, source: &Source) -> Clause {
        if source.is_empty() {
            self.hint("it is empty, which means any source");
        }
        let mut clause = Clause::default();
        let mut list = |kind, name, values, not_name, not_values| {
            self.both(&mut clause, kind, (name, values), (not_name, not_values));
        };
        list(
            Kind::Namespace,
            "namespaces",
            &source.namespaces,
            "notNamespaces",
            &source.not_namespaces,
        );
        list(
            Kind::ServiceAccount,
            "serviceAccounts",
            &source.service_accounts,
            "notServiceAccounts",
            &source.not_service_accounts,
        );
        list(
            Kind::TrustDomain,
            "trustDomains",
            &source.trust_domains,
            "notTrustDomains",
            &source.not_trust_domains,
        );
        list(
            Kind::Principal,
            "principals",
            &source.principals,
            "notPrincipals",
            &source.not_principals,
        );
        list(
            Kind::SourceIp,
            "ipBlocks",
            &source.ip_blocks,
            "notIpBlocks",
            &source.not_ip_blocks,
        );
        list(
            Kind::RemoteIp,
            "remoteIpBlocks",
            &source.remote_ip_blocks,
            "notRemoteIpBlocks",
            &source.not_remote_ip_blocks,
        );
        list(
            Kind::RequestPrincipal,
            "requestPrincipals",
            &source.request_principals,
            "notRequestPrincipals",
            &source.not_request_principals,
        );
        clause
    }

    fn operation(&mut self, operation: &Operation) -> Clause {
        if operation.is_empty() {
            self.hint("it is empty, which means any operation");
        }
        let mut clause = Clause::default();
        let mut list = |kind, name, values, not_name, not_values| {
            self.both(&mut clause, kind, (name, values), (not_name, not_values));
        };
        list(
            Kind::DestinationPort,
            "ports",
            &operation.ports,
            "notPorts",
            &operation.not_ports,
        );
        list(
            Kind::Method,
            "methods",
            &operation.methods,
            "notMethods",
            &operation.not_methods,
        );
        list(
            Kind::Path,
            "paths",
            &operation.paths,
            "notPaths",
            &operation.not_paths,
        );
        list(
            Kind::Host,
            "hosts",
            &operation.hosts,
            "notHosts",
            &operation.not_hosts,
        );
        clause
    }

    fn condition(&mut self, condition: &Condition, clause: &mut Clause) {
        let kind = Kind::of_key(&condition.key);
        if let Kind::Unsupported = kind {
            self.tightened(
                "key",
                &format!("the attribute `{}` is not known", condition.key),
                "use an attribute that Istio documents",
            );
        }
        if condition.values.is_empty() && condition.not_values.is_empty() {
            self.tightened(
                "values",
                "neither values nor notValues are given",
                "give one of them",
            );
            clause.0.push(unknown());
            return;
        }
        self.both(
            clause,
            kind,
            ("values", &condition.values),
            ("notValues", &condition.not_values),
        );
    }

    /// Adds the tests for a list and for its negation.
    fn both(
        &mut self,
        clause: &mut Clause,
        kind: Kind,
        (name, values): (&str, &[Arc<str>]),
        (not_name, not_values): (&str, &[Arc<str>]),
    ) {
        if !values.is_empty() {
            clause.0.push(self.test(&kind, name, values, false));
        }
        if !not_values.is_empty() {
            clause.0.push(self.test(&kind, not_name, not_values, true));
        }
    }

    fn test(&mut self, kind: &Kind, field: &str, values: &[Arc<str>], is_negated: bool) -> Test {
        let mut understood: Vec<&str> = Vec::with_capacity(values.len());
        let mut is_partial = false;
        for (at, value) in values.iter().enumerate() {
            match kind.check(value) {
                Ok(()) => understood.push(value),
                Err((reason, remedy)) => {
                    is_partial = true;
                    let reason = format!("`{value}` {reason}");
                    self.tightened(&format!("{field}[{at}]"), &reason, remedy);
                }
            }
        }
        let asked_too_early = kind.is_of_token() && self.policy.spec.action == Action::Custom;
        if asked_too_early {
            self.tightened(
                field,
                "tokens are verified after external authorization",
                "leave it out: the provider sees the token",
            );
        }
        let attribute = if asked_too_early {
            Attribute::Unknown
        } else {
            self.attribute(kind, &understood)
        };
        Test {
            attribute,
            is_partial,
            is_negated,
        }
    }

    fn attribute(&self, kind: &Kind, values: &[&str]) -> Attribute {
        let networks = || NetworkSet::new(values.iter().filter_map(|v| NetworkSet::parse(v)));
        match kind {
            Kind::Principal => Attribute::Principal(TextSet::new(
                values.iter().flat_map(|value| self.with_aliases(value)),
            )),
            Kind::TrustDomain => Attribute::TrustDomain(TextSet::new(
                values.iter().flat_map(|value| self.trust_domains(value)),
            )),
            Kind::Namespace => Attribute::Namespace(TextSet::with_globs(values)),
            Kind::ServiceAccount => {
                let path = |value: &&str| match value.split_once('/') {
                    Some((namespace, account)) => format!("ns/{namespace}/sa/{account}"),
                    None => format!("ns/{}/sa/{value}", self.policy.namespace),
                };
                Attribute::ServiceAccount(TextSet::literal(values.iter().map(path)))
            }
            Kind::SourceIp => Attribute::SourceIp(networks()),
            Kind::RemoteIp => Attribute::RemoteIp(networks()),
            Kind::DestinationIp => Attribute::DestinationIp(networks()),
            Kind::DestinationPort => {
                let mut ports: Vec<u16> = values.iter().filter_map(|v| v.parse().ok()).collect();
                ports.sort_unstable();
                Attribute::DestinationPort(ports)
            }
            Kind::Sni => Attribute::Sni(TextSet::new(values)),
            Kind::Host => {
                Attribute::Host(TextSet::new(values.iter().map(|v| v.to_ascii_lowercase())))
            }
            Kind::Authority => Attribute::Authority(
                TextSet::new(values),
                TextSet::new(values.iter().map(|v| v.to_ascii_lowercase())),
            ),
            Kind::Method => Attribute::Method(TextSet::new(values)),
            Kind::Path => {
                let (templates, texts): (Vec<&str>, Vec<&str>) =
                    values.iter().partition(|v| PathTemplate::is_meant(v));
                let templates = templates.iter().filter_map(|v| PathTemplate::parse(v).ok());
                Attribute::Path(TextSet::new(texts), templates.collect())
            }
            Kind::Header(name) => Attribute::Header(name.clone(), TextSet::new(values)),
            Kind::RequestPrincipal => Attribute::RequestPrincipal(PrincipalSet::new(values)),
            Kind::Claim(path) => Attribute::Claim(path.clone(), TextSet::new(values)),
            Kind::Unsupported => Attribute::Unknown,
        }
    }

    /// A principal as written, or under each of the mesh's trust domains if it names one of them.
    fn with_aliases(&self, principal: &str) -> Vec<String> {
        match principal.split_once('/') {
            Some((domain, rest)) if domain != "*" => self
                .trust_domains(domain)
                .into_iter()
                .map(|domain| format!("{domain}/{rest}"))
                .collect(),
            _ => vec![principal.to_owned()],
        }
    }

    /// A trust domain (or a pattern of some), with the mesh's own and its aliases if it names one.
    fn trust_domains(&self, written: &str) -> Vec<String> {
        let ours: Vec<&str> = std::iter::once(&self.mesh.trust_domain)
            .chain(&self.mesh.trust_domain_aliases)
            .map(|domain| domain.as_str())
            .collect();
        if written == OWN_TRUST_DOMAIN {
            return ours.into_iter().map(str::to_owned).collect();
        }
        let mut all = vec![written.to_owned()];
        let named = TextSet::new([written]);
        if ours.iter().any(|domain| named.matches(domain.as_bytes())) {
            all.extend(ours.into_iter().map(str::to_owned));
        }
        all
    }

    fn tightened(&mut self, field: &str, reason: &str, remedy: &str) {
        let effect = match self.policy.spec.action {
            Action::Allow => "the rule admits nothing by it",
            Action::Custom => "the provider is asked as if it matched",
            Action::Audit => "the rule marks as if it matched",
            Action::Deny => "the rule refuses as if it matched",
        };
        let finding = Finding::error(format!("{reason}; {effect}"));
        self.report(
            finding
                .field(format!("{}.{field}", self.field))
                .remedy(remedy),
        );
    }

    fn hint(&mut self, reason: &str) {
        let finding = Finding::hint(reason).field(self.field.clone());
        self.report(finding.remedy("leave the list out, or name what is meant"));
    }

    fn report(&mut self, finding: Finding) {
        self.findings.push(finding.on(object(self.policy)));
    }
}

/// How findings name a policy.
pub(super) fn object(policy: &AttachedPolicy) -> ObjectRef {
    ObjectRef::new("AuthorizationPolicy", &policy.namespace, &policy.name)
}

fn unknown() -> Test {
    Test {
        attribute: Attribute::Unknown,
        is_partial: false,
        is_negated: false,
    }
}
