//! How modules of plugins are obtained, as flags.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use wayline_fetch::Client;
use wayline_wasm_host::{HostSettings, ModuleSettings};

use crate::failure::Failure;
use crate::fetching::FetchArgs;

/// Flags about modules.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ModuleArgs {
    /// Registries (HOST[:PORT], or * for all) that may be talked to without TLS if they have none.
    #[arg(
        long = "wasm-insecure-registries",
        value_name = "HOST",
        env = "WAYLINE_WASM_INSECURE_REGISTRIES",
        value_delimiter = ','
    )]
    insecure_registries: Vec<String>,
    /// Folder for modules and what they were compiled to [default for `run`: wayline/wasm in
    /// XDG_CACHE_HOME, for root in /var/cache, else in ~/.cache; for others: none].
    #[arg(long = "wasm-cache-dir", value_name = "DIR", env = "WAYLINE_WASM_CACHE_DIR", value_hint = ValueHint::DirPath)]
    cache_dir: Option<PathBuf>,
    /// Variables of this process's environment that plugins may read (vmConfig.env with valueFrom: HOST).
    #[arg(
        long = "wasm-host-env",
        value_name = "NAME",
        env = "WAYLINE_WASM_HOST_ENV",
        value_delimiter = ','
    )]
    host_env: Vec<String>,
    #[command(flatten)]
    fetch: FetchArgs,
}

impl ModuleArgs {
    /// The client that fetches, also what is no module.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        self.fetch.client()
    }

    /// How modules may run.
    pub(crate) fn host_settings(&self) -> HostSettings {
        HostSettings {
            host_environment: self.host_env.clone(),
            ..HostSettings::default()
        }
    }

    /// The settings they make. Without a folder named, modules are kept in `default` one.
    pub(crate) fn settings(&self, default: Option<PathBuf>) -> Result<ModuleSettings, Failure> {
        let mut settings = ModuleSettings::new(self.fetch.client()?);
        settings
            .insecure_registries
            .clone_from(&self.insecure_registries);
        settings.cache = self.cache_dir.clone().or(default);
        Ok(settings)
    }
}

/// The folder for what a user's programs may lose.
pub(crate) fn default_cache() -> PathBuf {
    let named = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let root = rustix::process::geteuid().is_root();
    let base = named("XDG_CACHE_HOME")
        .or_else(|| {
            named("HOME")
                .filter(|_| !root)
                .map(|home| home.join(".cache"))
        })
        .unwrap_or_else(|| PathBuf::from("/var/cache"));
    base.join("wayline/wasm")
}
