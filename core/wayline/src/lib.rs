//! Composition and command line; nothing else.
//!
//! This room owns the verbs of the `wayline` command, their exit codes, and how they talk: data on
//! stdout, talk on stderr, every error with a line that says what to try. It refuses to know how any
//! of it is done; each verb is a few calls into the rooms that do.

mod cert;
mod check;
mod cli;
mod curl;
mod demo;
mod dump;
mod explain;
mod failure;
mod fetching;
mod logging;
mod modules;
mod output;
mod run;
mod version;
mod wasm;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Verb};
use failure::Failure;

/// All went well.
const OK: u8 = 0;
/// Something failed.
const FAILED: u8 = 1;
/// The command line was not understood.
const USAGE: u8 = 2;
/// Manifests have findings that change what is served.
const FINDINGS: u8 = 3;

/// Runs the command line this process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that has gone away wants no help text either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { OK });
        }
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.tell();
            ExitCode::from(FAILED)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Cert(args) => cert::run(&args).map(|()| OK),
        Verb::Check(args) => check::run(&args),
        Verb::Curl(args) => curl::run(args),
        Verb::Dump(args) => dump::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Wasm(args) => wasm::run(&args),
        Verb::Version => version::run().map(|()| OK),
        Verb::Completion { shell } => completion(shell).map(|()| OK),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wayline", &mut script);
    output::print(&script)
}
