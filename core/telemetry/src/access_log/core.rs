//! One core's end of an access log.

use std::cell::RefCell;
use std::sync::Arc;

use super::format::AccessLogFormat;
use super::record::Record;
use super::writer::{AccessLogWriter, Batch};

/// One format into one file, from one core. Share it on the core in an `Rc`.
///
/// Whoever owns the core calls [`Self::flush`] from its timer once a second, and when the core has
/// nothing else to do. Dropping it flushes, too.
#[derive(Debug)]
pub struct AccessLog {
    format: Arc<AccessLogFormat>,
    writer: Arc<AccessLogWriter>,
    batch: RefCell<Batch>,
}

impl AccessLog {
    /// An access log of this core.
    #[must_use]
    pub fn new(format: Arc<AccessLogFormat>, writer: Arc<AccessLogWriter>) -> Self {
        Self {
            format,
            writer,
            batch: RefCell::default(),
        }
    }

    /// Writes one line into the core's buffer. Never waits for the file.
    pub fn log(&self, record: &Record<'_>) {
        let mut batch = self.batch.borrow_mut();
        self.format.write(record, &mut batch.bytes);
        batch.lines += 1;
        if batch.bytes.len() >= self.writer.batch_bytes() {
            self.writer.submit(&mut batch);
        }
    }

    /// Hands what was logged since to the file's thread.
    pub fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.lines > 0 {
            self.writer.submit(&mut batch);
        }
    }

    /// Where the lines go.
    #[must_use]
    pub fn writer(&self) -> &Arc<AccessLogWriter> {
        &self.writer
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}
