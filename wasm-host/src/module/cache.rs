//! What was fetched and compiled, on disk, across restarts.
//!
//! Compiled code is run as it is, so that nobody else's must ever be taken for ours: every file ends with
//! a code (HMAC-SHA256) over its kind, its name and its content, made with a key that lies beside them
//! and that only we can read. What does not have the right one is removed and made anew. The folder
//! belongs to us alone. Where there is no folder to write to, everything lives in memory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use thiserror::Error;
use wayline_model::defence::stands;

const KEY: &str = "key";
const KEY_BYTES: usize = 64;
const SEAL_BYTES: usize = 32;

/// Why a folder is not used as cache.
#[derive(Debug, Error)]
pub enum CacheError {
    /// It can not be made or written to.
    #[error(
        "cannot use {path} as cache of modules: {source}; name a folder that can be written with --wasm-cache-dir"
    )]
    Io {
        /// The folder, or a file in it.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Others could have put something there.
    #[error(
        "{path} is not used as cache of modules: {reason}; remove it, or name another folder with --wasm-cache-dir"
    )]
    Foreign {
        /// The folder, or a file in it.
        path: PathBuf,
        /// Who could.
        reason: &'static str,
    },
}

/// What kind of thing a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A module, named by its digest.
    Module,
    /// Compiled code, named by its module's digest and whom it is for.
    Code,
    /// What is known of a source or an image.
    Note,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Module, Self::Code, Self::Note];

    fn folder(self) -> &'static str {
        match self {
            Self::Module => "modules",
            Self::Code => "code",
            Self::Note => "notes",
        }
    }
}

/// A folder that is ours.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
}

/// A file of the cache whose seal was right.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) file: File,
    /// Length of the content, which the seal follows.
    pub(crate) content: u64,
}

