//! All tests by one command. Black-box tests learn from the environment what to test and with
//! which tools: `WAYLINE_BIN` is the product, `WAYLINE_TOOLS` the folder with `envoy` and `curl`,
//! `WAYLINE_GUESTS` that with the Proxy-Wasm filters.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{self, Error, at};
use crate::{guests, tools, zipkin};

/// Sets up tools and product, then runs `cargo test --workspace` with `args` added.
pub(crate) fn run(args: &[&str]) -> Result<(), Error> {
    let tools = tools::set_up()?;
    let with_zipkin = takes_black_box_tests(args) && has_zipkin();
    let guests = guests::build()?;
    let root = tools::workspace_root()?;
    let product = build_product(&root)?;
    let mut command = cargo(&root);
    command.arg("test");
    if !chooses_packages(args) {
        command.arg("--workspace");
    }
    if with_zipkin {
        command.args(["--features", "wayline-tests/zipkin"]);
    }
    // By name only: it is a second build of the product, and much of what it runs is waiting.
    if takes_black_box_tests(args)
        && args
            .iter()
            .any(|arg| arg.split("::").next() == Some("undefended"))
    {
        command.args(["--features", "wayline-tests/undefended"]);
        command.env("WAYLINE_UNDEFENDED", build_undefended(&root)?);
    }
    command
        .args(args)
        .env("WAYLINE_BIN", &product)
        .env("WAYLINE_TOOLS", &tools)
        .env("WAYLINE_GUESTS", &guests);
    eprintln!(
        "test: WAYLINE_BIN={} WAYLINE_TOOLS={} WAYLINE_GUESTS={}",
        product.display(),
        tools.display(),
        guests.display()
    );
    let status = command
        .status()
        .map_err(|source| process::start_error(&command, source))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(Error::TestsFailed {
        code: code.unwrap_or(1),
    })
}

/// Builds `wayline` by itself, with the features a user gets, and keeps it under a second name:
/// `cargo test --workspace` may build and put in its place one with features that tests add.
fn build_product(root: &Path) -> Result<PathBuf, Error> {
    let built = build(root, "wayline", &[])?;
    let kept = built.with_file_name("wayline-under-test");
    let fresh = built.with_file_name(format!(".wayline-under-test-{}", std::process::id()));
    std::fs::hard_link(&built, &fresh)
        .or_else(|_| std::fs::copy(&built, &fresh).map(drop))
        .map_err(at("copy", &built))?;
    std::fs::rename(&fresh, &kept).map_err(at("rename", &fresh))?;
    // A rename between two links to one file leaves both.
    let _ = std::fs::remove_file(&fresh);
    Ok(kept)
}

/// Builds the program that attacks are tried on without the defence they meet.
fn build_undefended(root: &Path) -> Result<PathBuf, Error> {
    build(root, "wayline-undefended", &["--features", "undefended"])
}

fn build(root: &Path, name: &str, more: &[&str]) -> Result<PathBuf, Error> {
    let mut command = cargo(root);
    command.args(["build", "--package", "wayline", "--bin", name]);
    command
        .args(more)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = process::run(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stdout);
    executable_in(&messages, name).ok_or_else(|| Error::Missing {
        what: format!("cargo built no executable named {name}"),
        remedy: "see core/wayline/Cargo.toml: the package must have that binary".to_owned(),
    })
}

fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

/// Whether `args` (up to those for the test programs) name packages themselves.
fn chooses_packages(args: &[&str]) -> bool {
    args.iter()
        .take_while(|arg| **arg != "--")
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
}

/// Whether the black-box tests are among the packages that `args` choose.
fn takes_black_box_tests(args: &[&str]) -> bool {
    !chooses_packages(args) || args.iter().any(|arg| arg.ends_with("wayline-tests"))
}

/// A real Zipkin needs Java packages, which not every machine has; our spans are also tested at the wire.
fn has_zipkin() -> bool {
    match zipkin::install() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("test: without a real Zipkin: {error}");
            false
        }
    }
}

fn executable_in(messages: &str, name: &str) -> Option<PathBuf> {
    let parsed = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    parsed
        .filter(|message: &serde_json::Value| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_the_executable_of_that_name() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"wayline\"},\"executable\":null}\n",
            "not json\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"other\"},\"executable\":\"/t/other\"}\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"wayline\"},\"executable\":\"/t/wayline\"}\n",
        );
        let found = executable_in(messages, "wayline");
        assert_eq!(found, Some(PathBuf::from("/t/wayline")));
        assert_eq!(executable_in("{}", "wayline"), None);
    }

    #[test]
    fn packages_are_chosen_before_the_second_double_dash_only() {
        assert!(chooses_packages(&["-p", "wayline-tls"]));
        assert!(chooses_packages(&["--package=wayline-tls"]));
        assert!(!chooses_packages(&["policy", "--", "-p"]));
        assert!(!chooses_packages(&[]));
    }
}
