//! Access logs: Istio's lines, written without making a request wait.
//!
//! An [`AccessLogFormat`] is compiled once from MeshConfig. Each core has an [`AccessLog`] for each
//! format and file; [`AccessLog::log`] writes a borrowed [`Record`] into a buffer of the core, which
//! goes to the file's own thread ([`AccessLogWriter`]) when it is large enough or
//! [`AccessLog::flush`] says so. What a slow sink cannot take is dropped and counted.
//!
//! What peers send is escaped, so that nobody can forge a line, end a quoted field or drive a
//! terminal: in text, quotes, backslashes, control characters and bytes that are not UTF-8 become
//! `\"`, `\\` and `\xNN`; in JSON they become what JSON has for them.

mod core;
mod escape;
mod format;
mod json;
mod operator;
mod record;
mod time;
mod writer;

pub use self::core::AccessLog;
pub use format::{AccessLogFormat, FormatError};
pub use record::Record;
pub use writer::{AccessLogFiles, AccessLogWriter, OpenError, WriterSettings};
