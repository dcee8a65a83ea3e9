//! `wayline wasm`: filters as files.

mod trial;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use wayline_model::plugin::{ModuleSource, PullPolicy, PullSecret};
use wayline_wasm_host::{
    Compiled, Inspection, MAX_MODULE_BYTES, Modules, Obstacle, Origin, inspect,
};

use crate::cli::{Format, InspectArgs, WasmArgs, WasmVerb};
use crate::failure::Failure;
use crate::{FINDINGS, OK, output};

/// Does what the sub-verb says.
pub(crate) fn run(args: &WasmArgs) -> Result<u8, Failure> {
    match &args.verb {
        WasmVerb::Inspect(args) => inspected(args),
        WasmVerb::Run(args) => trial::run(args),
        WasmVerb::CompileModule(args) => {
            Ok(wayline_wasm_host::run_child(args.cpu_seconds, args.memory))
        }
    }
}

/// Prints what a module is; the exit code is 3 when it would not be hosted.
fn inspected(args: &InspectArgs) -> Result<u8, Failure> {
    if args.module.contains("://") {
        let compiled = obtained(args, &args.module)?;
        return tell(args, &compiled.inspection, &[], Some(&compiled));
    }
    let path = Path::new(&args.module);
    let bytes = read(path)?;
    let inspection =
        inspect(&bytes).map_err(|error| Failure::split(&format!("{}: {error}", path.display())))?;
    let obstacles = inspection.obstacles();
    if !obstacles.is_empty() {
        return tell(args, &inspection, &obstacles, None);
    }
    let path = std::path::absolute(path).map_err(Failure::new)?;
    let compiled = obtained(args, &format!("file://{}", path.display()))?;
    tell(args, &inspection, &obstacles, Some(&compiled))
}

/// Fetches and compiles as the proxy does.
fn obtained(args: &InspectArgs, url: &str) -> Result<Arc<Compiled>, Failure> {
    let pull_secret = args.pull_secret.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("cannot read {}: {error}", path.display()))
                .remedy("name a .dockerconfigjson with --pull-secret")
        })?;
        Ok::<_, Failure>(PullSecret::DockerConfig(text.into()))
    });
    let source = ModuleSource {
        url: url.into(),
        sha256: args.sha256.as_deref().map(Into::into),
        pull_policy: if args.pull {
            PullPolicy::Always
        } else {
            PullPolicy::Unspecified
        },
        pull_secret: pull_secret.transpose()?,
    };
    let modules = Modules::new(args.modules.settings(None)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    runtime
        .block_on(modules.obtain(&source))
        .map_err(|error| Failure::split(&error.to_string()))
}

fn tell(
    args: &InspectArgs,
    inspection: &Inspection,
    obstacles: &[Obstacle],
    compiled: Option<&Compiled>,
) -> Result<u8, Failure> {
    match args.output {
        Format::Human => output::print(human(inspection, obstacles, compiled).as_bytes())?,
        Format::Json => {
            let report = Report {
                api_version: "wayline.dev/v1",
                kind: "WasmInspection",
                inspection,
                compiled: compiled.map(Compilation::of),
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
    #[serde(flatten)]
    compiled: Option<Compilation>,
    obstacles: Vec<String>,
}

/// What became of a module.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Compilation {
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_sha256: Option<String>,
    origin: &'static str,
    code_bytes: u64,
    /// Where it was compiled now.
    #[serde(skip_serializing_if = "Option::is_none")]
    compile_millis: Option<u128>,
}

impl Compilation {
    fn of(compiled: &Compiled) -> Self {
        Self {
            sha256: compiled.digest.to_string(),
            manifest_sha256: compiled.manifest.map(|digest| digest.to_string()),
            origin: match compiled.origin {
                Origin::Fetched => "fetched",
                Origin::Unchanged => "unchanged",
                Origin::Kept => "kept",
                Origin::LastGood => "lastGood",
            },
            code_bytes: compiled.code_bytes(),
            compile_millis: compiled.compile_time.map(|time| time.as_millis()),
        }
    }
}

fn human(it: &Inspection, obstacles: &[Obstacle], compiled: Option<&Compiled>) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let value = if value.is_empty() { "none" } else { &value };
        let _ = writeln!(text, "{label:<18}{value}");
    };
    line("size", format!("{} bytes", it.bytes));
    if let Some(compiled) = compiled {
        line("sha256", compiled.digest.to_string());
        if let Some(manifest) = compiled.manifest {
            line("manifest", format!("sha256:{manifest}"));
        }
        line("compiled to", format!("{} bytes", compiled.code_bytes()));
        let time = compiled.compile_time.map(|time| format!("{time:.1?}"));
        line(
            "compiled in",
            time.unwrap_or_else(|| "an earlier run".to_owned()),
        );
    }
    line("ABI", it.abi.map(|abi| abi.to_string()).unwrap_or_default());
    line("entry points", it.entry_points.join(", "));
    line("allocator", it.allocator.unwrap_or_default().to_owned());
    for memory in &it.memories {
        let most = memory.max_pages.map(|pages| format!("at most {pages}"));
        let most = most.unwrap_or_else(|| "no maximum".to_owned());
        line("memory", format!("{} pages, {most}", memory.min_pages));
    }
    line("hears", it.hears().join(", "));
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
