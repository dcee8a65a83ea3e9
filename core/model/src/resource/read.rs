//! Reading one typed value out of JSON, with the path of whatever is wrong with it.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A value that was read, and the paths of the fields nobody knows.
pub(crate) struct Read<T> {
    pub(crate) value: T,
    pub(crate) unknown: Vec<String>,
}

/// Why a value could not be read.
pub(crate) struct ReadError {
    /// Path of the field; empty for the whole document.
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// Reads a value. Fields that are `null` count as absent, as an API server would have dropped them.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<Read<T>, ReadError> {
    let stripped;
    let value = if has_null(value) {
        stripped = without_null(value);
        &stripped
    } else {
        value
    };
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(path_text(&path));
    let ignored = serde_ignored::Deserializer::new(value, &mut note);
    let deserializer = serde_path_to_error::Deserializer::new(ignored, &mut track);
    match T::deserialize(deserializer) {
        Ok(value) => Ok(Read { value, unknown }),
        Err(error) => Err(ReadError {
            path: match track.path().to_string() {
                root if root == "." => String::new(),
                path => path,
            },
            reason: error.to_string(),
        }),
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().any(|v| v.is_null() || has_null(v)),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_null(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_null).collect()),
        other => other.clone(),
    }
}

fn path_text(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        Path::Map { parent, key } => match path_text(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => path_text(parent),
    }
}
