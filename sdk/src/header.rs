//! Headers of a configuration, checked when they are read.
//!
//! A host that is given a name or value that no message can carry fails at the request, and the
//! `proxy-wasm` crate turns that into a panic of the whole filter. What is read as a [`Header`] is
//! right before the first request.

use serde::{de::Error as _, Deserialize, Deserializer};

/// A header as configured: `{"name": "x-team", "value": "payments"}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
}

/// A name that a header may have, in lower case as hosts hold them. Never a pseudo-header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderName(String);

/// A value that a header may have: visible characters, with spaces and tabs inside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderValue(String);

impl HeaderName {
    /// Takes a name; `None` where it is no token of RFC 9110.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let good = !name.is_empty() && name.bytes().all(token);
        good.then(|| Self(name.to_ascii_lowercase()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl HeaderValue {
    /// Takes a value; `None` where it has control characters, or blanks at an end.
    #[must_use]
    pub fn new(value: &str) -> Option<Self> {
        let control = |byte: u8| byte != b'\t' && byte.is_ascii_control();
        let blank = |it: char| it == ' ' || it == '\t';
        let good = !value.bytes().any(control) && value.trim_matches(blank) == value;
        good.then(|| Self(value.to_owned()))
    }

    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HeaderName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{text:?} is no header name: letters, digits and hyphens make one"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for HeaderValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{text:?} is no header value: it has control characters or blanks at an end"
            ))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_in_lower_case() {
        assert_eq!(HeaderName::new("X-Team").unwrap().as_str(), "x-team");
        for bad in ["", ":path", "a b", "a\r\nb", "ä", "a:"] {
            assert_eq!(HeaderName::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn values_cannot_end_the_line() {
        for good in ["", "a", "a b\tc", "ä"] {
            assert_eq!(HeaderValue::new(good).unwrap().as_str(), good);
        }
        for bad in ["a\r\nb: c", "a\nb", "a\0", "\x7f", " a", "a\t"] {
            assert_eq!(HeaderValue::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_header_is_an_error_of_its_field() {
        let json = br#"[{"name": "x-a", "value": "1"}, {"name": "x b", "value": "2"}]"#;
        let error = crate::config::parse::<Vec<Header>>(Some(json)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("[1].name: \"x b\" is no header name"),
            "{text}"
        );
    }
}
