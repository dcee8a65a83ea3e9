//! The process's log: to stderr, as text for people or JSON for machines, its level changeable while
//! it runs.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};

use crate::failure::Failure;

/// What is logged unless told otherwise.
const DEFAULT: &str = "info";

/// Changes the level of the running process.
#[derive(Clone, Debug)]
pub(crate) struct LogLevels {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging. `filter` is what `RUST_LOG` would hold, e.g. `info,wayline_proxy=debug`; without
/// it `RUST_LOG` counts.
pub(crate) fn start(filter: Option<&str>, format: Option<LogFormat>) -> Result<LogLevels, Failure> {
    let from_env = std::env::var("RUST_LOG").ok();
    let filter = filter.or(from_env.as_deref()).filter(|it| !it.is_empty());
    let filter = parse(filter.unwrap_or(DEFAULT)).map_err(|error| {
        Failure::new(format!("the log filter is not valid: {error}"))
            .remedy("use a level (info) or levels by module (info,wayline_proxy=debug)")
    })?;
    let (filter, handle) = reload::Layer::new(filter);
    let to_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if to_terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_timer(SystemTime)
        // A closed stderr must not become a panic.
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(to_terminal && colours()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(Failure::new)?;
    Ok(LogLevels { handle })
}

impl wayline_proxy::LogLevels for LogLevels {
    fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse(filter).map_err(|error| error.to_string())?;
        self.handle
            .reload(filter)
            .map_err(|error| error.to_string())
    }

    fn current(&self) -> String {
        self.handle
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(filter)
}

/// See <https://no-color.org>.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
