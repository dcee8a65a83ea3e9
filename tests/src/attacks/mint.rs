//! Keys and tokens that cases name, and everything else in a text that is known only when it runs.
//!
//! Keys are made afresh for each run; a file says of what kind they are. A token is signed anew each time
//! it is named, so that what it says of the time holds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::bytes::unescape;
use crate::tokens::{SigningKey, seconds_from_now, shared_secret};

/// A key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// RS256, ES256, EdDSA, …; none where it signs nothing.
    #[serde(default)]
    pub algorithm: Option<String>,
    /// Its name; its key set does not name it where that is empty.
    #[serde(default)]
    pub kid: String,
    /// Its public half, where it is none of a real key.
    #[serde(default)]
    pub jwk: Option<String>,
}

/// A token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The key that signs it.
    #[serde(default)]
    pub key: Option<String>,
    /// The secret that signs it instead (HMAC with SHA-256).
    #[serde(default)]
    pub secret: Option<String>,
    /// Its header; that of its key by default.
    #[serde(default)]
    pub header: Option<String>,
    /// Its claims, as they are written.
    pub claims: String,
    /// How its parts stand: `<h>.<p>.<s>`.
    #[serde(default)]
    pub whole: Option<String>,
}

/// Makes them.
pub(super) struct Mint {
    keys: BTreeMap<String, (Option<SigningKey>, String)>,
    tokens: BTreeMap<String, Token>,
    turn: Cell<u32>,
}

impl Mint {
    pub(super) fn new(keys: &BTreeMap<String, Key>, tokens: &BTreeMap<String, Token>) -> Self {
        let make = |(name, key): (&String, &Key)| {
            let signing = key
                .algorithm
                .as_ref()
                .map(|algorithm| SigningKey::new(algorithm, &key.kid));
            let public = match (&key.jwk, &signing) {
                (Some(jwk), _) => text(unescape(jwk)),
                (None, Some(key)) => key.jwk.to_string(),
                (None, None) => panic!("the key {name} has neither an algorithm nor a jwk"),
            };
            (name.clone(), (signing, public))
        };
        Self {
            keys: keys.iter().map(make).collect(),
            tokens: tokens.clone(),
            turn: Cell::new(0),
        }
    }

    /// Puts what is known now into a text: `<token:NAME>`, `<payload:NAME>` (its claims in base64url),
    /// `<jwk:NAME>` (`<jwk:NAME*N>`: N times, with commas), `<pem:NAME>`, `<now+N>` and `<now-N>` (seconds
    /// since 1970), `<turn>` (another number each time) and `<ip:N>` (a host of the mesh).
    pub(super) fn fill(&self, text: &str, ip: &dyn Fn(u8) -> IpAddr) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest
                .find('>')
                .map(|end| (end, self.known(&rest[1..end], ip)));
            match end {
                Some((end, Some(known))) => {
                    filled.push_str(&known);
                    rest = &rest[end + 1..];
                }
                _ => {
                    filled.push('<');
                    rest = &rest[1..];
                }
            }
        }
        filled.push_str(rest);
        filled
    }

    fn known(&self, word: &str, ip: &dyn Fn(u8) -> IpAddr) -> Option<String> {
        if let Some(offset) = word.strip_prefix("now") {
            return Some(seconds_from_now(offset.parse().ok()?).to_string());
        }
        if word == "turn" {
            self.turn.set(self.turn.get() + 1);
            return Some(self.turn.get().to_string());
        }
        let (kind, name) = word.split_once(':')?;
        match kind {
            "token" => Some(self.token(name, ip)),
            "payload" => Some(URL_SAFE_NO_PAD.encode(self.claims(self.named(name), ip))),
            "jwk" => {
                let (name, times) = name.split_once('*').unwrap_or((name, "1"));
                Some(vec![self.key(name).1.clone(); times.parse().ok()?].join(","))
            }
            "pem" => self.key(name).0.as_ref().map(|key| key.pem.clone()),
            "ip" => Some(ip(name.parse().ok()?).to_string()),
            _ => None,
        }
    }

    fn token(&self, name: &str, ip: &dyn Fn(u8) -> IpAddr) -> String {
        let token = self.named(name);
        let signs = token.key.as_deref().map(|key| self.key(key).0.as_ref());
        let signs = signs.map(|key| key.unwrap_or_else(|| panic!("{name}: its key signs nothing")));
        let header = match (&token.header, signs) {
            (Some(header), _) => unescape(&self.fill(header, ip)),
            (None, Some(key)) => key.header().to_string().into_bytes(),
            (None, None) => panic!("the token {name} has neither a header nor a key"),
        };
        let [h, p] = [header, self.claims(token, ip)].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{h}.{p}");
        let s = match (&token.secret, signs) {
            (Some(secret), _) => {
                let secret = unescape(&self.fill(secret, ip));
                shared_secret(&secret, signed.as_bytes())
            }
            (None, Some(key)) => key.sign(signed.as_bytes()),
            (None, None) => String::new(),
        };
        let whole = token.whole.as_deref().unwrap_or("<h>.<p>.<s>");
        let whole = whole.replace("<h>", &h).replace("<p>", &p);
        text(unescape(&whole.replace("<s>", &s)))
    }

    fn claims(&self, token: &Token, ip: &dyn Fn(u8) -> IpAddr) -> Vec<u8> {
        unescape(&self.fill(&token.claims, ip))
    }

    fn named(&self, name: &str) -> &Token {
        let token = self.tokens.get(name);
        token.unwrap_or_else(|| panic!("there is no token {name}"))
    }

    fn key(&self, name: &str) -> &(Option<SigningKey>, String) {
        let key = self.keys.get(name);
        key.unwrap_or_else(|| panic!("there is no key {name}"))
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_only_now_is_put_in_and_the_rest_stays() {
        let key = Key {
            algorithm: Some("ES256".to_owned()),
            kid: "k".to_owned(),
            jwk: None,
        };
        let token = Token {
            key: Some("one".to_owned()),
            secret: None,
            header: None,
            claims: r#"{"exp":<now+60>,{2*"c%":1,}"z":0}"#.to_owned(),
            whole: Some("<h>.<p>.".to_owned()),
        };
        let mint = Mint::new(
            &[("one".to_owned(), key)].into(),
            &[("t".to_owned(), token)].into(),
        );
        let fill = |text: &str| mint.fill(text, &|n| [127, 0, 0, n].into());
        assert_eq!(fill("a <b> <ip:9> <x:y> <"), "a <b> 127.0.0.9 <x:y> <");
        assert_eq!((fill("<turn>"), fill("<turn>")), ("1".into(), "2".into()));
        let both = fill("<jwk:one*2>");
        assert_eq!(both.matches("\"kid\":\"k\"").count(), 2, "{both}");
        let token = fill("<token:t>");
        let payload = token.split('.').nth(1).unwrap();
        let claims = text(URL_SAFE_NO_PAD.decode(payload).unwrap());
        assert!(claims.ends_with(r#","c0":1,"c1":1,"z":0}"#), "{claims}");
        assert!(token.ends_with('.'), "{token}");
    }
}
