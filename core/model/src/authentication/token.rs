//! What a verified token says, as policies read it.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Claims whose text holds several values separated by spaces, whatever a rule says (Istio).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// The claims of a token whose signature, times and audience were found good.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifiedToken {
    claims: Map<String, Value>,
    space_delimited: Arc<[Arc<str>]>,
}

impl VerifiedToken {
    /// A token that was verified, with the claims its rule calls space-delimited.
    #[must_use]
    pub fn new(claims: Map<String, Value>, space_delimited: Arc<[Arc<str>]>) -> Self {
        Self {
            claims,
            space_delimited,
        }
    }

    /// All claims.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The claim `iss`.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// The claim `sub`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub")?.as_str()
    }

    /// `<issuer>/<subject>`, where both are there: `request.auth.principal`.
    #[must_use]
    pub fn principal(&self) -> Option<String> {
        Some(format!("{}/{}", self.issuer()?, self.subject()?))
    }

    /// The claim `aud`, a text or a list of them: `request.auth.audiences`.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, list) = match self.claims.get("aud") {
            Some(Value::Array(list)) => (None, list.as_slice()),
            other => (other, &[][..]),
        };
        one.into_iter().chain(list).filter_map(Value::as_str)
    }

    /// The claim `azp`: `request.auth.presenter`.
    #[must_use]
    pub fn presenter(&self) -> Option<&str> {
        self.claims.get("azp")?.as_str()
    }

    /// The claim at a path of names.
    #[must_use]
    pub fn claim<T: AsRef<str>>(&self, path: &[T]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let first = self.claims.get(first.as_ref())?;
        rest.iter()
            .try_fold(first, |value, name| value.as_object()?.get(name.as_ref()))
    }

    /// Whether the text of a claim holds several values.
    #[must_use]
    pub fn is_space_delimited<T: AsRef<str>>(&self, path: &[T]) -> bool {
        let [name] = path else { return false };
        SPACE_DELIMITED.contains(&name.as_ref())
            || self.space_delimited.iter().any(|it| **it == *name.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> VerifiedToken {
        VerifiedToken::new(
            serde_json::from_str(claims).unwrap(),
            Arc::from([Arc::from("roles")]),
        )
    }

    #[test]
    fn claims_are_found_by_path() {
        let token = token(r#"{"iss":"i","sub":"s","aud":["a",1,"b"],"azp":"p","x":{"y":{"z":7}}}"#);
        assert_eq!(token.principal().unwrap(), "i/s");
        assert_eq!(token.audiences().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(token.presenter(), Some("p"));
        assert_eq!(token.claim(&["x", "y", "z"]).unwrap(), 7);
        assert_eq!(token.claim(&["x", "z"]), None);
        assert_eq!(token.claim(&["iss", "y"]), None);
        assert_eq!(token.claim::<&str>(&[]), None);
        assert!(token.is_space_delimited(&["scope"]) && token.is_space_delimited(&["roles"]));
        assert!(!token.is_space_delimited(&["x", "scope"]));
    }

    #[test]
    fn there_is_no_principal_without_both_halves() {
        assert_eq!(token(r#"{"iss":"i"}"#).principal(), None);
        assert_eq!(token(r#"{"sub":"s"}"#).principal(), None);
        assert_eq!(token(r#"{"iss":"i","sub":5}"#).principal(), None);
        assert_eq!(
            token(r#"{"aud":"a"}"#).audiences().collect::<Vec<_>>(),
            ["a"]
        );
    }
}
