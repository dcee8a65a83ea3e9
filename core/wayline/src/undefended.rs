//! The `wayline` command with switches that take defences away. The tests of attacks run it; nobody else
//! is to.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "defences may be switched off by {}",
        wayline_model::defence::SWITCH
    );
    wayline::main()
}
