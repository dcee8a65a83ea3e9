//! Keys ready to verify with, and verifying.

use jsonwebtoken::{Algorithm, DecodingKey};
use wayline_model::authentication::Jwks;
use wayline_model::authentication::jwks::{EcCurve, KeyMaterial};
use wayline_model::defence::stands;

use super::refusal::Refusal;
use super::token::Token;

/// The keys of one issuer.
pub(super) struct KeySet(Vec<Key>);

struct Key {
    kid: Option<Box<str>>,
    /// The one algorithm this key is for, where the key set says so.
    algorithm: Option<Algorithm>,
    /// The algorithms of its kind.
    family: &'static [Algorithm],
    key: DecodingKey,
}

impl KeySet {
    /// Makes keys of a key set; those whose numbers are none are left out.
    pub(super) fn new(set: &Jwks) -> Self {
        let keys = set.keys.iter().filter_map(|jwk| {
            let (key, family) = match &jwk.material {
                KeyMaterial::Rsa { n, e } => (DecodingKey::from_rsa_components(n, e), RSA),
                KeyMaterial::Ec { curve, x, y } => {
                    let family: &'static [_] = match curve {
                        EcCurve::P256 => &[Algorithm::ES256],
                        EcCurve::P384 => &[Algorithm::ES384],
                    };
                    (DecodingKey::from_ec_components(x, y), family)
                }
                KeyMaterial::Ed25519 { x } => {
                    (DecodingKey::from_ed_components(x), &[Algorithm::EdDSA][..])
                }
            };
            let algorithm = jwk.algorithm.as_deref();
            Some(Key {
                kid: jwk.kid.as_deref().map(Into::into),
                // A name that is not known was left out with its key when the set was read.
                algorithm: algorithm.map(str::parse).transpose().ok()?,
                family,
                key: key.ok()?,
            })
        });
        Self(keys.collect())
    }

    /// Whether one of the keys signed the token.
    ///
    /// A key with another name is not tried; one without a name is, and so are all for a token that
    /// names none.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), Refusal> {
        if !stands("token-signature") {
            return Ok(());
        }
        if self.0.is_empty() {
            return Err(Refusal::NoValidKeys);
        }
        let mut fault = Refusal::UnknownKey;
        for key in &self.0 {
            let other_name = matches!(
                (&key.kid, &token.kid),
                (Some(ours), Some(theirs)) if **ours != **theirs
            );
            if other_name || key.algorithm.is_some_and(|it| it != token.algorithm) {
                continue;
            }
            fault = Refusal::Signature;
            if !key.family.contains(&token.algorithm) {
                continue;
            }
            let message = token.signed.as_bytes();
            let good =
                jsonwebtoken::crypto::verify(token.signature, message, &key.key, token.algorithm);
            if let Ok(true) = good {
                return Ok(());
            }
        }
        Err(fault)
    }
}

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
