//! Keys ready to verify with, and verifying.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use wayline_model::authentication::Jwks;
use wayline_model::authentication::jwks::{EcCurve, KeyMaterial};
use wayline_model::defence::stands;

use super::refusal::Refusal;
use super::token::{Signed, Token, algorithm_of};

/// The keys of one issuer.
pub(super) struct KeySet(Vec<Key>);

struct Key {
    kid: Option<Box<str>>,
    /// The one algorithm this key is for, where the key set says so.
    algorithm: Option<Signed>,
    material: Material,
}

enum Material {
    Known {
        /// The algorithms of its kind.
        family: &'static [Algorithm],
        key: DecodingKey,
    },
    /// A point of P-521, uncompressed (SEC 1).
    P521(Vec<u8>),
}

impl KeySet {
    /// Makes keys of a key set; those whose numbers are none are left out.
    pub(super) fn new(set: &Jwks) -> Self {
        let keys = set.keys.iter().filter_map(|jwk| {
            let algorithm = match jwk.algorithm.as_deref() {
                // A name that is not known was left out with its key when the set was read.
                Some(name) => Some(algorithm_of(name)?),
                None => None,
            };
            Some(Key {
                kid: jwk.kid.as_deref().map(Into::into),
                algorithm,
                material: Material::of(&jwk.material)?,
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
            if key.material.signed(token) {
                return Ok(());
            }
        }
        Err(fault)
    }
}

impl Material {
    fn of(written: &KeyMaterial) -> Option<Self> {
        let (key, family): (_, &[_]) = match written {
            KeyMaterial::Rsa { n, e } => (DecodingKey::from_rsa_components(n, e), RSA),
            KeyMaterial::Ec { curve, x, y } => {
                let family: &[_] = match curve {
                    EcCurve::P256 => &[Algorithm::ES256],
                    EcCurve::P384 => &[Algorithm::ES384],
                    EcCurve::P521 => return point(x, y).map(Self::P521),
                };
                (DecodingKey::from_ec_components(x, y), family)
            }
            KeyMaterial::Ed25519 { x } => (DecodingKey::from_ed_components(x), &[Algorithm::EdDSA]),
        };
        let key = key.ok()?;
        Some(Self::Known { family, key })
    }

    fn signed(&self, token: &Token<'_>) -> bool {
        let message = token.signed.as_bytes();
        match (self, token.algorithm) {
            (Self::Known { family, key }, Signed::By(algorithm)) if family.contains(&algorithm) => {
                let good = jsonwebtoken::crypto::verify(token.signature, message, key, algorithm);
                matches!(good, Ok(true))
            }
            (Self::P521(point), Signed::Es512) => {
                let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point);
                let signature = URL_SAFE_NO_PAD.decode(token.signature);
                signature.is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            _ => false,
        }
    }
}

fn point(x: &str, y: &str) -> Option<Vec<u8>> {
    let mut point = vec![4];
    point.extend(URL_SAFE_NO_PAD.decode(x).ok()?);
    point.extend(URL_SAFE_NO_PAD.decode(y).ok()?);
    Some(point)
}

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
