//! A folder of manifests as a source.
//!
//! Owns files, their syntax and their changes: a scan finds what changed, a watch says when to scan,
//! documents become objects, and each change of them is translated and published. Refuses to know
//! what an object means, which is the model's.

pub(crate) mod document;
mod objects;
pub(crate) mod scan;
pub(crate) mod watch;
mod yaml;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use wayline_model::plugin::Verdicts;
use wayline_model::resource::{Parsed, parse};
use wayline_model::translate::{Options, Translation, Translator};
use wayline_model::{Finding, ObjectRef, Resources, Snapshot};

use crate::publish::{Publication, Publisher};
pub use document::parse_value as yaml_value;
use objects::Objects;
use scan::{Hints, Tree};
use watch::{Batch, POLL, Wake, Watcher};

/// Changes are applied at once, further ones at most this often.
pub(crate) const PACE: Duration = Duration::from_millis(20);

/// Looking everywhere without cause takes at most one part in so many of a core's time.
const POLL_SHARE: u32 = 50;

/// A watched set of manifest files and folders.
#[derive(Debug)]
pub struct FolderSource {
    wake: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
    publication: Publication,
}

/// Why a source could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing was given.
    #[error("no manifests were named")]
    Nothing,
    /// A path is not there at the start. (One that vanishes later is a finding.)
    #[error("{}: {reason}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The system gave us no thread.
    #[error("cannot start the thread that watches manifests: {0}")]
    Thread(std::io::Error),
}

/// What was found in manifests that are read once.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Files read.
    pub files: usize,
    /// Objects found that are any business of a proxy's.
    pub objects: usize,
    /// What is wrong with them, by file and line.
    pub findings: Vec<Finding>,
    /// What would be served.
    pub snapshot: Arc<Snapshot>,
}

impl FolderSource {
    /// Reads files and folders, publishes what is in them and goes on to do so as they change.
    pub fn start(paths: &[PathBuf], options: Options) -> Result<Self, SourceError> {
        let mut reader = Reader::open(paths, options)?;
        let (mut watcher, wake) = Watcher::new();
        let again = reader.refresh(&mut watcher);
        let live = reader.objects.live().clone();
        let (publisher, publication) = Publisher::new(reader.translate(), live);
        let thread = thread::Builder::new()
            .name("wayline-control".to_owned())
            .spawn(move || reader.follow(&mut watcher, &publisher, again))
            .map_err(SourceError::Thread)?;
        Ok(Self {
            wake,
            thread: Some(thread),
            publication,
        })
    }

    /// What is published.
    #[must_use]
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Where to tell what became of the plugins that snapshots want.
    #[must_use]
    pub fn verdicts(&self) -> VerdictSink {
        VerdictSink(self.wake.clone())
    }

    /// Reads everything again, changed or not (SIGHUP).
    pub fn rescan(&self) {
        // The thread is gone only when we are.
        let _ = self.wake.send(Wake::Rescan);
    }
}

/// Takes what became of plugins, and has everything translated with it.
#[derive(Clone, Debug)]
pub struct VerdictSink(Sender<Wake>);

impl VerdictSink {
    /// Replaces all that was known of plugins. Publication follows as it does for changed files.
    pub fn send(&self, verdicts: Verdicts) {
        // The source is gone only when the process ends.
        let _ = self.0.send(Wake::Verdicts(verdicts));
    }
}

