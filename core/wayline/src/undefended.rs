//! The `wayline` command with switches that take defences away. The tests of attacks run it; nobody else
//! is to.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Other commands are tested for what they say.
    if std::env::args().nth(1).as_deref() == Some("run") {
        eprintln!(
            "defences may be switched off by {}",
            wayline_model::defence::SWITCH
        );
    }
    wayline::main()
}
