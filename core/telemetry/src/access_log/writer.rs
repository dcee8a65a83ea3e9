//! Files and the threads that write them.
//!
//! There is one thread per file, and it is the only place that waits for the file. Between it and
//! the cores stands a queue bounded in bytes; what finds it full is dropped and counted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::throttle::Throttle;

/// Bounds on what waits for a file.
#[derive(Clone, Copy, Debug)]
pub struct WriterSettings {
    /// Most bytes in a file's queue, the batch being written included. Default 8 MiB.
    pub queue_bytes: usize,
    /// A core hands over its lines when it has this many bytes of them. Default 64 KiB.
    pub batch_bytes: usize,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            queue_bytes: 8 * 1024 * 1024,
            batch_bytes: 64 * 1024,
        }
    }
}

/// The access log files of the process, each opened once however many formats and cores use it.
#[derive(Debug)]
pub struct AccessLogFiles {
    settings: WriterSettings,
    dropped: IntCounter,
    files: Mutex<Vec<OpenFile>>,
}

/// A file that somebody writes to, or whose last lines are still on their way.
#[derive(Debug)]
struct OpenFile {
    name: Box<str>,
    writer: Weak<AccessLogWriter>,
    queue: Arc<Queue>,
}

impl AccessLogFiles {
    /// No file yet. `dropped` counts lines that a file did not take, see
    /// [`crate::ProcessMetrics::access_log_dropped`].
    #[must_use]
    pub fn new(settings: WriterSettings, dropped: IntCounter) -> Self {
        Self {
            settings,
            dropped,
            files: Mutex::default(),
        }
    }

    /// The writer of a file: `/dev/stdout`, `/dev/stderr`, or a path that is appended to.
    ///
    /// # Errors
    /// When the file can not be opened. A named pipe is opened by the writer's thread when somebody
    /// reads it; until then lines wait in the queue.
    pub fn open(&self, file: &str) -> Result<Arc<AccessLogWriter>, OpenError> {
        let mut files = self.lock();
        files.retain(|open| open.writer.strong_count() > 0 || open.queue.lock().bytes > 0);
        let known = files.iter().find_map(|open| {
            let same = *open.name == *file;
            same.then(|| open.writer.upgrade()).flatten()
        });
        if let Some(writer) = known {
            return Ok(writer);
        }
        let writer = AccessLogWriter::start(file, self.settings, self.dropped.clone())?;
        let writer = Arc::new(writer);
        files.push(OpenFile {
            name: file.into(),
            writer: Arc::downgrade(&writer),
            queue: Arc::clone(&writer.queue),
        });
        Ok(writer)
    }

    /// Opens every file anew before its next line, for those who rotate logs by renaming.
    pub fn reopen(&self) {
        for queue in self.queues() {
            queue.lock().reopen = true;
            queue.changed.notify_all();
        }
    }

