//! Regular expressions from manifests, bounded before they are ever run.

use regex::bytes::{Regex, RegexBuilder};

/// The most characters a pattern may have.
pub const MAX_CHARACTERS: usize = 1024;

/// The most bytes a compiled pattern may take.
pub const MAX_COMPILED_BYTES: usize = 1 << 20;

/// A regular expression that must match a text from its first byte to its last, as Envoy's
/// `safe_regex` does. The syntax is RE2's, but for the few names of Unicode classes that differ;
/// matching takes time linear in the text.
#[derive(Clone, Debug)]
pub struct CompiledPattern {
    regex: Regex,
    written: Box<str>,
}

impl CompiledPattern {
    /// Compiles a pattern of at most [`MAX_CHARACTERS`] into at most [`MAX_COMPILED_BYTES`].
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let characters = pattern.chars().count();
        if characters > MAX_CHARACTERS {
            return Err(PatternError::TooLong(characters));
        }
        // On its own first: `a)|(b` is no pattern, though it would be one between our parentheses.
        compile(pattern)?;
        let regex = compile(&format!(r"\A(?:{pattern})\z"))?;
        Ok(Self {
            regex,
            written: pattern.into(),
        })
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl PartialEq for CompiledPattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for CompiledPattern {}

/// Why a pattern is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// More than [`MAX_CHARACTERS`].
    #[error("the regular expression has {0} characters: use at most 1024")]
    TooLong(usize),
    /// Compiled, it would take more than [`MAX_COMPILED_BYTES`].
    #[error(
        "the regular expression compiles to more than 1 MiB: use smaller repetitions or classes"
    )]
    TooLarge,
    /// It is not RE2 syntax; look-around and back-references are not either.
    #[error("the regular expression is not valid: {0}")]
    Syntax(String),
}

fn compile(pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            // Its last line says what is wrong; those before draw the place in ASCII art.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                PatternError::Syntax(last.trim_start_matches("error: ").to_owned())
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_texts_only() {
        let pattern = CompiledPattern::new("/v[0-9]|/b").unwrap();
        assert!(pattern.matches(b"/v1"));
        assert!(pattern.matches(b"/b"));
        for text in [&b"/v1/x"[..], b"x/v1", b"/v1\n", b"/bb", b""] {
            assert!(!pattern.matches(text), "{text:?} matched");
        }
        assert!(!CompiledPattern::new("(?m)a").unwrap().matches(b"a\nb"));
    }

    #[test]
    fn what_is_not_a_bounded_pattern_is_refused() {
        assert_eq!(
            CompiledPattern::new(&"a".repeat(1025)),
            Err(PatternError::TooLong(1025))
        );
        assert!(CompiledPattern::new(&"ä".repeat(1024)).is_ok());
        assert_eq!(
            CompiledPattern::new(r"(\w{100}){100}"),
            Err(PatternError::TooLarge)
        );
        for syntax in ["a)|(b", "(", "a{2,1}", "(?=x)", r"(a)\1", "[z-a]"] {
            assert!(
                matches!(CompiledPattern::new(syntax), Err(PatternError::Syntax(_))),
                "{syntax} was accepted"
            );
        }
    }
}
