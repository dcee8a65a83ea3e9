//! `wayline dump`: what a live proxy serves, as a folder that `wayline run -f` serves just so.
//!
//! Owns the layout of the folder. Which objects are in force is the proxy's to say, and what they look
//! like as YAML `wayline-control`'s.

pub(crate) mod fetch;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use serde_json::Value;

use crate::failure::Failure;
use crate::{FINDINGS, OK};
use fetch::Live;

/// Flags of `wayline dump`. They belong to one look and so have no variables.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Admin port of the live proxy.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Folder to write; made when missing, refused when it is not empty.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Write the values of Secrets, too; the folder is then for your eyes only.
    #[arg(long)]
    with_secrets: bool,
}

/// Writes the folder. The exit code is 3 when an object is missing from it.
pub(crate) fn run(args: &DumpArgs) -> Result<u8, Failure> {
    check_empty(&args.out)?;
    let live = fetch::fetch(args.admin, args.with_secrets)?;
    let files = files(&live)?;
    write(&args.out, &files, args.with_secrets).map_err(|error| {
        Failure::new(format!("cannot write {}: {error}", args.out.display()))
            .remedy("choose a folder with --out that can be written")
    })?;
    tell(args, &live, files.len());
    Ok(if live.unreadable.is_empty() {
        OK
    } else {
        FINDINGS
    })
}

fn check_empty(out: &Path) -> Result<(), Failure> {
    let reason = match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => "it is not empty".to_owned(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => error.to_string(),
    };
    Err(Failure::new(format!("{}: {reason}", out.display()))
        .remedy("name an empty folder, or one that is not there yet"))
}

/// The text of each file, by its name: one for each kind and namespace.
fn files(live: &Live) -> Result<BTreeMap<String, String>, Failure> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for object in &live.objects {
        let text = files.entry(file_name(object)?).or_default();
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&wayline_control::to_yaml(object));
    }
    Ok(files)
}

/// E.g. `service.default.yaml`, or `namespace.yaml` for kinds without namespaces.
fn file_name(object: &Value) -> Result<String, Failure> {
    let is_label = |text: &&str| {
        text.len() <= 63
            && !text.is_empty()
            && text
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'-')
    };
    let kind = object["kind"].as_str().filter(is_label);
    let namespace = match &object["metadata"]["namespace"] {
        Value::Null => Some(""),
        other => other.as_str().filter(is_label),
    };
    let (Some(kind), Some(namespace)) = (kind, namespace) else {
        return Err(
            Failure::new("the proxy sent an object without a usable kind or namespace")
                .remedy("check that --admin names the admin port of a Wayline process"),
        );
    };
    let dot = if namespace.is_empty() { "" } else { "." };
    Ok(format!(
        "{}{dot}{namespace}.yaml",
        kind.to_ascii_lowercase()
    ))
}

/// Writes beside the folder and moves it there as a whole.
fn write(out: &Path, files: &BTreeMap<String, String>, secret: bool) -> io::Result<()> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)?;
    let folder = tempfile::Builder::new()
        .prefix(".wayline-dump-")
        .tempdir_in(parent)?;
    let mode = if secret { 0o600 } else { 0o644 };
    for (name, text) in files {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(folder.path().join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    if !secret {
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    }
    // Takes the place of an empty folder, and of nothing else.
    fs::rename(folder.path(), out)?;
    let _moved = folder.keep();
    Ok(())
}

fn tell(args: &DumpArgs, live: &Live, files: usize) {
    let mut talk = io::stderr().lock();
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(
        talk,
        "{} objects in {files} files; serve them with\n  wayline run -f {}{}",
        live.objects.len(),
        args.out.display(),
        chosen(live)
    );
    for object in &live.unreadable {
        let _ = writeln!(
            talk,
            "warning: {object} is missing: the proxy knows that it exists and could never read it"
        );
    }
}

/// The flag that is needed where the proxy plays some of the Gateways only.
fn chosen(live: &Live) -> String {
    let gateways = live.objects.iter().filter(|it| it["kind"] == "Gateway");
    if live.gateways.is_empty() || gateways.count() == live.gateways.len() {
        return String::new();
    }
    let names = live.gateways.iter();
    let names: Vec<String> = names
        .map(|(namespace, name)| format!("{namespace}/{name}"))
        .collect();
    format!(" --gateway {}", names.join(","))
}