    /// Waits until everything handed over is written, at most this long in all. Says whether it is.
    /// Cores must have flushed or dropped their ends before. Blocks: not for a core.
    #[must_use]
    pub fn drain(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        self.queues()
            .iter()
            .all(|queue| queue.drain(deadline.saturating_duration_since(Instant::now())))
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        let files = self.lock();
        files.iter().map(|open| Arc::clone(&open.queue)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OpenFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an access log file can not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can not be opened for appending.
    #[error(
        "accessLogFile: {file} can not be opened: {source}; name a writable file, or /dev/stdout"
    )]
    File {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("accessLogFile: no thread for {file}: {source}; raise the limit of processes")]
    Thread {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

/// One file with its thread, which ends when the last user is gone and all is written.
#[derive(Debug)]
pub struct AccessLogWriter {
    queue: Arc<Queue>,
    settings: WriterSettings,
    dropped: IntCounter,
}

impl AccessLogWriter {
    fn start(file: &str, settings: WriterSettings, dropped: IntCounter) -> Result<Self, OpenError> {
        let target = Target::of(file);
        let sink = if target.may_block() {
            None
        } else {
            let opened = target.open().map_err(|source| OpenError::File {
                file: file.to_owned(),
                source,
            })?;
            Some(opened)
        };
        let queue = Arc::new(Queue::default());
        let worker = Worker {
            target,
            sink,
            queue: Arc::clone(&queue),
            dropped: dropped.clone(),
            complaints: Throttle::per_minute(),
        };
        thread::Builder::new()
            .name("access-log".into())
            .spawn(move || worker.run())
            .map_err(|source| OpenError::Thread {
                file: file.to_owned(),
                source,
            })?;
        Ok(Self {
            queue,
            settings,
            dropped,
        })
    }

    /// How many bytes of lines a core gathers.
    pub(super) fn batch_bytes(&self) -> usize {
        self.settings.batch_bytes
    }

    /// Takes the lines out of a batch: into the queue, or nowhere when it is full.
    pub(super) fn submit(&self, batch: &mut Batch) {
        let mut state = self.queue.lock();
        if state.bytes + batch.bytes.len() > self.settings.queue_bytes {
            drop(state);
            self.dropped.inc_by(batch.lines);
            batch.clear();
            return;
        }
        state.bytes += batch.bytes.len();
        let empty = state.spare.pop().unwrap_or_default();
        let full = std::mem::replace(batch, empty);
        state.batches.push_back(full);
        drop(state);
        self.queue.changed.notify_all();
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

/// Whole lines on their way to a file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.lines = 0;
    }
}

/// What stands between the cores and one file's thread.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    /// Of all batches, and of the one being written.
    bytes: usize,
    /// Emptied batches, for their memory.
    spare: Vec<Batch>,
    reopen: bool,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, timeout: Duration) -> bool {
        let (state, _) = self
            .drained
            .wait_timeout_while(self.lock(), timeout, |state| state.bytes > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.bytes == 0
    }
}

/// What the thread of one file owns.
struct Worker {
    target: Target,
    sink: Option<File>,
    queue: Arc<Queue>,
    dropped: IntCounter,
    complaints: Throttle,
}

/// What the thread is to do next.
enum Job {
    Reopen,
    Write(Batch),
    End,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.next() {
                Job::Reopen => self.sink = None,
                Job::Write(batch) => {
                    if let Err(error) = self.write(&batch.bytes) {
                        self.dropped.inc_by(batch.lines);
                        self.complain(&error);
                        self.sink = None;
                    }
                    self.done(batch);
                }
                Job::End => return,
            }
        }
    }

    fn next(&self) -> Job {
        let idle = |state: &mut State| state.batches.is_empty() && !state.reopen && !state.closed;
        let mut state = self
            .queue
            .changed
            .wait_while(self.queue.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.reopen) {
            return Job::Reopen;
        }
        match state.batches.pop_front() {
            Some(batch) => Job::Write(batch),
            None => Job::End,
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        /// Between two tries at a sink that does not block but has no room.
        const PAUSE: Duration = Duration::from_millis(10);
        let sink = match &mut self.sink {
            Some(sink) => sink,
            closed => closed.insert(self.target.open()?),
        };
        while !bytes.is_empty() {
            match sink.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn done(&self, mut batch: Batch) {
        /// Emptied batches kept; there is about one per core.
        const SPARES: usize = 64;
        let mut state = self.queue.lock();
        state.bytes -= batch.bytes.len();
        batch.clear();
        if state.spare.len() < SPARES {
            state.spare.push(batch);
        }
        if state.bytes == 0 {
            self.queue.drained.notify_all();
        }
    }

    fn complain(&self, error: &io::Error) {
        if let Some(suppressed) = self.complaints.admit("write", Instant::now()) {
            let file = self.target.name();
            tracing::warn!(%error, file, suppressed, "access log lines dropped");
        }
    }
}

/// What lines are written to.
#[derive(Debug)]
enum Target {
    Stdout,
    Stderr,
    Path(Box<str>),
}

impl Target {
    fn of(file: &str) -> Self {
        match file {
            "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            path => Self::Path(path.into()),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Stdout => "/dev/stdout",
            Self::Stderr => "/dev/stderr",
            Self::Path(path) => path,
        }
    }

    /// A pipe without a reader makes `open` wait.
    fn may_block(&self) -> bool {
        match self {
            Self::Stdout | Self::Stderr => false,
            Self::Path(path) => {
                std::fs::metadata(&**path).is_ok_and(|meta| meta.file_type().is_fifo())
            }
        }
    }

    /// The standard streams are taken as they are: opening them by path fails where they are
    /// sockets or belong to another user, and the handles of `std` hold a lock while they wait.
    fn open(&self) -> io::Result<File> {
        match self {
            Self::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            Self::Path(path) => OpenOptions::new().append(true).create(true).open(&**path),
        }
    }
}
