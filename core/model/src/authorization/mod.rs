//! Authorization: AuthorizationPolicies compiled when configuration changes, judged per request.
//!
//! Order as in Istio: any DENY that may match refuses; with no ALLOW policy the rest is admitted;
//! else one ALLOW must match. Every atom is evaluated in two readings, *may* and *must*: DENY fires
//! on may, ALLOW only on must, so that what is ambiguous tightens. CUSTOM comes before all that, and is
//! asked by a filter of its own ([`Authorization::custom`]); AUDIT only marks.

mod compile;
mod custom;
mod host;
mod kind;
mod matcher;
mod network;
mod rules;
pub mod spec;
mod template;
mod text;
mod token;
mod trace;

use std::net::IpAddr;
use std::sync::Arc;

use crate::authentication::VerifiedToken;
use crate::finding::Finding;
use crate::identity::Identity;
use crate::mesh::MeshSettings;
use crate::request::CanonicalRequest;

use matcher::{CompiledRule, Need, Subject};
use rules::Rules;
use spec::Action;

pub use custom::CustomRules;
pub use spec::AuthorizationPolicySpec;
pub use trace::{Condition, PolicyTrace, RuleTrace, Trace};

/// One AuthorizationPolicy that applies to a target.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachedPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub spec: Arc<AuthorizationPolicySpec>,
    /// Whether it only tells what it would do (annotation `istio.io/dry-run`).
    pub dry_run: bool,
    /// `metadata.creationTimestamp`; decides only which of several matching rules is named.
    pub creation: Option<Arc<str>>,
}

/// The policies of one target, compiled.
#[derive(Clone, Debug, Default)]
pub struct Authorization {
    denied: Option<Arc<str>>,
    enforced: RuleSet,
    shadow: Option<Box<RuleSet>>,
    /// By name of the provider.
    custom: Vec<CustomRules>,
    audit: Vec<CompiledRule>,
    /// What was compiled, in the order of the rules.
    policies: Vec<PolicyRef>,
}

/// One policy that applies to a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What a match means, as written.
    pub action: Action,
    /// Whether it only tells what it would do.
    pub dry_run: bool,
}

/// What policies may look at.
#[derive(Clone, Copy, Debug)]
pub struct PolicyInput<'a> {
    /// The verified identity of the peer; `None` for plain-text clients of a gateway.
    pub identity: Option<&'a Identity>,
    /// Where the connection came from.
    pub source_ip: IpAddr,
    /// Where the request came from as trusted hops tell it; the source where nobody tells.
    pub remote_ip: IpAddr,
    /// The address the client asked for, when it named one.
    pub destination_ip: Option<IpAddr>,
    /// The service port (never the HBONE port).
    pub destination_port: u16,
    /// The server name of the TLS handshake.
    pub sni: Option<&'a str>,
    /// The request; `None` for opaque bytes, on which HTTP fields can not match.
    pub request: Option<&'a CanonicalRequest>,
    /// What the request's token says, when it has one that was verified.
    pub token: Option<&'a VerifiedToken>,
}

/// The outcome of judging one request or connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Whether it may pass, and what decided.
    pub verdict: Verdict,
    /// What is said besides and changes nothing; `None` where no policy does so.
    pub marks: Option<Box<Marks>>,
}

/// What policies say that changes nothing: those on trial (dry run) and AUDIT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// What the DENY policies on trial say, by themselves.
    pub dry_run_deny: Option<Verdict>,
    /// What the ALLOW policies on trial say, by themselves.
    pub dry_run_allow: Option<Verdict>,
    /// Whether there are AUDIT policies.
    pub is_audit_asked: bool,
    /// The first AUDIT rule that marks it.
    pub audited: Option<RuleRef>,
}

impl Marks {
    /// What the policies on trial would come to if they, and no others, were in force.
    #[must_use]
    pub fn dry_run(&self) -> Option<&Verdict> {
        let refused = self.dry_run_deny.as_ref().filter(|it| !it.is_allowed());
        refused
            .or(self.dry_run_allow.as_ref())
            .or(self.dry_run_deny.as_ref())
    }
}

/// Whether something may pass, and the policy that decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Admitted; by which ALLOW rule, or `None` when no ALLOW policy applies.
    Allow(Option<RuleRef>),
    /// Refused by a rule, or `None` when no ALLOW policy matched.
    Deny(Option<RuleRef>),
}

impl Verdict {
    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleRef> {
        match self {
            Self::Allow(rule) | Self::Deny(rule) => rule.as_ref(),
        }
    }

