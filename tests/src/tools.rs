//! Where the product and the tools are; `cargo xtask test` sets the variables.

use std::path::PathBuf;

/// The product.
///
/// # Panics
/// When `WAYLINE_BIN` is not set: a missing tool is a failure, never a skipped test.
#[must_use]
pub fn wayline() -> PathBuf {
    from_environment("WAYLINE_BIN")
}

/// The product with switches that take defences away.
///
/// # Panics
/// When `WAYLINE_UNDEFENDED` is not set.
#[must_use]
pub fn undefended() -> PathBuf {
    from_environment("WAYLINE_UNDEFENDED")
}

/// A tool of the folder `WAYLINE_TOOLS`: `envoy` or `curl`.
///
/// # Panics
/// When the variable is not set or the tool is not there.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = from_environment("WAYLINE_TOOLS").join(name);
    assert!(
        path.exists(),
        "{} is missing; try: cargo xtask tools",
        path.display()
    );
    path
}

fn from_environment(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    let path = value.unwrap_or_else(|| panic!("{name} is not set; try: cargo xtask test"));
    let path = PathBuf::from(path);
    assert!(path.is_absolute(), "{name} must be an absolute path");
    path
}
