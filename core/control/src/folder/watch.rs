//! Being told that files changed.
//!
//! Owns the file system watches and turns their events into [`Hints`]: which paths to read again,
//! which ones somebody is still writing. A watch is an accelerator, never the truth: whoever uses
//! this looks by himself every [`POLL`].
//!
//! News of plugins come in by the same door, so that they are paced with the files.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use wayline_model::Finding;
use wayline_model::plugin::Verdicts;

use super::scan::{Hints, Inode};

/// How often things are looked at without having been told.
pub(crate) const POLL: Duration = Duration::from_secs(2);

/// A file whose writer keeps it open counts as written when it was left alone this long.
const QUIET: Duration = Duration::from_millis(50);

/// Linux tells when a writer closes a file; elsewhere a write counts as finished at once.
const TELLS_CLOSE: bool = cfg!(target_os = "linux");

/// What wakes a watcher.
#[derive(Debug)]
pub(crate) enum Wake {
    /// The file system says something.
    Event(notify::Result<Event>),
    /// Read everything again.
    Rescan,
    /// What became of plugins, all of it.
    Verdicts(Verdicts),
    /// Give up.
    Stop,
}

/// Watches folders, one by one: not their sub-folders.
pub(crate) struct Watcher {
    backend: Option<RecommendedWatcher>,
    /// Why there is no backend.
    blind: Option<Finding>,
    watched: HashMap<PathBuf, Inode>,
    wakes: Receiver<Wake>,
    touched: HashSet<PathBuf>,
    /// When each file under way was last written to.
    writing: HashMap<PathBuf, Instant>,
    everything: bool,
    verdicts: Option<Verdicts>,
    stopped: bool,
    findings: Vec<Finding>,
}

/// What a watcher collected.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What to tell a scan.
    pub(crate) hints: Hints,
    /// What went wrong with watching since the last batch.
    pub(crate) findings: Vec<Finding>,
    /// A file under way is worth a look then, closed or not.
    pub(crate) again: Option<Instant>,
    /// What became of plugins, where that was told anew.
    pub(crate) verdicts: Option<Verdicts>,
}

impl Watcher {
    /// A watcher and the handle that wakes it.
    pub(crate) fn new() -> (Self, Sender<Wake>) {
        let (sender, wakes) = mpsc::channel();
        let to_us = sender.clone();
        let backend = notify::recommended_watcher(move |event| {
            // Nobody listens any more: nothing to tell.
            let _ = to_us.send(Wake::Event(event));
        });
        let (backend, blind) = match backend {
            Ok(backend) => (Some(backend), None),
            Err(error) => (None, Some(blind(None, &error))),
        };
        let watcher = Self {
            backend,
            blind,
            watched: HashMap::new(),
            wakes,
            touched: HashSet::new(),
            writing: HashMap::new(),
            everything: true,
            verdicts: None,
            stopped: false,
            findings: Vec::new(),
        };
        (watcher, sender)
    }

