//! HTTP on the way in: the framing guard, the codecs, the exchange, and what closes its book.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod book;
mod decision;
pub(crate) mod exchange;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod mirror;
pub(crate) mod redirect;
pub(crate) mod reply;
pub(crate) mod server;
mod session;
#[cfg(test)]
mod sizes;
pub(crate) mod spans;
pub(crate) mod taking;
pub(crate) mod tap;
pub(crate) mod trailers;
pub(crate) mod upgrade;