impl Cache {
    /// Makes the folder if need be, makes sure that it is ours and that it can be written to.
    pub(crate) fn open(dir: &Path) -> Result<Self, CacheError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| CacheError::Io { path, source }
        };
        private_dirs().create(dir).map_err(failed(dir))?;
        ours(dir, &fs::metadata(dir).map_err(failed(dir))?)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed(dir))?;
        for kind in Kind::ALL {
            let folder = dir.join(kind.folder());
            private_dirs().create(&folder).map_err(failed(&folder))?;
            ours(
                &folder,
                &fs::symlink_metadata(&folder).map_err(failed(&folder))?,
            )?;
        }
        let path = dir.join(KEY);
        let key = match read_key(&path)? {
            Some(key) => key,
            None => {
                make_key(&path).map_err(failed(&path))?;
                // Whoever was first has made the key of all.
                read_key(&path)?.ok_or(CacheError::Foreign {
                    path,
                    reason: "its key is not 64 bytes long",
                })?
            }
        };
        let cache = Self {
            dir: dir.to_owned(),
            key,
        };
        let probe = cache.dir.join(".probe");
        write_new(&probe, &[]).map_err(failed(&probe))?;
        fs::remove_file(&probe).map_err(failed(&probe))?;
        Ok(cache)
    }

    /// The file of this name, if it is there and ours, with its content. It counts as used now.
    pub(crate) fn load(&self, kind: Kind, name: &str) -> Option<(Sealed, Vec<u8>)> {
        let path = self.path(kind, name);
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(no_follow())
            .open(&path)
            .ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let content = bytes.len().checked_sub(SEAL_BYTES);
        let sealed = content.is_some_and(|content| {
            let (content, seal) = bytes.split_at(content);
            self.seal(kind, name, content).verify_slice(seal).is_ok() || !stands("cache-seal")
        });
        let Some(content) = content.filter(|_| sealed) else {
            tracing::warn!(
                file = %path.display(),
                "a file in the cache of modules is damaged or not ours; it is removed and made anew"
            );
            let _ = fs::remove_file(&path);
            return None;
        };
        let _ = file.set_modified(SystemTime::now());
        bytes.truncate(content);
        let content = content as u64;
        Some((Sealed { file, content }, bytes))
    }

    /// Keeps something under this name. It is there whole or not at all.
    pub(crate) fn keep(&self, kind: Kind, name: &str, content: &[u8]) -> io::Result<Sealed> {
        let path = self.path(kind, name);
        let fresh = self.dir.join(format!(
            ".{name}-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let written = write_sealed(
            &fresh,
            content,
            &self.seal(kind, name, content).finalize().into_bytes(),
        )
        .and_then(|file| fs::rename(&fresh, &path).map(|()| file));
        match written {
            Ok(file) => Ok(Sealed {
                file,
                content: content.len() as u64,
            }),
            Err(error) => {
                let _ = fs::remove_file(&fresh);
                Err(error)
            }
        }
    }

    /// Says that this is still used.
    pub(crate) fn touch(&self, kind: Kind, name: &str) {
        if let Ok(file) = File::open(self.path(kind, name)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Removes what was not used for `expiry`, and then the longest unused until the rest is within
    /// `limit` bytes; remains of writers that died as well.
    pub(crate) fn purge(&self, expiry: Duration, limit: u64) {
        let now = SystemTime::now();
        let age = |used: SystemTime| now.duration_since(used).unwrap_or_default();
        let mut kept = Vec::new();
        let folders = Kind::ALL.map(|kind| self.dir.join(kind.folder()));
        for folder in folders.iter().chain([&self.dir]) {
            let in_root = *folder == self.dir;
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                let temporary = entry.file_name().as_encoded_bytes().starts_with(b".");
                if !metadata.is_file() || in_root && !temporary {
                    continue;
                }
                let used = metadata.modified().unwrap_or(now);
                let expiry = if in_root { HOUR.min(expiry) } else { expiry };
                if age(used) > expiry {
                    let _ = fs::remove_file(entry.path());
                } else if !in_root {
                    kept.push((used, metadata.len(), entry.path()));
                }
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in kept {
            if total <= limit {
                return;
            }
            if fs::remove_file(path).is_ok() {
                total = total.saturating_sub(length);
            }
        }
    }

    fn path(&self, kind: Kind, name: &str) -> PathBuf {
        self.dir.join(kind.folder()).join(name)
    }

    fn seal(&self, kind: Kind, name: &str, content: &[u8]) -> Hmac<Sha256> {
        let mut seal = Hmac::<Sha256>::new(&self.key.into());
        for part in [kind.folder().as_bytes(), name.as_bytes()] {
            seal.update(&(part.len() as u64).to_le_bytes());
            seal.update(part);
        }
        seal.update(content);
        seal
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);

fn private_dirs() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

/// Makes sure that only we can have put things there.
fn ours(path: &Path, metadata: &fs::Metadata) -> Result<(), CacheError> {
    let foreign = |reason| {
        Err(CacheError::Foreign {
            path: path.to_owned(),
            reason,
        })
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return foreign("it belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return foreign("others can write to it");
    }
    Ok(())
}

/// The key, or none where there is no file.
fn read_key(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, CacheError> {
    let failed = |source| CacheError::Io {
        path: path.to_owned(),
        source,
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(no_follow())
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    ours(path, &metadata)?;
    let foreign = |reason| CacheError::Foreign {
        path: path.to_owned(),
        reason,
    };
    if metadata.mode() & 0o077 != 0 {
        return Err(foreign("others can read its key"));
    }
    let mut key = [0; KEY_BYTES];
    if metadata.len() != KEY_BYTES as u64 {
        return Err(foreign("its key is not 64 bytes long"));
    }
    file.read_exact(&mut key).map_err(failed)?;
    Ok(Some(key))
}

/// Draws a key, if nobody has done so meanwhile.
fn make_key(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let fresh = path.with_extension(std::process::id().to_string());
    let _ = fs::remove_file(&fresh);
    write_new(&fresh, &key)?;
    // A link fails where a rename would replace the key that others use already.
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write_sealed(path: &Path, content: &[u8], seal: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.write_all(seal)?;
    Ok(file)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    write_sealed(path, content, &[]).map(drop)
}

/// Flag of `open`: a symbolic link is an error.
fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn content(cache: &Cache, kind: Kind, name: &str) -> Option<Vec<u8>> {
        cache.load(kind, name).map(|(_, content)| content)
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let cache = Cache::open(&path).unwrap();
        cache.keep(Kind::Code, "x", b"code").unwrap();
        cache.keep(Kind::Code, "x", b"newer").unwrap();
        drop(cache);
        let cache = Cache::open(&path).unwrap();
        assert_eq!(content(&cache, Kind::Code, "x").unwrap(), b"newer");
        assert_eq!(content(&cache, Kind::Code, "y"), None);
        let (sealed, bytes) = cache.load(Kind::Code, "x").unwrap();
        assert_eq!(sealed.content, bytes.len() as u64);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for file in ["key", "code/x"] {
            assert_eq!(fs::metadata(path.join(file)).unwrap().mode() & 0o777, 0o600);
        }
        // Nothing else was left behind.
        let names = fs::read_dir(&path)
            .unwrap()
            .map(|it| it.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["code", "key", "modules", "notes"]);
    }

    #[test]
    fn foreign_bytes_are_never_handed_out() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(dir.path()).unwrap();
        let stranger = Cache::open(other.path()).unwrap();
        let file = |name: &str| dir.path().join("code").join(name);
        cache.keep(Kind::Code, "x", b"code").unwrap();
        stranger.keep(Kind::Code, "x", b"code").unwrap();
        let original = fs::read(file("x")).unwrap();
        let theirs = fs::read(other.path().join("code/x")).unwrap();
        assert_eq!(original[..4], theirs[..4]);

        let mut flipped = original.clone();
        flipped[0] ^= 1;
        let mut longer = original.clone();
        longer.push(0);
        for bytes in [
            &theirs,
            &flipped,
            &longer,
            &original[..35].to_vec(),
            &Vec::new(),
        ] {
            fs::write(file("x"), bytes).unwrap();
            assert_eq!(content(&cache, Kind::Code, "x"), None);
            assert!(!file("x").exists());
        }
        // Ours, but for something else.
        fs::write(file("y"), &original).unwrap();
        assert_eq!(content(&cache, Kind::Code, "y"), None);
        fs::write(dir.path().join("notes/x"), &original).unwrap();
        assert_eq!(content(&cache, Kind::Note, "x"), None);
        // A way around the folder.
        fs::write(dir.path().join("elsewhere"), &original).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), file("x")).unwrap();
        assert_eq!(content(&cache, Kind::Code, "x"), None);
    }

    #[test]
    fn folders_that_others_can_write_to_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(dir.path(), 0o777);
        let error = Cache::open(dir.path()).unwrap_err();
        assert!(matches!(error, CacheError::Foreign { .. }), "{error}");
        mode(dir.path(), 0o755);
        Cache::open(dir.path()).unwrap();
        mode(&dir.path().join(KEY), 0o640);
        let error = Cache::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("key"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Cache::open(file.path()).unwrap_err();
        assert!(matches!(error, CacheError::Io { .. }), "{error}");
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for (name, age) in [("old", 10_000), ("older", 20_000), ("new", 0)] {
            let sealed = cache.keep(Kind::Module, name, &[7; 100]).unwrap();
            let used = SystemTime::now() - Duration::from_secs(age);
            sealed.file.set_modified(used).unwrap();
        }
        let kept = |cache: &Cache| {
            ["old", "older", "new"].map(|name| cache.path(Kind::Module, name).exists())
        };
        cache.purge(Duration::from_secs(30_000), 1000);
        assert_eq!(kept(&cache), [true, true, true]);
        cache.purge(Duration::from_secs(30_000), 300);
        assert_eq!(kept(&cache), [true, false, true]);
        cache.touch(Kind::Module, "old");
        cache.purge(Duration::from_secs(5_000), 1000);
        assert_eq!(kept(&cache), [true, false, true]);
        // What was touched was used last.
        cache.purge(Duration::from_secs(5_000), 150);
        assert_eq!(kept(&cache), [true, false, false]);
        Cache::open(dir.path()).unwrap();
    }
}
