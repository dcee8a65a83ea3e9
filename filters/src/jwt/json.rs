//! JSON as tokens may hold it: one object whose members are there once, and not deeper than anybody needs.
//!
//! Of a member that is there twice one reader takes the first and another the last (RFC 7519, 4): whoever
//! wrote it may hope that we judge one and the backend reads the other.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use wayline_model::defence::stands;

/// Lists and objects within each other.
const MAX_DEPTH: usize = 32;

/// Reads an object; `None` where it is none, or not one that every reader reads alike.
pub(super) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(MAX_DEPTH).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// A value with so many levels below it.
#[derive(Clone, Copy)]
struct Strict(usize);

impl Strict {
    fn below<E: Error>(self) -> Result<Self, E> {
        let levels = self.0.checked_sub(1);
        levels.map(Self).ok_or_else(|| E::custom("it is too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(below)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut members = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value_seed(below)?;
            if members.insert(name, value).is_some() && stands("token-members") {
                return Err(Error::custom("a member is there twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_serde_reads_it() {
        let text = r#"{"a":[1,-1,1.5,null,true,"x"],"b":{"c":{}}}"#;
        let same: Value = serde_json::from_str(text).unwrap();
        assert_eq!(object(text.as_bytes()).map(Value::Object), Some(same));
    }

    #[test]
    fn what_has_two_readings_has_none() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"a":1}{"#,
            r#"{"a":1} x"#,
            "[]",
            "1",
            "",
            "{\"a\":\"\u{1}\"}",
        ] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            object(format!("{{\"a\":{open}{close}}}").as_bytes())
        };
        assert!(nested(MAX_DEPTH - 1).is_some());
        assert!(nested(MAX_DEPTH).is_none());
        assert!(nested(100_000).is_none());
    }
}
