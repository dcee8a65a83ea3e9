//! For `tests/fuzz` only, under the feature `fuzzing`: inner readings that are reached by sockets otherwise.

use crate::http::head::{self, BodyFraming};

/// A complete head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Bytes up to and including the empty line.
    pub length: usize,
    /// What follows.
    pub framing: Framing,
}

/// How the length of a request body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Reads the head of an HTTP/1 request from the start of `bytes`; `None` while it is not complete.
///
/// # Errors
/// Why it is refused, in words.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let head = head::parse(bytes).map_err(|error| error.to_string())?;
    Ok(head.map(|head| Head {
        length: head.length,
        framing: match head.body {
            BodyFraming::None => Framing::None,
            BodyFraming::Length(length) => Framing::Length(length),
            BodyFraming::Chunked => Framing::Chunked,
        },
    }))
}