    /// Whether it may pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// One rule of one policy, for logs: `ns[<namespace>]-policy[<name>]-rule[<index>]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleRef {
    /// Namespace of the policy.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub policy: Arc<str>,
    /// Index of the rule, from 0.
    pub rule: usize,
}

impl std::fmt::Display for RuleRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ns[{}]-policy[{}]-rule[{}]",
            self.namespace, self.policy, self.rule
        )
    }
}

impl Authorization {
    /// Compiles the policies of one target; their order does not matter. What can not be enforced as
    /// written is enforced more tightly, and named by a finding: CUSTOM refuses what it would ask a
    /// provider about that is not there.
    #[must_use]
    pub fn compile(policies: &[AttachedPolicy], mesh: &MeshSettings) -> (Self, Vec<Finding>) {
        let mut ordered: Vec<&AttachedPolicy> = policies.iter().collect();
        ordered.sort_by_key(|policy| (&policy.creation, &policy.namespace, &policy.name));

        let mut findings = Vec::new();
        let mut compiled = Self::default();
        for policy in ordered {
            compiled.policies.push(PolicyRef {
                namespace: Arc::clone(&policy.namespace),
                name: Arc::clone(&policy.name),
                action: policy.spec.action,
                dry_run: policy.dry_run,
            });
            let rules = compile::rules(policy, mesh, &mut findings);
            match policy.spec.action {
                Action::Audit if policy.dry_run => continue,
                Action::Audit => {
                    compiled.audit.extend(rules);
                    continue;
                }
                Action::Custom => {
                    custom::add(&mut compiled.custom, policy, rules, mesh, &mut findings);
                    continue;
                }
                Action::Allow | Action::Deny => {}
            }
            let set = if policy.dry_run {
                compiled.shadow.get_or_insert_default()
            } else {
                &mut compiled.enforced
            };
            set.add(policy.spec.action, rules);
        }
        compiled.enforced.settle();
        if let Some(shadow) = &mut compiled.shadow {
            shadow.settle();
        }
        compiled.custom.sort_by(|a, b| a.name().cmp(b.name()));
        (compiled, findings)
    }

    /// CUSTOM policies by the provider they ask, in the order in which providers are asked.
    #[must_use]
    pub fn custom(&self) -> &[CustomRules] {
        &self.custom
    }

    /// Refuses everything: for targets with a policy that never was valid.
    #[must_use]
    pub fn deny_all(reason: impl Into<Arc<str>>) -> Self {
        Self {
            denied: Some(reason.into()),
            ..Self::default()
        }
    }

    /// Why everything is refused, when it is by [`Self::deny_all`].
    #[must_use]
    pub fn denied_because(&self) -> Option<&str> {
        self.denied.as_deref()
    }

    /// The rules in force, for those who show them: what a match does, whether only as a dry run, and
    /// which rule it is, in the order in which they are asked.
    pub fn rules(&self) -> impl Iterator<Item = (Action, bool, &RuleRef)> {
        let sets = [
            (Some(&self.enforced), false),
            (self.shadow.as_deref(), true),
        ];
        let custom = self.custom.iter().flat_map(|group| group.rules());
        let custom = custom.map(|rule| (Action::Custom, false, &rule.name));
        let audit = self.audit.iter();
        let audit = audit.map(|rule| (Action::Audit, false, &rule.name));
        let sets = sets.into_iter().flat_map(|(set, dry_run)| {
            let rules = set.map(RuleSet::rules).into_iter().flatten();
            rules.map(move |(action, name)| (action, dry_run, name))
        });
        custom.chain(audit).chain(sets)
    }

    /// What its rules come to where there are opaque bytes and no requests: the rules that can not be
    /// asked as they are written, and what they do instead.
    pub fn at_opaque_ports(&self) -> impl Iterator<Item = (&RuleRef, &'static str)> {
        let of_requests = |rule: &&CompiledRule| rule.asks_for_request();
        let deny = self.enforced.deny.iter().filter(of_requests);
        let deny = deny.map(|rule| (&rule.name, "the rule refuses what else of it matches"));
        let allow = self.enforced.allow.iter().filter(of_requests);
        let allow = allow.map(|rule| (&rule.name, "the rule admits nothing"));
        let custom = self.custom.iter().flat_map(|group| group.rules());
        let custom = custom.map(|rule| {
            (
                &rule.name,
                "nobody is asked, what the rule may match is refused",
            )
        });
        deny.chain(allow).chain(custom)
    }

