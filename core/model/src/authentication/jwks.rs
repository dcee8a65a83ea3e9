//! Key sets: which of an issuer's published keys can verify a signature.
//!
//! Only public keys are taken (RFC 7517, 7518, 8037): a secret in a key set, or a key meant for
//! encryption, is left out, and the key set says so. This room refuses to know cryptography; whoever
//! verifies decodes the numbers.

use std::sync::Arc;

use serde_json::Value;

/// Most keys that are read of one set.
pub const MAX_KEYS: usize = 100;

/// Longest key set that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// The keys of one issuer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Jwks {
    /// Keys that can verify a signature, in the order of the set.
    pub keys: Vec<Jwk>,
    /// Why other keys of the set were left out, each with its `kid` or place.
    pub left_out: Vec<String>,
}

/// One public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Jwk {
    /// Its name.
    pub kid: Option<Arc<str>>,
    /// The one algorithm it is for; any of its family where not given.
    pub algorithm: Option<Arc<str>>,
    /// The key itself.
    pub material: KeyMaterial,
}

/// The numbers of a public key, in base64url as written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyMaterial {
    /// `RSA`: modulus and exponent.
    Rsa {
        /// Modulus.
        n: Arc<str>,
        /// Exponent.
        e: Arc<str>,
    },
    /// `EC` on P-256, P-384 or P-521.
    Ec {
        /// The curve.
        curve: EcCurve,
        /// Abscissa.
        x: Arc<str>,
        /// Ordinate.
        y: Arc<str>,
    },
    /// `OKP` on Ed25519.
    Ed25519 {
        /// The public key.
        x: Arc<str>,
    },
}

/// A curve that signatures are verified on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EcCurve {
    /// NIST P-256, for ES256.
    P256,
    /// NIST P-384, for ES384.
    P384,
    /// NIST P-521, for ES512.
    P521,
}

/// Why a document is no key set. The message never repeats what the document says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwksError {
    /// Longer than [`MAX_BYTES`].
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// No JSON object with a list `keys`.
    #[error("it is no JSON object with a list `keys`")]
    NoKeySet,
    /// More than [`MAX_KEYS`].
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
}

impl Jwks {
    /// Reads a key set.
    ///
    /// # Errors
    ///
    /// A [`JwksError`] where the document is no key set at all. One without a usable key is read; it
    /// verifies nothing.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        if document.len() > MAX_BYTES {
            return Err(JwksError::TooLong);
        }
        let value: Value = serde_json::from_slice(document).map_err(|_| JwksError::NoKeySet)?;
        let keys = value["keys"].as_array().ok_or(JwksError::NoKeySet)?;
        if keys.len() > MAX_KEYS {
            return Err(JwksError::TooMany);
        }
        let mut set = Self::default();
        for (at, key) in keys.iter().enumerate() {
            match read_key(key) {
                Ok(key) => set.keys.push(key),
                Err(reason) => {
                    let name = match key["kid"].as_str() {
                        Some(kid) => format!("key `{}`", kid.escape_debug()),
                        None => format!("key {at}"),
                    };
                    set.left_out.push(format!("{name} {reason}"));
                }
            }
        }
        Ok(set)
    }
}

