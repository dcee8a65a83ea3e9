//! What is in the given files and folders, and what of it has changed.
//!
//! Owns which files count, how a change of one is noticed, and when a change is believed: a file
//! that another process is still writing, or that has just lost documents, is looked at again
//! before anything is taken away because of it. Refuses to know objects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use wayline_model::Finding;

use super::document::{self, Fault, Parsed};

/// How long a loss (a file gone or with fewer documents) must last to be believed. Editors and shells
/// replace files in two steps; this is longer than the gap between them.
const LOSS: Duration = Duration::from_millis(100);
/// The same for a file that is empty, which hardly anybody means and every rewriting passes through.
const EMPTY: Duration = Duration::from_secs(1);
/// When to read a file again that changed while it was read.
const RETRY: Duration = Duration::from_millis(20);
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 32 << 20;
/// A file changed this recently may change again within the same tick of the file system's clock.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// The files below some paths, as they were read last.
#[derive(Debug)]
pub(crate) struct Tree {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// What the last walk could not read.
    unreadable: Vec<Finding>,
    /// Some file is a symlink: what changes it may happen anywhere.
    has_links: bool,
}

/// One file as it was read last.
#[derive(Debug, Default)]
struct File {
    /// `None`: do not trust the metadata, read again.
    stamp: Option<Stamp>,
    digest: u64,
    documents: usize,
    /// Since when the file seems to have lost something, and which file that was.
    losing: Option<(Instant, Option<Stamp>)>,
    /// Why it cannot be read.
    trouble: Option<Finding>,
}

/// What tells a changed file from an unchanged one without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    inode: Inode,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Which file or folder it is, whatever its name.
pub(crate) type Inode = (u64, u64);

/// What a scan is told by those who watch.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Read these even if their metadata looks unchanged.
    pub(crate) touched: HashSet<PathBuf>,
    /// Leave these alone: somebody is writing them.
    pub(crate) writing: HashSet<PathBuf>,
    /// What changed is not known: look everywhere.
    pub(crate) everywhere: bool,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Files whose content changed, in the order of their paths.
    pub(crate) changes: Vec<(PathBuf, Change)>,
    /// What kept files or folders from being read; their last good content stays.
    pub(crate) findings: Vec<Finding>,
    /// The folders to watch, if they were looked at.
    pub(crate) folders: Option<HashMap<PathBuf, Inode>>,
    /// When to look again at the latest, because something has yet to settle.
    pub(crate) again: Option<Instant>,
}

/// What happened to a file.
#[derive(Debug)]
pub(crate) enum Change {
    /// It is new or has new content.
    Read(Parsed),
    /// It is gone.
    Gone,
}

impl Tree {
    /// Files and folders to read; nothing is read yet.
    pub(crate) fn new(roots: Vec<PathBuf>) -> Self {
        Self {
            roots,
            files: BTreeMap::new(),
            unreadable: Vec::new(),
            has_links: false,
        }
    }

    /// Reads what changed: of the files that are known to have changed where that is all there is
    /// to it, else of everything below the roots.
    pub(crate) fn scan(&mut self, hints: &Hints, now: Instant) -> Scan {
        let mut scan = Scan::default();
        let files = match self.touched_files(hints) {
            Some(files) => files,
            None => self.walk(now, &mut scan),
        };
        for (path, metadata) in files {
            self.look_at(path, &metadata, hints, now, &mut scan);
        }
        scan.changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        scan.findings.clone_from(&self.unreadable);
        let troubles = self.files.values().filter_map(|file| file.trouble.clone());
        scan.findings.extend(troubles);
        scan
    }

    /// The files to look at when nothing but known files changed, which is the common edit.
    fn touched_files(&self, hints: &Hints) -> Option<BTreeMap<PathBuf, Metadata>> {
        if hints.everywhere || self.has_links {
            return None;
        }
        let mut files = BTreeMap::new();
        for path in &hints.touched {
            let metadata = path.symlink_metadata().ok();
            let is_file = metadata.as_ref().is_some_and(Metadata::is_file);
            match metadata {
                Some(metadata) if is_file && self.files.contains_key(path) => {
                    files.insert(path.clone(), metadata);
                }
                _ if is_scratch(path) => {}
                Some(_) if is_file && !is_manifest(path) => {}
                _ => return None,
            }
        }
        for (path, file) in &self.files {
            if file.losing.is_some() {
                files.insert(path.clone(), fs::metadata(path).ok()?);
            }
        }
        Some(files)
    }

