//! `wayline version`.

use crate::failure::Failure;
use crate::output;

/// Prints name, version and target.
pub(crate) fn run() -> Result<(), Failure> {
    let text = format!(
        "wayline {} ({}, {})\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    output::print(text.as_bytes())
}