impl Drop for FolderSource {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// Reads manifests once and says what is wrong with them.
pub fn check(paths: &[PathBuf], options: Options) -> Result<Checked, SourceError> {
    let mut reader = Reader::open(paths, options)?;
    reader.read_all();
    let (translation, findings) = reader.translate();
    Ok(Checked {
        snapshot: translation.snapshot,
        files: reader.objects.file_count(),
        objects: reader.objects.resources().objects().count(),
        findings,
    })
}

/// Translates objects that somebody else has read, once, and says what is wrong with them. Those of
/// which only the name is known count as unreadable.
#[must_use]
pub fn check_objects(objects: &[Value], unreadable: &[ObjectRef], options: Options) -> Checked {
    let parsed = objects
        .iter()
        .map(|object| parse(object, &document::parse_value))
        .chain(unreadable.iter().map(|object| {
            let reason = "no version of it could be read";
            Parsed::unreadable(object.clone(), Finding::error(reason))
        }));
    let mut resources = Resources::new();
    resources.replace(parsed, &HashSet::new());
    let translation = Translator::new(options).translate(&resources, &Verdicts::new());
    Checked {
        files: 0,
        objects: resources.objects().count(),
        findings: translation.findings,
        snapshot: translation.snapshot,
    }
}

/// Files, objects and their translation.
struct Reader {
    tree: Tree,
    objects: Objects,
    translator: Translator,
    verdicts: Verdicts,
    /// About files and folders, not about what is in them.
    troubles: Vec<Finding>,
}

impl Reader {
    fn open(paths: &[PathBuf], options: Options) -> Result<Self, SourceError> {
        if paths.is_empty() {
            return Err(SourceError::Nothing);
        }
        for path in paths {
            let refused = |reason: String| SourceError::Path {
                path: path.clone(),
                reason,
            };
            let metadata = path.metadata();
            let metadata = metadata.map_err(|error| refused(scan::plain(&error)))?;
            if !metadata.is_file() && !metadata.is_dir() {
                let reason = "it is neither a file nor a folder; save what it yields to a file";
                return Err(refused(reason.to_owned()));
            }
        }
        Ok(Self {
            tree: Tree::new(paths.to_vec()),
            objects: Objects::new(paths.to_vec()),
            translator: Translator::new(options),
            verdicts: Verdicts::new(),
            troubles: Vec::new(),
        })
    }

    /// Reads what changed; true when that matters.
    fn read(&mut self, hints: &Hints) -> (bool, scan::Scan) {
        let mut scan = self.tree.scan(hints, Instant::now());
        let changes = std::mem::take(&mut scan.changes);
        let changed = !changes.is_empty() && self.objects.apply(changes);
        self.troubles = std::mem::take(&mut scan.findings);
        (changed, scan)
    }

    fn read_all(&mut self) -> scan::Scan {
        let hints = Hints {
            everywhere: true,
            ..Hints::default()
        };
        self.read(&hints).1
    }

    /// Reads for the first time, and watches.
    fn refresh(&mut self, watcher: &mut Watcher) -> Option<Instant> {
        let scan = self.read_all();
        if let Some(folders) = &scan.folders {
            watcher.follow(folders);
        }
        scan.again
    }

    fn translate(&mut self) -> (Translation, Vec<Finding>) {
        let translation = self
            .translator
            .translate(self.objects.resources(), &self.verdicts);
        let mut findings: Vec<Finding> = translation
            .findings
            .iter()
            .map(|finding| self.objects.locate(finding.clone()))
            .chain(self.troubles.iter().cloned())
            .collect();
        findings.sort_by(|a, b| {
            let key = |it: &Finding| (it.file.clone(), it.line, it.field.clone());
            key(a).cmp(&key(b)).then_with(|| a.cmp(b))
        });
        findings.dedup();
        (translation, findings)
    }

    /// Publishes until told to stop.
    fn follow(&mut self, watcher: &mut Watcher, publisher: &Publisher, mut again: Option<Instant>) {
        let mut published_at = Instant::now();
        let mut next_poll = Instant::now() + POLL;
        let mut known_troubles = self.troubles.clone();
        loop {
            let deadline = again.map_or(next_poll, |again| again.min(next_poll));
            if !watcher.wait(deadline) || !watcher.collect(published_at + PACE) {
                return;
            }
            let Batch {
                mut hints,
                findings,
                again: unfinished,
                verdicts,
            } = watcher.batch();
            let began = Instant::now();
            hints.everywhere |= began >= next_poll;
            let (mut changed, scan) = self.read(&hints);
            if let Some(verdicts) = verdicts
                && verdicts != self.verdicts
            {
                self.verdicts = verdicts;
                changed = true;
            }
            again = [scan.again, unfinished].into_iter().flatten().min();
            if let Some(folders) = scan.folders {
                let now = Instant::now();
                next_poll = now + POLL.max((now - began) * POLL_SHARE);
                if watcher.follow(&folders) {
                    // What happened in a folder before it was watched is unknown.
                    next_poll = now;
                }
            }
            self.troubles.extend(findings);
            if self.troubles != known_troubles {
                known_troubles.clone_from(&self.troubles);
                changed = true;
            }
            if changed {
                publisher.publish(self.translate());
                published_at = began;
                tracing::debug!(
                    milliseconds = began.elapsed().as_millis() as u64,
                    "configuration applied"
                );
            }
        }
    }
}