    /// Whether only what an ALLOW rule matches may pass; without any such rule, nothing may.
    #[must_use]
    pub fn admits_only_what_is_allowed(&self) -> bool {
        self.enforced.admits_only
    }

    /// Whether nothing is restricted, so that callers may skip building a [`PolicyInput`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.denied.is_none()
            && self.enforced.is_empty()
            && self.shadow.is_none()
            && self.custom.is_empty()
            && self.audit.is_empty()
    }

    /// Judges one request or connection. Of CUSTOM policies only what opaque bytes meet is judged here,
    /// about which nobody is asked: what they match is refused.
    #[must_use]
    pub fn judge(&self, input: &PolicyInput<'_>) -> Judgement {
        let subject = Subject::new(input);
        let verdict = match self.denied {
            Some(_) => Verdict::Deny(None),
            None => match self.unaskable(&subject) {
                Some(rule) => Verdict::Deny(Some(rule)),
                None => self.enforced.verdict(&subject),
            },
        };
        let is_marking = self.shadow.is_some() || !self.audit.is_empty();
        Judgement {
            verdict,
            marks: is_marking.then(|| Box::new(self.marks(&subject))),
        }
    }
}

impl Authorization {
    fn marks(&self, subject: &Subject<'_>) -> Marks {
        let mut audit = self.audit.iter();
        let audited = audit.find(|rule| rule.holds(subject, Need::May));
        let shadow = self.shadow.as_deref();
        Marks {
            dry_run_deny: shadow.and_then(|rules| rules.denies(subject)),
            dry_run_allow: shadow.and_then(|rules| rules.allows(subject)),
            is_audit_asked: !self.audit.is_empty(),
            audited: audited.map(|rule| rule.name.clone()),
        }
    }

    /// The CUSTOM rule that opaque bytes meet.
    fn unaskable(&self, subject: &Subject<'_>) -> Option<RuleRef> {
        if subject.has_request() {
            return None;
        }
        let mut rules = self.custom.iter().flat_map(|group| group.rules());
        let rule = rules.find(|rule| rule.holds(subject, Need::May))?;
        Some(rule.name.clone())
    }
}

/// Rules by what a match means.
#[derive(Clone, Debug, Default)]
struct RuleSet {
    deny: Rules,
    allow: Rules,
    /// There is an ALLOW policy, though it may have no rules.
    admits_only: bool,
    /// There is a DENY policy, though it may have no rules.
    refuses: bool,
}

impl RuleSet {
    fn add(&mut self, action: Action, rules: Vec<CompiledRule>) {
        match action {
            Action::Allow => {
                self.admits_only = true;
                self.allow.extend(rules);
            }
            Action::Deny => {
                self.refuses = true;
                self.deny.extend(rules);
            }
            // These are asked by others.
            Action::Custom | Action::Audit => {}
        }
    }

    /// No more will be added.
    fn settle(&mut self) {
        self.deny.settle();
        self.allow.settle();
    }

    fn rules(&self) -> impl Iterator<Item = (Action, &RuleRef)> {
        let deny = self.deny.iter().map(|rule| (Action::Deny, &rule.name));
        let allow = self.allow.iter().map(|rule| (Action::Allow, &rule.name));
        deny.chain(allow)
    }

    fn is_empty(&self) -> bool {
        self.deny.is_empty() && !self.admits_only
    }

    fn verdict(&self, subject: &Subject<'_>) -> Verdict {
        match self.denies(subject) {
            Some(refused @ Verdict::Deny(_)) => refused,
            _ => self.allows(subject).unwrap_or(Verdict::Allow(None)),
        }
    }

    /// What the DENY policies say; `None` where there are none.
    fn denies(&self, subject: &Subject<'_>) -> Option<Verdict> {
        let rule = || Some(self.deny.first(subject, Need::May)?.name.clone());
        self.refuses.then(|| match rule() {
            Some(rule) => Verdict::Deny(Some(rule)),
            None => Verdict::Allow(None),
        })
    }

    /// What the ALLOW policies say; `None` where there are none.
    fn allows(&self, subject: &Subject<'_>) -> Option<Verdict> {
        let rule = || Some(self.allow.first(subject, Need::Must)?.name.clone());
        self.admits_only.then(|| match rule() {
            Some(rule) => Verdict::Allow(Some(rule)),
            None => Verdict::Deny(None),
        })
    }
}

#[cfg(test)]
mod tests;