fn read_key(key: &Value) -> Result<Jwk, &'static str> {
    let text = |name: &str| match &key[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Arc::from(text.as_str()))),
        _ => Err("has a member that is no string"),
    };
    if text("use")?.is_some_and(|it: Arc<str>| &*it != "sig") {
        return Err("is not meant for signatures");
    }
    if let Some(operations) = key["key_ops"].as_array()
        && !operations.iter().any(|it| it == "verify")
    {
        return Err("is not meant for verifying");
    }
    let number = |name: &str, bytes: std::ops::RangeInclusive<usize>| {
        let number: Arc<str> = text(name)?.ok_or("lacks a number of its kind")?;
        let is_base64url = number
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let length = number.len() * 3 / 4;
        if is_base64url && bytes.contains(&length) {
            Ok(number)
        } else {
            Err("has a number that is not one of its kind in base64url")
        }
    };
    let (material, algorithms): (_, &[&str]) = match key["kty"].as_str() {
        Some("RSA") => (
            KeyMaterial::Rsa {
                n: number("n", 256..=1024)
                    .map_err(|_| "has no modulus of 2048 to 8192 bits in base64url")?,
                e: number("e", 1..=4)?,
            },
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ),
        Some("EC") => match key["crv"].as_str() {
            Some("P-256") => (
                KeyMaterial::Ec {
                    curve: EcCurve::P256,
                    x: number("x", 32..=32)?,
                    y: number("y", 32..=32)?,
                },
                &["ES256"],
            ),
            Some("P-384") => (
                KeyMaterial::Ec {
                    curve: EcCurve::P384,
                    x: number("x", 48..=48)?,
                    y: number("y", 48..=48)?,
                },
                &["ES384"],
            ),
            Some("P-521") => (
                KeyMaterial::Ec {
                    curve: EcCurve::P521,
                    x: number("x", 66..=66)?,
                    y: number("y", 66..=66)?,
                },
                &["ES512"],
            ),
            _ => return Err("is on a curve other than P-256, P-384 and P-521"),
        },
        Some("OKP") if key["crv"] == "Ed25519" => (
            KeyMaterial::Ed25519 {
                x: number("x", 32..=32)?,
            },
            &["EdDSA"],
        ),
        Some("OKP") => return Err("is on a curve other than Ed25519"),
        Some("oct") => return Err("is a shared secret; tokens are taken under public keys only"),
        _ => return Err("is of no known kty"),
    };
    let algorithm = text("alg")?;
    if let Some(algorithm) = &algorithm
        && !algorithms.contains(&&**algorithm)
    {
        return Err("names an algorithm that is not one of its kind");
    }
    Ok(Jwk {
        kid: text("kid")?,
        algorithm,
        material,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keys: &str) -> Jwks {
        Jwks::parse(format!("{{\"keys\":[{keys}]}}").as_bytes()).unwrap()
    }

    fn ec(rest: &str) -> String {
        let number = "a".repeat(43);
        format!(r#"{{"kty":"EC","crv":"P-256","x":"{number}","y":"{number}"{rest}}}"#)
    }

    #[test]
    fn what_can_not_verify_a_signature_is_left_out() {
        let rsa = |bits: usize, rest: &str| {
            let modulus = "A".repeat(bits / 6 + 1);
            format!(r#"{{"kty":"RSA","n":"{modulus}","e":"AQAB"{rest}}}"#)
        };
        for (key, taken) in [
            (ec(""), true),
            (ec(r#","use":"sig","alg":"ES256","kid":"a""#), true),
            (ec(r#","use":"enc""#), false),
            (ec(r#","key_ops":["verify"]"#), true),
            (ec(r#","key_ops":["encrypt"]"#), false),
            (ec(r#","alg":"ES384""#), false),
            (ec(r#","alg":"HS256""#), false),
            (ec(r#","kid":1"#), false),
            (ec("").replace("P-256", "P-521"), false),
            (
                ec("")
                    .replace("P-256", "P-521")
                    .replace(&"a".repeat(43), &"a".repeat(88)),
                true,
            ),
            (ec("").replace("P-256", "secp256k1"), false),
            (ec("").replace("aaa", "a=a"), false),
            (rsa(2048, ""), true),
            (rsa(2048, r#","alg":"PS512""#), true),
            (rsa(2048, r#","alg":"none""#), false),
            (rsa(1024, ""), false),
            (rsa(16384, ""), false),
            (r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(), false),
            (
                format!(
                    r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#,
                    "a".repeat(43)
                ),
                true,
            ),
            (r#"{"kty":"OKP","crv":"X25519","x":"a"}"#.to_owned(), false),
            (r#"{"kty":"RSA"}"#.to_owned(), false),
            ("7".to_owned(), false),
        ] {
            let set = parse(&key);
            assert_eq!(set.keys.len(), usize::from(taken), "{key}");
            assert_eq!(set.left_out.len(), usize::from(!taken), "{key}");
        }
    }

    #[test]
    fn what_is_no_key_set_is_refused_without_repeating_it() {
        for bad in ["", "x", "[]", "{}", r#"{"keys":{}}"#, "<html>secret</html>"] {
            let error = Jwks::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error, JwksError::NoKeySet);
            assert!(!error.to_string().contains("secret"));
        }
        let many = vec![ec(""); MAX_KEYS + 1].join(",");
        let many = format!("{{\"keys\":[{many}]}}");
        assert_eq!(Jwks::parse(many.as_bytes()), Err(JwksError::TooMany));
        let long = " ".repeat(MAX_BYTES + 1);
        assert_eq!(Jwks::parse(long.as_bytes()), Err(JwksError::TooLong));
    }
}
