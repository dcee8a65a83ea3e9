//! Issuers of tokens: real keys, made afresh, with their public halves as JSON Web Keys.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData,
};
use serde_json::{Value, json};

/// One signing key.
pub struct SigningKey {
    key: EncodingKey,
    algorithm: Algorithm,
    /// Its public half.
    pub jwk: Value,
    /// The same as PEM.
    pub pem: String,
}

impl SigningKey {
    /// A key for one of RS*, PS*, ES256, ES384, EdDSA; `kid` is left out where it is empty.
    ///
    /// # Panics
    /// For other algorithms, and where no key can be made.
    #[must_use]
    #[allow(clippy::unwrap_used, reason = "a test may stop where it stands")]
    pub fn new(algorithm: &str, kid: &str) -> Self {
        let kind = match algorithm {
            "ES256" => &PKCS_ECDSA_P256_SHA256,
            "ES384" => &PKCS_ECDSA_P384_SHA384,
            "EdDSA" => &PKCS_ED25519,
            _ => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let pkcs8 = pair.serialize_der();
        let public = pair.der_bytes();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (key, mut jwk) = match algorithm {
            "EdDSA" => (
                EncodingKey::from_ed_der(&pkcs8),
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(public)}),
            ),
            "ES256" | "ES384" => {
                let (x, y) = public[1..].split_at((public.len() - 1) / 2);
                let curve = if algorithm == "ES256" {
                    "P-256"
                } else {
                    "P-384"
                };
                (
                    EncodingKey::from_ec_der(&pkcs8),
                    json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)}),
                )
            }
            _ => {
                // RFC 5958: version, algorithm, key; RFC 8017: modulus, exponent.
                let whole = elements(&pkcs8);
                let numbers = elements(public);
                let [n, e] = [0, 1].map(|at| {
                    let number: &[u8] = &numbers[at];
                    text(number.strip_prefix(&[0]).unwrap_or(number))
                });
                (
                    EncodingKey::from_rsa_der(&whole[2]),
                    json!({"kty": "RSA", "n": n, "e": e}),
                )
            }
        };
        if !kid.is_empty() {
            jwk["kid"] = kid.into();
        }
        Self {
            key,
            algorithm: algorithm.parse().unwrap(),
            jwk,
            pem: pair.public_key_pem(),
        }
    }

    /// A token with these claims, signed by this key under a header that names it.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.token_under(&self.header(), claims)
    }

    /// The header of its tokens.
    #[must_use]
    pub fn header(&self) -> Value {
        let mut header = json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT"});
        if let Some(kid) = self.jwk.get("kid") {
            header["kid"] = kid.clone();
        }
        header
    }

    /// A token with this header.
    #[must_use]
    pub fn token_under(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{signature}")
    }

    /// A signature in base64url.
    ///
    /// # Panics
    /// Where there can be none.
    #[must_use]
    #[allow(clippy::unwrap_used, reason = "a test may stop where it stands")]
    pub fn sign(&self, message: &[u8]) -> String {
        jsonwebtoken::crypto::sign(message, &self.key, self.algorithm).unwrap()
    }

    /// A key set of this key.
    #[must_use]
    pub fn jwks(&self) -> String {
        json!({"keys": [self.jwk]}).to_string()
    }
}

/// What HMAC with SHA-256 makes of a message under a secret, in base64url.
///
/// # Panics
/// Where it makes nothing of it.
#[must_use]
#[allow(clippy::unwrap_used, reason = "a test may stop where it stands")]
pub fn shared_secret(secret: &[u8], message: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::crypto::sign(message, &key, Algorithm::HS256).unwrap()
}

/// A token that nobody signed.
#[must_use]
pub fn unsigned(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signature = URL_SAFE_NO_PAD.encode(signature);
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// Seconds since 1970, this far from now.
#[must_use]
pub fn seconds_from_now(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as i64) + offset
}

/// The contents of the elements of a DER sequence.
fn elements(der: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, _) = element(der);
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (content, behind) = element(rest);
        all.push(content.to_vec());
        rest = behind;
    }
    all
}

fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, header) = match der[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let bytes = &der[2..2 + count];
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, 2 + count)
        }
    };
    der[header..].split_at(length)
}
