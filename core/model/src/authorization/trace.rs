//! How a judgement came about, rule by rule, for those who explain it.
//!
//! Asks the very tests that [`Authorization::judge`] asks, in the reading that it asks for. It only
//! looks at those, too, which a judgement no longer needs once it is decided.

use std::fmt;

use super::matcher::{CompiledRule, Need, Subject, Unmet};
use super::spec::Action;
use super::{Authorization, CustomRules, Judgement, PolicyInput, PolicyRef, RuleSet};

/// A judgement and what every policy contributed to it.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// What [`Authorization::judge`] says.
    pub judgement: Judgement,
    /// Every policy that applies, in the order in which their rules are named.
    pub policies: Vec<PolicyTrace<'a>>,
}

/// What one policy contributed.
#[derive(Clone, Debug)]
pub struct PolicyTrace<'a> {
    /// The policy.
    pub policy: &'a PolicyRef,
    /// Its rules. None for dry runs of CUSTOM and AUDIT, or where none were written: such an ALLOW policy
    /// admits nothing.
    pub rules: Vec<RuleTrace>,
}

/// Whether one rule matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleTrace {
    /// Index of the rule in its policy, from 0.
    pub index: usize,
    /// Whether it matched, in the reading its action asks for.
    pub matched: bool,
    /// Where it did not: of each alternative that was tried, the first condition that failed.
    pub unmet: Vec<Condition>,
}

/// One condition of a rule, e.g. `from[0] principal`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// `from`, `to` or `when`.
    pub part: &'static str,
    /// Which entry of `from` or `to`, from 0.
    pub entry: Option<usize>,
    /// What is compared, in words.
    pub attribute: String,
    /// Whether it is a `not…` list that excludes the request.
    pub is_negated: bool,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part)?;
        if let Some(entry) = self.entry {
            write!(f, "[{entry}]")?;
        }
        let not = if self.is_negated { "not " } else { "" };
        write!(f, ": {not}{}", self.attribute)
    }
}

impl Authorization {
    /// Judges as [`Self::judge`] does, and tells how every rule stood. Costs a look at all of them.
    #[must_use]
    pub fn trace(&self, input: &PolicyInput<'_>) -> Trace<'_> {
        let subject = Subject::new(input);
        let policies = self.policies.iter();
        Trace {
            judgement: self.judge(input),
            policies: policies
                .map(|policy| PolicyTrace {
                    policy,
                    rules: self.trace_rules(policy, &subject),
                })
                .collect(),
        }
    }

    fn trace_rules(&self, policy: &PolicyRef, subject: &Subject<'_>) -> Vec<RuleTrace> {
        let set: Option<&RuleSet> = if policy.dry_run {
            self.shadow.as_deref()
        } else {
            Some(&self.enforced)
        };
        let need = need(policy.action);
        let rules: Vec<&CompiledRule> = match (policy.action, set) {
            (Action::Custom | Action::Audit, _) if policy.dry_run => Vec::new(),
            (Action::Custom, _) => self.custom.iter().flat_map(CustomRules::rules).collect(),
            (Action::Audit, _) => self.audit.iter().collect(),
            (_, None) => Vec::new(),
            (Action::Deny, Some(set)) => set.deny.iter().collect(),
            (Action::Allow, Some(set)) => set.allow.iter().collect(),
        };
        rules
            .into_iter()
            .filter(|rule| {
                rule.name.namespace == policy.namespace && rule.name.policy == policy.name
            })
            .map(|rule| {
                let matched = rule.holds(subject, need);
                let unmet = if matched {
                    Vec::new()
                } else {
                    rule.unmet(subject, need)
                        .into_iter()
                        .map(condition)
                        .collect()
                };
                RuleTrace {
                    index: rule.name.rule,
                    matched,
                    unmet,
                }
            })
            .collect()
    }
}

/// The reading in which an action's rules are asked.
fn need(action: Action) -> Need {
    match action {
        Action::Deny | Action::Custom | Action::Audit => Need::May,
        Action::Allow => Need::Must,
    }
}

fn condition(unmet: Unmet<'_>) -> Condition {
    Condition {
        part: unmet.part,
        entry: unmet.entry,
        attribute: unmet.test.attribute.describe(),
        is_negated: unmet.test.is_negated,
    }
}
