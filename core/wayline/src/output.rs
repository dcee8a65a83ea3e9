//! Writing to stdout, where the reader may go away at any time.

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes data to stdout. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    forgive(out.write_all(data).and_then(|()| out.flush()))
}

/// Turns what a write to stdout said into a failure, unless only the reader has gone away.
pub(crate) fn forgive(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(format!(
            "cannot write to standard output: {error}"
        ))
        .remedy("check the disk or the program that reads the output")),
        _ => Ok(()),
    }
}
