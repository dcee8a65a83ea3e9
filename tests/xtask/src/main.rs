//! `cargo xtask`: sets up what the tests need, and runs them.
//!
//! Owns the folder `tests/.tools` and the one command that passes all tests on a fresh machine.
//! Refuses to know what the tests assert: it hands them a product binary and a folder of tools, by
//! environment, and returns their verdict.

mod apt;
mod bench_peers;
mod curl;
mod envoy;
mod fuzz;
mod grpcio;
mod guests;
mod instructions;
mod process;
mod pypi;
mod registry;
mod report;
mod test;
mod tools;
mod wasm32;
mod zipkin;

use std::process::ExitCode;

use instructions::Build;
use process::Error;

const USAGE: &str = "\
Usage: cargo xtask <COMMAND>

Commands:
  tools [--bench]       Set up in tests/.tools what the tests need: a real Envoy, gRPC for Python,
                        a registry for images, and a curl with HTTP/2 proxy tunnels. With --bench, also install the peers of the race
                        (haproxy, nginx, wrk) by apt-get.
  tools --zipkin        Also fetch a real Zipkin server by Maven; it needs Java 17.
                        `test` does so by itself where both are at hand
  test [-- ARGS…]       Set up the tools, build the wayline binary, run all tests of the workspace.
                        ARGS go to `cargo test`.
  guests [rust]         Build the Proxy-Wasm filters that the tests run, in Rust, Go, C and
                        AssemblyScript, or those in Rust only, into target/guests. `test` does so by itself
  instructions [--unoptimised] [--record]
                        Count what requests cost in instructions, under valgrind (installed by apt-get),
                        and fail where it is over 3 % more than benches/instructions.json says; or
                        write that file. With --unoptimised in the build that tests use, as CI does
  security-report [--measured]
                        Run the tests that have figures of security, and write these into docs/security.md;
                        or only write what was measured last (WAYLINE_FIGURES=target/security-figures)
  fuzz [SECONDS [TARGET…]]
                        Run the fuzz targets (tests/fuzz), each for so many seconds of CPU time (60), keep
                        what they find worth keeping in their corpora, and add up the time in a table
  wasm32                Prepare a Rust compiler for wasm32-wasip1; prints the environment to use:
                        eval \"$(cargo xtask wasm32)\"
";

/// What `instructions` is asked for; `None` for options that it does not have.
fn counting(options: &[&str]) -> Option<(Build, bool)> {
    match options {
        [] => Some((Build::Optimised, false)),
        ["--record"] => Some((Build::Optimised, true)),
        ["--unoptimised"] => Some((Build::Unoptimised, false)),
        ["--unoptimised", "--record"] => Some((Build::Unoptimised, true)),
        _ => None,
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["tools"] => tools::set_up().map(drop),
        ["tools", "--bench"] => {
            tools::set_up().and_then(|_| bench_peers::install(&bench_peers::PEERS))
        }
        ["tools", "--zipkin"] => tools::set_up().and_then(|_| zipkin::install()),
        ["test"] => test::run(&[]),
        ["test", "--", rest @ ..] => test::run(rest),
        ["guests"] => guests::build().map(drop),
        ["guests", "rust"] => guests::build_rust().map(drop),
        ["instructions", options @ ..] if counting(options).is_some() => {
            counting(options).map_or(Ok(()), |(build, record)| instructions::run(build, record))
        }
        ["security-report"] => report::run(),
        ["security-report", "--measured"] => report::write(),
        ["fuzz"] => fuzz::run(60, &[]),
        ["fuzz", seconds, names @ ..] => match seconds.parse() {
            Ok(seconds) => fuzz::run(seconds, names),
            Err(_) => {
                eprint!("{USAGE}");
                return ExitCode::from(2);
            }
        },
        ["wasm32"] => wasm32::prepare(),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::TestsFailed { code }) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