    /// Watches exactly these folders. True when some are new: what happened in them before the
    /// watch began is unknown, so they want one more look.
    pub(crate) fn follow(&mut self, folders: &HashMap<PathBuf, Inode>) -> bool {
        let Some(backend) = &mut self.backend else {
            return false;
        };
        self.watched.retain(|path, inode| {
            let keep = folders.get(path) == Some(inode);
            if !keep {
                // Fails when the folder is gone, and the watch with it.
                let _ = backend.unwatch(path);
            }
            keep
        });
        let mut any_new = false;
        for (path, inode) in folders {
            if self.watched.contains_key(path) {
                continue;
            }
            match backend.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), *inode);
                    any_new = true;
                }
                Err(error) => self.findings.push(blind(Some(path), &error)),
            }
        }
        any_new
    }

    /// Waits until there is something to do, `deadline` has come or somebody wants us to stop
    /// (false).
    pub(crate) fn wait(&mut self, deadline: Instant) -> bool {
        while !self.stopped && !self.is_due() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wakes.recv_timeout(left) {
                Ok(wake) => self.take(wake),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => self.stopped = true,
            }
            self.drain();
        }
        !self.stopped
    }

    /// Keeps collecting until `until`.
    pub(crate) fn collect(&mut self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopped {
                return !self.stopped;
            }
            if let Ok(wake) = self.wakes.recv_timeout(left) {
                self.take(wake);
            }
        }
    }

    /// Hands over what was collected.
    pub(crate) fn batch(&mut self) -> Batch {
        self.drain();
        let now = Instant::now();
        self.writing.retain(|_, last| now < *last + QUIET);
        let touched = std::mem::take(&mut self.touched);
        // Left alone this time, so still to be looked at.
        let under_way = |path: &&PathBuf| self.writing.contains_key(*path);
        self.touched = touched.iter().filter(under_way).cloned().collect();
        Batch {
            hints: Hints {
                everywhere: std::mem::take(&mut self.everything),
                touched,
                writing: self.writing.keys().cloned().collect(),
            },
            findings: std::mem::take(&mut self.findings)
                .into_iter()
                .chain(self.blind.clone())
                .collect(),
            again: self.writing.values().min().map(|last| *last + QUIET),
            verdicts: self.verdicts.take(),
        }
    }

    fn is_due(&self) -> bool {
        self.everything
            || self.verdicts.is_some()
            || self
                .touched
                .iter()
                .any(|path| !self.writing.contains_key(path))
    }

    fn drain(&mut self) {
        while let Ok(wake) = self.wakes.try_recv() {
            self.take(wake);
        }
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Event(Ok(event)) => self.take_event(event),
            Wake::Event(Err(error)) => {
                self.findings.push(blind(None, &error));
                self.everything = true;
            }
            Wake::Rescan => self.everything = true,
            Wake::Verdicts(verdicts) => self.verdicts = Some(verdicts),
            Wake::Stop => self.stopped = true,
        }
    }

    fn take_event(&mut self, event: Event) {
        if event.need_rescan() {
            self.findings.push(
                Finding::hint("the kernel dropped notices of changes; everything was read again")
                    .remedy("raise fs.inotify.max_queued_events if this keeps coming"),
            );
            self.everything = true;
        }
        match event.kind {
            // Ours among them: reading a file opens it.
            EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => {}
            EventKind::Access(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) => {
                self.finished(event.paths);
            }
            EventKind::Remove(_) => {
                for path in &event.paths {
                    // A folder of that name that comes later is another one.
                    self.watched.remove(path);
                }
                self.finished(event.paths);
            }
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
                for path in event.paths {
                    if TELLS_CLOSE && is_plain_file(&path) {
                        self.writing.insert(path.clone(), Instant::now());
                    }
                    self.touched.insert(path);
                }
            }
        }
    }

    fn finished(&mut self, paths: Vec<PathBuf>) {
        for path in paths {
            self.writing.remove(&path);
            self.touched.insert(path);
        }
    }
}

/// Symlinks and folders are made in one step; only files are written.
fn is_plain_file(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file())
}

fn blind(path: Option<&Path>, error: &notify::Error) -> Finding {
    let place = path.map(|path| format!(" of {}", path.display()));
    Finding::hint(format!(
        "changes{} are noticed only every {} s: {error}",
        place.unwrap_or_default(),
        POLL.as_secs()
    ))
    .remedy("raise fs.inotify.max_user_watches and fs.inotify.max_user_instances")
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, DataChange, Flag};

    fn event(kind: EventKind, path: &Path) -> Wake {
        Wake::Event(Ok(Event::new(kind).add_path(path.to_owned())))
    }

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    #[test]
    fn dropped_notices_mean_everything_is_read_again() {
        let (mut watcher, wake) = Watcher::new();
        watcher.batch();
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        wake.send(Wake::Event(Ok(overflow))).unwrap();
        assert!(watcher.wait(Instant::now() + POLL));
        let batch = watcher.batch();
        assert!(batch.hints.everywhere);
        assert_eq!(batch.findings.len(), 1);
        assert!(watcher.batch().findings.is_empty(), "told once");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_under_way_is_left_alone_until_it_is_closed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut watcher, wake) = Watcher::new();
        watcher.batch();
        let created = EventKind::Create(CreateKind::File);
        for kind in [created, WRITTEN] {
            wake.send(event(kind, file.path())).unwrap();
        }
        let batch = watcher.batch();
        assert!(batch.hints.writing.contains(file.path()));
        assert!(batch.again.is_some(), "its writer may never close it");
        assert!(watcher.batch().hints.touched.contains(file.path()));

        wake.send(event(WRITTEN, file.path())).unwrap();
        wake.send(event(CLOSED, file.path())).unwrap();
        assert!(watcher.wait(Instant::now() + POLL));
        let batch = watcher.batch();
        assert!(batch.hints.touched.contains(file.path()));
        assert!(batch.hints.writing.is_empty());
    }
}
