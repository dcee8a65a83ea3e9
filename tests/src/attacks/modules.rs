//! Hostile modules and registries: which there are, and the tests that show what becomes of them.

use serde::Deserialize;

/// One case of `tests/attacks/modules.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostileModule {
    /// Its class: W01 to W22, O01 to O06.
    pub id: String,
    /// What it does.
    pub what: String,
    /// The defence without which its test fails.
    pub defence: String,
    /// Its test among those of `wayline-wasm-host`, which has no sockets.
    #[serde(default)]
    pub test: Option<String>,
    /// Its test among those of the black box.
    #[serde(default)]
    pub black_box: Option<String>,
}

#[derive(Deserialize)]
struct Catalogue {
    case: Vec<HostileModule>,
}

impl HostileModule {
    /// All of them.
    ///
    /// # Panics
    /// When the file is not there or says what the format does not know.
    #[must_use]
    pub fn catalogue() -> Vec<Self> {
        let file = super::folder().join("modules.toml");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let catalogue: Catalogue =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        catalogue.case
    }
}
