//! SHA-256 digests, as they are written.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wayline_model::defence::stands;

use super::error::ModuleError;

/// A SHA-256 digest.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits, with or without `sha256:` before them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).ok()?;
        }
        Some(Self(digest))
    }

    /// Compares `bytes` with what was asked for.
    pub(crate) fn check(self, what: &str, bytes: &[u8]) -> Result<(), ModuleError> {
        let found = Self::of(bytes);
        if found == self || !stands("module-digest") {
            return Ok(());
        }
        Err(self.mismatch(what, found))
    }

    pub(crate) fn mismatch(self, what: &str, found: Self) -> ModuleError {
        ModuleError::Digest {
            what: what.into(),
            expected: Arc::from(self.to_string()),
            found: Arc::from(found.to_string()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = Digest::of(b"wayline");
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        assert_eq!(Digest::parse(&format!("sha256:{digest}")), Some(digest));
        let upper = digest.to_string().to_uppercase();
        assert_eq!(Digest::parse(&upper), Some(digest));
        for bad in [
            "",
            "nil",
            "sha512:00",
            &upper[1..],
            &format!("{upper}0"),
            &"é".repeat(32),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
