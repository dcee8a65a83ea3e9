//! The Proxy-Wasm filters of `guests/`, as `cargo xtask guests` built them.

use std::path::{Path, PathBuf};

/// The module of a guest: `rust-filter`, `go-filter`, `c-filter`, `assemblyscript-filter`,
/// `rust-kitchen`, `c-probe`, or `add-header` of the examples.
///
/// # Panics
/// When it was not built: a missing guest is a failure, never a skipped test.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    let folder = std::env::var_os("WAYLINE_GUESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests"),
        PathBuf::from,
    );
    let path = folder.join(name).with_extension("wasm");
    let found = path.canonicalize();
    found.unwrap_or_else(|_| panic!("{} is missing; try: cargo xtask guests", path.display()))
}
