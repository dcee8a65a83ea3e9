//! Plugin configuration as a type of the filter's own.

use proxy_wasm::traits::RootContext;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a configuration was not accepted.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The text is no JSON.
    #[error("pluginConfig is no JSON: {reason}; write it as an object")]
    Syntax {
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A field is missing, unknown or has a value that the filter cannot use.
    #[error("pluginConfig{}: {reason}; correct it in the WasmPlugin", place(.field))]
    Field {
        /// Where, as `headers[0].name`; empty for the whole.
        field: String,
        /// What is wrong.
        reason: String,
    },
}

/// Reads the plugin's configuration in `on_configure` and hands it to `accept`.
///
/// Returns what `on_configure` is to return: `false`, after an error in the log, where the
/// configuration cannot be used.
pub fn load<R, T>(root: &mut R, accept: impl FnOnce(&mut R, T)) -> bool
where
    R: RootContext,
    T: DeserializeOwned,
{
    let json = root.get_plugin_configuration();
    match parse(json.as_deref()) {
        Ok(config) => {
            accept(root, config);
            true
        }
        Err(error) => {
            log::error!("{error}");
            false
        }
    }
}

/// Reads a configuration from JSON. None at all counts as `{}`, as a plugin without `pluginConfig`
/// has none.
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// struct Config {
///     limits: Vec<u32>,
/// }
///
/// let config: Config = wayline_sdk::config::parse(Some(br#"{"limits": [1, 2]}"#))?;
/// assert_eq!(config.limits, [1, 2]);
///
/// let wrong = wayline_sdk::config::parse::<Config>(Some(br#"{"limits": [1, -2]}"#));
/// assert!(wrong.unwrap_err().to_string().starts_with("pluginConfig.limits[1]: invalid value"));
/// # Ok::<(), wayline_sdk::config::ConfigError>(())
/// ```
///
/// # Errors
///
/// [`ConfigError`], naming the field.
pub fn parse<T: DeserializeOwned>(json: Option<&[u8]>) -> Result<T, ConfigError> {
    let json = json.unwrap_or_default();
    let json = if json.trim_ascii().is_empty() {
        b"{}"
    } else {
        json
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let config = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = match error.path().to_string() {
            root if root == "." => String::new(),
            field => field,
        };
        let reason = error.into_inner();
        if reason.is_data() {
            ConfigError::Field {
                field,
                reason: reason.to_string(),
            }
        } else {
            syntax(&reason)
        }
    })?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(config)
}

fn syntax(error: &serde_json::Error) -> ConfigError {
    ConfigError::Syntax {
        reason: error.to_string(),
    }
}

fn place(field: &str) -> String {
    match field {
        "" => String::new(),
        field => format!(".{field}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Mutex;

    use proxy_wasm::traits::Context;

    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Rule {
        limit: u8,
    }

    fn message(json: &str) -> String {
        let parsed: Result<Config, _> = parse(Some(json.as_bytes()));
        parsed.unwrap_err().to_string()
    }

    #[test]
    fn none_and_blank_are_the_empty_object() {
        for json in [None, Some(&b""[..]), Some(b" \n"), Some(b"{}")] {
            assert_eq!(parse::<Config>(json).unwrap(), Config::default());
        }
        let missing = parse::<Rule>(None).unwrap_err().to_string();
        assert!(
            missing.starts_with("pluginConfig: missing field `limit`"),
            "{missing}"
        );
    }

    #[test]
    fn errors_name_the_field() {
        let deep = message(r#"{"rules": [{"limit": 1}, {"limit": 300}]}"#);
        assert!(
            deep.starts_with("pluginConfig.rules[1].limit: invalid value"),
            "{deep}"
        );
        let unknown = message(r#"{"rulez": []}"#);
        assert!(unknown.contains("unknown field `rulez`"), "{unknown}");
    }

    #[test]
    fn what_is_no_json_is_told_from_what_is_wrong() {
        for json in ["rules: []", r#"{"rules": ["#, "{} {}"] {
            let text = message(json);
            assert!(
                text.starts_with("pluginConfig is no JSON: "),
                "{json}: {text}"
            );
        }
    }

    /// A root whose host has this configuration.
    struct Root {
        json: &'static str,
        config: Option<Config>,
    }

    impl Context for Root {}

    impl RootContext for Root {
        fn get_plugin_configuration(&self) -> Option<Vec<u8>> {
            Some(self.json.into())
        }
    }

    /// What was logged; the process has one logger.
    static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Log;

    impl log::Log for Log {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            LOGGED.lock().unwrap().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    #[test]
    fn what_cannot_be_used_is_logged_and_leaves_the_root_as_it_was() {
        log::set_logger(&Log).unwrap();
        log::set_max_level(log::LevelFilter::Error);
        let mut root = Root {
            json: r#"{"rules": [{"limit": 7}]}"#,
            config: None,
        };
        let accept = |root: &mut Root, config| root.config = Some(config);
        assert!(load(&mut root, accept));
        assert_eq!(root.config.as_ref().unwrap().rules[0].limit, 7);

        root.json = r#"{"rules": 1}"#;
        assert!(!load(&mut root, accept));
        assert_eq!(root.config.unwrap().rules[0].limit, 7);
        let logged = LOGGED.lock().unwrap();
        assert_eq!(logged.len(), 1);
        assert!(logged[0].starts_with("pluginConfig.rules: "), "{logged:?}");
    }
}