    fn walk(&mut self, now: Instant, scan: &mut Scan) -> BTreeMap<PathBuf, Metadata> {
        let mut walk = Walk::default();
        for root in &self.roots {
            walk.root(root);
        }
        self.notice_gone(&walk.files, &walk.unreadable, now, scan);
        self.unreadable = walk.findings;
        self.has_links = walk.has_links;
        scan.folders = Some(walk.folders);
        walk.files
    }

    fn notice_gone(
        &mut self,
        there: &BTreeMap<PathBuf, Metadata>,
        unreadable: &[PathBuf],
        now: Instant,
        scan: &mut Scan,
    ) {
        let mut gone = Vec::new();
        for (path, file) in &mut self.files {
            let kept = unreadable.iter().any(|folder| path.starts_with(folder));
            if there.contains_key(path) || kept {
                continue;
            }
            if file.believes_loss(None, LOSS, now, &mut scan.again) {
                gone.push(path.clone());
            }
        }
        for path in gone {
            self.files.remove(&path);
            scan.changes.push((path, Change::Gone));
        }
    }

    fn look_at(
        &mut self,
        path: PathBuf,
        metadata: &Metadata,
        hints: &Hints,
        now: Instant,
        scan: &mut Scan,
    ) {
        let stamp = Stamp::of(metadata);
        let known = self.files.get(&path);
        if hints.writing.contains(&path) {
            return;
        }
        if let Some(file) = known
            && file.stamp == Some(stamp)
            && file.losing.is_none()
            && !hints.touched.contains(&path)
        {
            return;
        }

        let is_new = known.is_none();
        let file = self.files.entry(path.clone()).or_default();
        let text = match read(&path, metadata) {
            Ok(text) => text,
            Err(trouble) => {
                file.stamp = Some(stamp);
                file.trouble = Some(*trouble);
                return;
            }
        };
        // Changed while it was read: what was read may be half of something.
        if fs::metadata(&path).ok().map(|after| Stamp::of(&after)) != Some(stamp) {
            sooner(&mut scan.again, now + RETRY);
            if is_new {
                self.files.remove(&path);
            }
            return;
        }

        file.trouble = None;
        let digest = digest(&text);
        if !is_new && digest == file.digest {
            file.losing = None;
            file.stamp = stamp.if_settled(metadata);
            return;
        }
        let parsed = match String::from_utf8(text) {
            Ok(text) => document::parse(&text),
            Err(error) => not_utf8(&error),
        };
        let lost = parsed.faults.is_empty() && parsed.documents.len() < file.documents;
        let patience = if parsed.documents.is_empty() {
            EMPTY
        } else {
            LOSS
        };
        if lost && !file.believes_loss(Some(stamp), patience, now, &mut scan.again) {
            return;
        }
        *file = File {
            stamp: stamp.if_settled(metadata),
            digest,
            documents: parsed.documents.len(),
            losing: None,
            trouble: None,
        };
        scan.changes.push((path, Change::Read(parsed)));
    }
}

impl File {
    /// Whether the same loss has lasted long enough; if not, when to look again.
    fn believes_loss(
        &mut self,
        stamp: Option<Stamp>,
        patience: Duration,
        now: Instant,
        again: &mut Option<Instant>,
    ) -> bool {
        let since = match self.losing {
            Some((since, seen)) if seen == stamp => since,
            // Written again meanwhile: another state, seen for the first time.
            _ => now,
        };
        self.losing = Some((since, stamp));
        let believed_at = since + patience;
        if now >= believed_at {
            return true;
        }
        sooner(again, believed_at);
        false
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: inode(metadata),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The stamp, unless the file is so young that a further change might leave it the same.
    fn if_settled(self, metadata: &Metadata) -> Option<Self> {
        let age = metadata
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok())?;
        (age > CLOCK_TICK).then_some(self)
    }
}

/// The folder at a path, if there is one.
pub(crate) fn folder_at(path: &Path) -> Option<Inode> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_dir().then(|| inode(&metadata))
}

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

fn sooner(deadline: &mut Option<Instant>, candidate: Instant) {
    *deadline = Some(deadline.map_or(candidate, |known| known.min(candidate)));
}

fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn read(path: &Path, metadata: &Metadata) -> Result<Vec<u8>, Box<Finding>> {
    if metadata.len() > MAX_FILE {
        let reason = format!(
            "the file is larger than {} MiB; its last good content stays in force",
            MAX_FILE >> 20
        );
        let finding = Finding::error(reason)
            .at(shown(path), None)
            .remedy("split it into several files");
        return Err(Box::new(finding));
    }
    fs::read(path).map_err(|error| Box::new(unreadable(path, &error)))
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let finding = Finding::error(format!(
        "cannot be read ({}); what was read from it before stays in force",
        plain(error)
    ))
    .at(shown(path), None);
    match error.kind() {
        io::ErrorKind::NotFound => finding.remedy("put it back, or start without this path"),
        io::ErrorKind::PermissionDenied => finding.remedy("check owner and mode"),
        _ => finding.remedy("check the file system and its symlinks"),
    }
}

/// The system's words without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// A path as findings name it.
pub(crate) fn shown(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn not_utf8(error: &std::string::FromUtf8Error) -> Parsed {
    let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let lines = valid.iter().filter(|byte| **byte == b'\n').count();
    let column = valid
        .iter()
        .rev()
        .take_while(|byte| **byte != b'\n')
        .count();
    Parsed {
        documents: Vec::new(),
        faults: vec![Fault {
            line: u32::try_from(lines + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            reason: "the text is not UTF-8".to_owned(),
            remedy: Some("save the file as UTF-8"),
            object: None,
        }],
    }
}

/// One pass over the file system.
#[derive(Default)]
struct Walk {
    files: BTreeMap<PathBuf, Metadata>,
    folders: HashMap<PathBuf, Inode>,
    unreadable: Vec<PathBuf>,
    findings: Vec<Finding>,
    has_links: bool,
    /// Files and folders met, so that a second name for one does not yield everything twice.
    met: HashSet<Inode>,
}

impl Walk {
    fn root(&mut self, root: &Path) {
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => self.folder(root, inode(&metadata)),
            Ok(metadata) if !metadata.is_file() => {
                // Reading it could wait for ever.
                self.watch_parent(root);
                self.refuse(root);
            }
            Ok(metadata) => {
                self.watch_parent(root);
                self.file(root.to_owned(), metadata);
            }
            Err(error) => {
                self.watch_parent(root);
                self.fail(root, &error);
            }
        }
    }

    fn fail(&mut self, path: &Path, error: &io::Error) {
        self.findings.push(unreadable(path, error));
        self.unreadable.push(path.to_owned());
    }

    fn folder(&mut self, path: &Path, id: Inode) {
        if !self.met.insert(id) {
            return;
        }
        self.folders.insert(path.to_owned(), id);
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.fail(path, &error),
        };
        let mut names: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| !is_hidden(&entry.file_name()))
            .map(|entry| entry.path())
            .collect();
        names.sort();
        for path in names {
            self.entry(path);
        }
    }

    fn entry(&mut self, path: PathBuf) {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A symlink to nothing; what is no symlink went between listing and looking.
                if is_manifest(&path) && path.is_symlink() {
                    self.has_links = true;
                    self.fail(&path, &error);
                }
                return;
            }
            Err(error) => {
                if is_manifest(&path) || error.kind() == io::ErrorKind::PermissionDenied {
                    self.fail(&path, &error);
                }
                return;
            }
        };
        if metadata.is_dir() {
            self.folder(&path, inode(&metadata));
        } else if metadata.is_file() && is_manifest(&path) {
            if path.is_symlink() {
                self.has_links = true;
                self.watch_target(&path);
            }
            self.file(path, metadata);
        } else if is_manifest(&path) {
            self.refuse(&path);
        }
    }

    fn refuse(&mut self, path: &Path) {
        let reason = "this is neither a file nor a folder and is not read";
        let finding = Finding::error(reason)
            .at(shown(path), None)
            .remedy("put a file in its place, or give it another name");
        self.findings.push(finding);
        self.unreadable.push(path.to_owned());
    }

    fn file(&mut self, path: PathBuf, metadata: Metadata) {
        if self.met.insert(inode(&metadata)) {
            self.files.insert(path, metadata);
        }
    }

    /// A file given by name is watched through its folder: editors replace files.
    fn watch_parent(&mut self, path: &Path) {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if let Ok(metadata) = fs::metadata(parent) {
            self.folders.insert(parent.to_owned(), inode(&metadata));
        }
    }

    /// What a symlink leads to changes elsewhere.
    fn watch_target(&mut self, path: &Path) {
        if let Ok(target) = fs::canonicalize(path) {
            self.watch_parent(&target);
        }
    }
}

/// Dot-files, Kubernetes' `..data` and its time-stamped neighbours among them: the visible names
/// lead there.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// What editors write beside a file before they rename it. Never Kubernetes' links, which begin with
/// two dots.
fn is_scratch(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| is_hidden(name) && !name.as_encoded_bytes().starts_with(b".."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}
