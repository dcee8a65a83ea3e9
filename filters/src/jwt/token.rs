//! The form of a token: three parts, of which the header says how it is signed and the payload what it
//! claims. Nothing in here was verified.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use wayline_model::defence::stands;

use super::json;
use super::refusal::Refusal;

/// A token that has the right form.
#[derive(Debug)]
pub(super) struct Token<'t> {
    /// Header and payload as they were signed.
    pub(super) signed: &'t str,
    /// The payload as sent.
    pub(super) payload: &'t str,
    /// The signature as sent.
    pub(super) signature: &'t str,
    pub(super) algorithm: Signed,
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// Seconds since 1970.
    pub(super) not_before: Option<u64>,
    /// Seconds since 1970.
    pub(super) expires: Option<u64>,
}

impl<'t> Token<'t> {
    /// Reads a token, in the order in which Envoy finds fault with one.
    pub(super) fn parse(text: &'t str) -> Result<Self, Refusal> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Form)?;
        let is_empty = [header, payload, signature]
            .iter()
            .any(|part| part.is_empty());
        if payload.contains('.') || is_empty {
            return Err(Refusal::Form);
        }
        let header = object(header, Refusal::HeaderBase64, Refusal::HeaderJson)?;
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .ok_or(Refusal::HeaderAlg)?;
        let algorithm = algorithm_of(algorithm).ok_or(Refusal::HeaderAlgUnknown)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Refusal::HeaderKid),
        };
        // No extension is known here, and a list of none is not allowed either (RFC 7515, 4.1.11).
        if header.contains_key("crit") && stands("token-crit") {
            return Err(Refusal::HeaderCrit);
        }
        let claims = object(payload, Refusal::PayloadBase64, Refusal::PayloadJson)?;
        text_claim(&claims, "iss", Refusal::Iss)?;
        text_claim(&claims, "sub", Refusal::Sub)?;
        text_claim(&claims, "jti", Refusal::Jti)?;
        seconds(&claims, "iat", Refusal::Iat, Refusal::IatRange)?;
        let not_before = seconds(&claims, "nbf", Refusal::Nbf, Refusal::NbfRange)?;
        let expires = seconds(&claims, "exp", Refusal::Exp, Refusal::ExpRange)?;
        let audiences_are_texts = match claims.get("aud") {
            None | Some(Value::String(_)) => true,
            Some(Value::Array(list)) => list.iter().all(Value::is_string),
            Some(_) => false,
        };
        if !audiences_are_texts {
            return Err(Refusal::Aud);
        }
        if URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Refusal::SignatureBase64);
        }
        Ok(Self {
            signed,
            payload,
            signature,
            algorithm,
            kid,
            claims,
            not_before,
            expires,
        })
    }

    /// The claim `iss`; empty where there is none.
    pub(super) fn issuer(&self) -> &str {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        issuer.unwrap_or_default()
    }
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signed {
    /// As the library knows it.
    By(Algorithm),
    /// ECDSA on P-521 with SHA-512, which it does not know.
    Es512,
}

/// Signatures under public keys only: what a secret signs is never taken, let alone `none`.
pub(super) fn algorithm_of(name: &str) -> Option<Signed> {
    Some(Signed::By(match name {
        "ES512" => return Some(Signed::Es512),
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    }))
}

fn object(part: &str, encoding: Refusal, form: Refusal) -> Result<Map<String, Value>, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| encoding)?;
    json::object(&bytes).ok_or(form)
}

fn text_claim(claims: &Map<String, Value>, name: &str, wrong: Refusal) -> Result<(), Refusal> {
    match claims.get(name) {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err(wrong),
    }
}

