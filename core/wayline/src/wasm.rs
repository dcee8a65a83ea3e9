//! `wayline wasm`: filters as files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use wayline_wasm_host::{Inspection, MAX_MODULE_BYTES, Obstacle, inspect};

use crate::cli::{Format, InspectArgs, WasmArgs, WasmVerb};
use crate::failure::Failure;
use crate::{FINDINGS, OK, output};

/// Does what the sub-verb says.
pub(crate) fn run(args: &WasmArgs) -> Result<u8, Failure> {
    match &args.verb {
        WasmVerb::Inspect(args) => inspected(args),
    }
}

/// Prints what a module is; the exit code is 3 when it would not be hosted.
fn inspected(args: &InspectArgs) -> Result<u8, Failure> {
    let bytes = read(&args.file)?;
    let inspection = inspect(&bytes)
        .map_err(|error| Failure::split(&format!("{}: {error}", args.file.display())))?;
    let obstacles = inspection.obstacles();
    match args.output {
        Format::Human => output::print(human(&inspection, &obstacles).as_bytes())?,
        Format::Json => {
            let report = Report {
                api_version: "wayline.dev/v1",
                kind: "WasmInspection",
                inspection: &inspection,
                obstacles: obstacles.iter().map(ToString::to_string).collect(),
            };
            let mut text = serde_json::to_vec_pretty(&report).map_err(Failure::new)?;
            text.push(b'\n');
            output::print(&text)?;
        }
    }
    Ok(if obstacles.is_empty() { OK } else { FINDINGS })
}

/// Reads a file as far as a module may be long, and one byte more.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| {
        Failure::new(format!("cannot read {}: {error}", path.display()))
            .remedy("name a module that cargo built for wasm32-wasip1")
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_MODULE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

/// The report as programs read it. Fields are added, never changed, within one `apiVersion`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    inspection: &'a Inspection,
    obstacles: Vec<String>,
}

fn human(it: &Inspection, obstacles: &[Obstacle]) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let value = if value.is_empty() { "none" } else { &value };
        let _ = writeln!(text, "{label:<18}{value}");
    };
    line("size", format!("{} bytes", it.bytes));
    line("ABI", it.abi.map(|abi| abi.to_string()).unwrap_or_default());
    line("entry points", it.entry_points.join(", "));
    line("allocator", it.allocator.unwrap_or_default().to_owned());
    for memory in &it.memories {
        let most = memory.max_pages.map(|pages| format!("at most {pages}"));
        let most = most.unwrap_or_else(|| "no maximum".to_owned());
        line("memory", format!("{} pages, {most}", memory.min_pages));
    }
    line("callbacks", it.callbacks.join(", "));
    line("host functions", it.imports.proxy.join(", "));
    line("WASI", it.imports.wasi.join(", "));
    if !it.unknown_callbacks.is_empty() {
        line("never called", it.unknown_callbacks.join(", "));
    }
    let unknown = it.imports.unknown.iter();
    let unknown: Vec<_> = unknown
        .map(|it| format!("{} {}.{}", it.kind, it.module, it.name))
        .collect();
    if !unknown.is_empty() {
        line("unknown imports", unknown.join(", "));
    }
    for obstacle in obstacles {
        let message = obstacle.to_string();
        let (reason, remedy) = message.rsplit_once("; ").unwrap_or((&message, ""));
        let _ = writeln!(text, "error: {reason}\n  try: {remedy}");
    }
    text
}
