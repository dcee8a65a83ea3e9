//! Rules with one effect, and the first of them that holds.
//!
//! A few are asked one after the other. Where there are many, most name a caller or a path: those are
//! found by what they name, so that ten thousand policies for others cost a request nothing. Only the
//! rules that are found so, and those that name neither, are then really asked: the index may offer too
//! many rules and never too few.

use rustc_hash::FxHashMap;

use super::matcher::{Attribute, Clause, CompiledRule, Need, Subject, Test};

/// Up to so many rules are simply asked in turn.
const FEW: usize = 3;

/// Rules in the order in which they are named.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    list: Vec<CompiledRule>,
    index: Option<Box<Index>>,
}

impl Rules {
    /// Adds rules behind the others; [`Self::settle`] has to follow.
    pub(super) fn extend(&mut self, rules: Vec<CompiledRule>) {
        self.list.extend(rules);
    }

    /// No more will be added.
    pub(super) fn settle(&mut self) {
        self.index = (self.list.len() > FEW).then(|| Box::new(Index::new(&self.list)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CompiledRule> {
        self.list.iter()
    }

    /// The first rule that holds.
    pub(super) fn first(&self, subject: &Subject<'_>, need: Need) -> Option<&CompiledRule> {
        match &self.index {
            Some(index) => self.list.get(index.first(&self.list, subject, need)?),
            None => self.list.iter().find(|rule| rule.holds(subject, need)),
        }
    }
}

/// Positions of rules by a text that must be there for them to hold.
#[derive(Clone, Debug, Default)]
struct Index {
    principals: ByText,
    namespaces: ByText,
    paths: ByText,
    /// By the first so many bytes of the path.
    prefixes: Vec<(usize, ByText)>,
    /// Those that ask for no such text.
    others: Vec<usize>,
}

type ByText = FxHashMap<Box<[u8]>, Vec<usize>>;

/// A text without which a rule does not hold.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Key<'r> {
    Principal(&'r [u8]),
    Namespace(&'r [u8]),
    Path(&'r [u8]),
    PathPrefix(&'r [u8]),
}

impl Index {
    fn new(rules: &[CompiledRule]) -> Self {
        let offers: Vec<Vec<Vec<Key<'_>>>> = rules.iter().map(offers).collect();
        let mut shared: FxHashMap<Key<'_>, usize> = FxHashMap::default();
        for key in offers.iter().flatten().flatten() {
            *shared.entry(*key).or_default() += 1;
        }
        let mut index = Self::default();
        for (at, offers) in offers.iter().enumerate() {
            // The part of the rule that fewest others share tells it apart best.
            let crowd = |keys: &&Vec<Key<'_>>| keys.iter().map(|key| shared[key]).max();
            match offers.iter().min_by_key(crowd) {
                Some(keys) => keys.iter().for_each(|key| index.insert(*key, at)),
                None => index.others.push(at),
            }
        }
        index
    }

    fn insert(&mut self, key: Key<'_>, at: usize) {
        let (map, text) = match key {
            Key::Principal(text) => (&mut self.principals, text),
            Key::Namespace(text) => (&mut self.namespaces, text),
            Key::Path(text) => (&mut self.paths, text),
            Key::PathPrefix(text) => {
                let known = self
                    .prefixes
                    .iter()
                    .position(|(length, _)| *length == text.len());
                let slot = known.unwrap_or_else(|| {
                    self.prefixes.push((text.len(), ByText::default()));
                    self.prefixes.len() - 1
                });
                (&mut self.prefixes[slot].1, text)
            }
        };
        let positions = map.entry(text.into()).or_default();
        if positions.last() != Some(&at) {
            positions.push(at);
        }
    }

    /// The position of the first rule that holds.
    fn first(&self, rules: &[CompiledRule], subject: &Subject<'_>, need: Need) -> Option<usize> {
        let input = subject.input();
        let Some(request) = input.request else {
            // Of opaque bytes the path is not known, and may be any.
            return rules.iter().position(|rule| rule.holds(subject, need));
        };
        let mut best = rules.len();
        let mut ask = |positions: &[usize]| {
            let earlier = positions.iter().take_while(|at| **at < best);
            if let Some(at) = { earlier }.find(|at| rules[**at].holds(subject, need)) {
                best = *at;
            }
        };
        let found = |map: &ByText, text: &[u8], ask: &mut dyn FnMut(&[usize])| {
            if !map.is_empty()
                && let Some(positions) = map.get(text)
            {
                ask(positions);
            }
        };
        if let Some(peer) = input.identity {
            found(&self.principals, peer.principal().as_bytes(), &mut ask);
            found(&self.namespaces, peer.namespace().as_bytes(), &mut ask);
        }
        let path = request.path().as_bytes();
        found(&self.paths, path, &mut ask);
        for (length, map) in &self.prefixes {
            if let Some(prefix) = path.get(..*length) {
                found(map, prefix, &mut ask);
            }
        }
        ask(&self.others);
        (best < rules.len()).then_some(best)
    }
}

/// For each part of a rule that needs one of some texts, these texts.
fn offers(rule: &CompiledRule) -> Vec<Vec<Key<'_>>> {
    [
        (&rule.from, principals as fn(&Test) -> Option<Vec<Key<'_>>>),
        (&rule.from, namespaces),
        (&rule.to, paths),
    ]
    .into_iter()
    .filter_map(|(clauses, keys)| of_all(clauses, keys))
    .collect()
}

/// The texts of alternatives that each need one; `None` where one does not, or where there are none.
fn of_all<'r>(
    clauses: &'r [Clause],
    keys: fn(&'r Test) -> Option<Vec<Key<'r>>>,
) -> Option<Vec<Key<'r>>> {
    let mut all = Vec::new();
    for clause in clauses {
        // Partial tests may hold without their texts, and negated ones hold without them.
        let plain = |test: &&Test| !test.is_partial && !test.is_negated;
        all.extend(clause.0.iter().filter(plain).find_map(keys)?);
    }
    (!all.is_empty()).then_some(all)
}

fn principals(test: &Test) -> Option<Vec<Key<'_>>> {
    let Attribute::Principal(set) = &test.attribute else {
        return None;
    };
    let values = set.without_other_wildcards()?;
    let keys = values.exact.iter().map(|text| Key::Principal(text));
    values.prefixes.is_empty().then(|| keys.collect())
}

fn namespaces(test: &Test) -> Option<Vec<Key<'_>>> {
    let Attribute::Namespace(set) = &test.attribute else {
        return None;
    };
    let values = set.without_other_wildcards()?;
    let keys = values.exact.iter().map(|text| Key::Namespace(text));
    values.prefixes.is_empty().then(|| keys.collect())
}

fn paths(test: &Test) -> Option<Vec<Key<'_>>> {
    let Attribute::Path(set, templates) = &test.attribute else {
        return None;
    };
    let values = set.without_other_wildcards()?;
    let exact = values.exact.iter().map(|text| Key::Path(text));
    let prefixes = values.prefixes.iter().map(|text| Key::PathPrefix(text));
    templates
        .is_empty()
        .then(|| exact.chain(prefixes).collect())
}
