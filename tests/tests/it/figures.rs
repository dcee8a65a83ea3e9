//! Figures for `cargo xtask security-report`, which names the folder they are wanted in.

/// Writes rows of cells with tabs between, where they are wanted.
pub(crate) fn write(name: &str, rows: &str) {
    if let Some(folder) = std::env::var_os("WAYLINE_FIGURES") {
        let file = std::path::Path::new(&folder)
            .join(name)
            .with_extension("tsv");
        std::fs::write(file, rows).unwrap();
    }
}