fn seconds(
    claims: &Map<String, Value>,
    name: &str,
    wrong: Refusal,
    out_of_range: Refusal,
) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let Value::Number(number) = value else {
        return Err(wrong);
    };
    if let Some(whole) = number.as_u64() {
        return Ok(Some(whole));
    }
    match number.as_f64() {
        // Some issuers write fractions of seconds.
        Some(fraction) if (0.0..9e18).contains(&fraction) => Ok(Some(fraction as u64)),
        _ => Err(out_of_range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.AAAA", part(header), part(payload))
    }

    fn fault(header: &str, payload: &str) -> Option<Refusal> {
        Token::parse(&token(header, payload)).err()
    }

    #[test]
    fn what_is_no_token_is_named() {
        for (text, fault) in [
            ("", Refusal::Form),
            ("a.b", Refusal::Form),
            ("a.b.c.d", Refusal::Form),
            ("e30.e30.", Refusal::Form),
            (".e30.AA", Refusal::Form),
            ("!.e30.AA", Refusal::HeaderBase64),
            ("e30=.e30.AA", Refusal::HeaderBase64),
            ("YQ.e30.AA", Refusal::HeaderJson),
            ("e30.e30.AA", Refusal::HeaderAlg),
        ] {
            assert_eq!(Token::parse(text).unwrap_err(), fault, "{text}");
        }
        let good = r#"{"alg":"RS256"}"#;
        for (header, payload, expected) in [
            (r#"{"alg":1}"#, "{}", Some(Refusal::HeaderAlg)),
            (r#"{"alg":"none"}"#, "{}", Some(Refusal::HeaderAlgUnknown)),
            (r#"{"alg":"NONE"}"#, "{}", Some(Refusal::HeaderAlgUnknown)),
            (r#"{"alg":"HS256"}"#, "{}", Some(Refusal::HeaderAlgUnknown)),
            (r#"{"alg":"RS256","kid":1}"#, "{}", Some(Refusal::HeaderKid)),
            (
                r#"{"alg":"RS256","crit":["b64"]}"#,
                "{}",
                Some(Refusal::HeaderCrit),
            ),
            (
                r#"{"alg":"RS256","crit":[]}"#,
                "{}",
                Some(Refusal::HeaderCrit),
            ),
            (good, "[]", Some(Refusal::PayloadJson)),
            (good, r#"{"iss":1}"#, Some(Refusal::Iss)),
            (good, r#"{"exp":"1"}"#, Some(Refusal::Exp)),
            (good, r#"{"exp":-1}"#, Some(Refusal::ExpRange)),
            (good, r#"{"exp":1e400}"#, Some(Refusal::PayloadJson)),
            (good, r#"{"exp":1e30}"#, Some(Refusal::ExpRange)),
            (good, r#"{"exp":1.5,"nbf":7}"#, None),
            (good, r#"{"nbf":"x"}"#, Some(Refusal::Nbf)),
            (good, r#"{"aud":7}"#, Some(Refusal::Aud)),
            (good, r#"{"aud":["a",7]}"#, Some(Refusal::Aud)),
            (good, r#"{"aud":["a","b"]}"#, None),
            (good, "{}", None),
        ] {
            assert_eq!(fault(header, payload), expected, "{header} {payload}");
        }
    }

    #[test]
    fn a_good_token_keeps_what_was_signed() {
        let text = token(r#"{"alg":"ES256","kid":"k"}"#, r#"{"iss":"i","exp":9}"#);
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.algorithm, Signed::By(Algorithm::ES256));
        assert_eq!(token.kid.as_deref(), Some("k"));
        assert_eq!((token.issuer(), token.expires), ("i", Some(9)));
        assert_eq!(format!("{}.{}", token.signed, token.signature), text);
    }

    /// A small generator, so that every run tries the same (numerical recipes' constants).
    fn next(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *state >> 33
    }

    #[test]
    fn no_token_however_broken_is_more_than_refused() {
        let good = token(
            r#"{"alg":"ES256","kid":"k"}"#,
            r#"{"iss":"i","aud":["a"],"exp":9,"nbf":1.5,"x":{"y":[null]}}"#,
        );
        let mut state = 7;
        for _ in 0..20_000 {
            let mut bytes = good.clone().into_bytes();
            for _ in 0..=next(&mut state) % 4 {
                let at = next(&mut state) as usize % bytes.len();
                match next(&mut state) % 4 {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, b'.'),
                    2 => bytes[at] = (next(&mut state) % 256) as u8,
                    _ => bytes[at] = b"AZaz09-_.={}"[next(&mut state) as usize % 12],
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Ok(token) = Token::parse(&text) {
                assert_eq!(format!("{}.{}", token.signed, token.signature), text);
            }
        }
    }
}
