//! Secrets, of which only those with credentials for registries are read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::read::{self, ReadError};

/// The type of a Secret with credentials for registries.
pub(crate) const DOCKER_CONFIG: &str = "kubernetes.io/dockerconfigjson";

const KEY: &str = ".dockerconfigjson";

/// The `.dockerconfigjson` of a Secret of that type.
#[derive(Clone, PartialEq)]
pub struct RegistryCredentials(pub Arc<str>);

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryCredentials(redacted)")
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    data: BTreeMap<String, String>,
    string_data: BTreeMap<String, String>,
}

/// Reads a Secret of type [`DOCKER_CONFIG`].
pub(super) fn read(document: &Value) -> Result<RegistryCredentials, ReadError> {
    let Written { data, string_data } = read::read(document)?.value;
    let wrong = |path: &str, reason: &str| ReadError {
        path: format!("{path}[{KEY}]"),
        reason: reason.to_owned(),
    };
    let (text, path) = match (string_data.get(KEY), data.get(KEY)) {
        (Some(text), _) => (text.clone(), "stringData"),
        (None, Some(encoded)) => {
            let bytes = BASE64_STANDARD
                .decode(encoded.trim())
                .map_err(|_| wrong("data", "it is not base64"))?;
            let text = String::from_utf8(bytes);
            (text.map_err(|_| wrong("data", "it is not text"))?, "data")
        }
        (None, None) => return Err(wrong("data", "it is missing")),
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(config) if config["auths"].is_object() => Ok(RegistryCredentials(text.into())),
        _ => Err(wrong(path, "it is no JSON with `auths`")),
    }
}
