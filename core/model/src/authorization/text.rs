//! Sets of texts as policies write them: exact, `prefix*`, `*suffix`, and `*` for anything but nothing.

use rustc_hash::FxHashSet;

/// Up to so many exact values are compared one by one, which is cheaper than hashing.
const FEW: usize = 8;

/// Alternatives, of which one must match a whole text, byte by byte.
#[derive(Clone, Debug, Default)]
pub(super) struct TextSet {
    any: bool,
    few: Vec<Box<[u8]>>,
    many: FxHashSet<Box<[u8]>>,
    prefixes: Vec<Box<[u8]>>,
    suffixes: Vec<Box<[u8]>>,
    /// The parts between `*`, for values that allow it anywhere.
    globs: Vec<Vec<Box<[u8]>>>,
}

/// The values of a set that has no others.
pub(super) struct ExactAndPrefixes<'s> {
    pub(super) exact: Vec<&'s [u8]>,
    pub(super) prefixes: &'s [Box<[u8]>],
}

impl TextSet {
    /// Reads values in which `*` means something at either end only.
    pub(super) fn new<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Self {
        let mut set = Self::default();
        for value in values {
            set.insert(value.as_ref());
        }
        set.settle();
        set
    }

    /// Reads values in which `*` means any run of characters, wherever it stands.
    pub(super) fn with_globs<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Self {
        let mut set = Self::default();
        for value in values {
            let value = value.as_ref();
            let inner = value.strip_prefix('*').unwrap_or(value);
            let inner = inner.strip_suffix('*').unwrap_or(inner);
            let both_ends = value.len() > 1 && value.starts_with('*') && value.ends_with('*');
            if both_ends || inner.contains('*') {
                let parts = value.split('*').map(|part| part.as_bytes().into());
                set.globs.push(parts.collect());
            } else {
                set.insert(value);
            }
        }
        set.settle();
        set
    }

    /// Reads values as they are, without wildcards.
    pub(super) fn literal<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Self {
        let bytes = |value: T| value.as_ref().as_bytes().into();
        let mut set = Self {
            few: values.into_iter().map(bytes).collect(),
            ..Self::default()
        };
        set.settle();
        set
    }

    /// Whether `*` is one of the values.
    pub(super) fn has_any(&self) -> bool {
        self.any
    }

    /// Whether one of the values matches.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        (self.any && !text.is_empty())
            || self.few.iter().any(|value| **value == *text)
            || (!self.many.is_empty() && self.many.contains(text))
            || self.prefixes.iter().any(|prefix| text.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| text.ends_with(suffix))
            || self.globs.iter().any(|parts| glob(parts, text))
    }

    /// The exact values and the prefixes, where there is nothing else.
    pub(super) fn without_other_wildcards(&self) -> Option<ExactAndPrefixes<'_>> {
        if self.any || !self.suffixes.is_empty() || !self.globs.is_empty() {
            return None;
        }
        Some(ExactAndPrefixes {
            exact: self
                .few
                .iter()
                .chain(&self.many)
                .map(|value| &**value)
                .collect(),
            prefixes: &self.prefixes,
        })
    }

    fn insert(&mut self, value: &str) {
        if value == "*" {
            self.any = true;
        } else if let Some(suffix) = value.strip_prefix('*') {
            self.suffixes.push(suffix.as_bytes().into());
        } else if let Some(prefix) = value.strip_suffix('*') {
            self.prefixes.push(prefix.as_bytes().into());
        } else {
            self.few.push(value.as_bytes().into());
        }
    }

    fn settle(&mut self) {
        if self.few.len() > FEW {
            self.many = self.few.drain(..).collect();
        }
    }
}

/// Matches parts in turn, each at its first place: with no look-back that takes linear steps.
fn glob(parts: &[Box<[u8]>], text: &[u8]) -> bool {
    let [first, middle @ .., last] = parts else {
        return false;
    };
    let Some(rest) = text.strip_prefix(&**first) else {
        return false;
    };
    let Some(mut rest) = rest.strip_suffix(&**last) else {
        return false;
    };
    for part in middle {
        let Some(at) = memchr::memmem::find(rest, part) else {
            return false;
        };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(values: &[&str], text: &str) -> bool {
        TextSet::new(values).matches(text.as_bytes())
    }

    #[test]
    fn wildcards_stand_at_the_ends_and_are_literal_elsewhere() {
        for (value, yes, no) in [
            ("foo", &["foo"][..], &["", "fo", "fooo", "Foo"][..]),
            ("foo*", &["foo", "foo-evil"], &["fo", "xfoo"]),
            ("*foo", &["foo", "xfoo"], &["foox"]),
            ("*", &["x", "*"], &[""]),
            ("a*b", &["a*b"], &["ab", "axb"]),
            ("*a*", &["a*", "xa*"], &["a", "xax"]),
            ("a.b", &["a.b"], &["axb"]),
            ("n[1]", &["n[1]"], &["n1"]),
        ] {
            for text in yes {
                assert!(matches(&[value], text), "{value} does not match {text}");
            }
            for text in no {
                assert!(!matches(&[value], text), "{value} matches {text}");
            }
        }
    }

    #[test]
    fn globs_match_runs_anywhere() {
        let set = |value: &str| TextSet::with_globs([value]);
        for (value, yes, no) in [
            ("a*b", &["ab", "axxb", "ab-b"][..], &["a", "b", "abx"][..]),
            ("*a*", &["a", "xax"], &["", "x"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*-a-*-b", &["x-a-y-b", "-a--b"], &["x-a-b", "x-a-y-bx"]),
            ("a*", &["a", "ab"], &["ba"]),
            ("*", &["a"], &[""]),
        ] {
            for text in yes {
                assert!(set(value).matches(text.as_bytes()), "{value} misses {text}");
            }
            for text in no {
                assert!(
                    !set(value).matches(text.as_bytes()),
                    "{value} matches {text}"
                );
            }
        }
    }

    #[test]
    fn many_values_are_found_like_few() {
        let values: Vec<String> = (0..1_000).map(|n| format!("v{n}")).collect();
        let set = TextSet::new(&values);
        assert!(set.matches(b"v999"));
        assert!(!set.matches(b"v1000"));
        assert!(TextSet::literal(["a*"]).matches(b"a*"));
        assert!(!TextSet::literal(["a*"]).matches(b"ab"));
    }
}
