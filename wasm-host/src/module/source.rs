//! From a source to the bytes of its module: what is asked of whom, and what is here already.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wayline_fetch::{FetchError, Limits, Request};
use wayline_model::defence::stands;
use wayline_model::plugin::{ModuleSource, PullPolicy, PullSecret};

use super::cache::Kind;
use super::digest::Digest;
use super::error::ModuleError;
use super::oci::{Content, Credentials, Reference, Registry};
use super::unpack::{Wanted, module_in};
use super::{Origin, Shared, blocking};
use crate::inspect::MAX_MODULE_BYTES;

/// What an archive may be longer than the module in it.
const PACKING: u64 = 1 << 20;

/// The bytes of a module, verified.
pub(super) struct Found {
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
    pub(super) manifest: Option<Digest>,
    pub(super) origin: Origin,
    etag: Option<String>,
}

/// What a source or an image was found to be.
#[derive(Clone, Deserialize, Serialize)]
struct Note {
    module: [u8; 32],
    manifest: Option<[u8; 32]>,
    /// What a web server calls this version.
    #[serde(default)]
    etag: Option<String>,
}

/// What must be equal for one source to be as good as another: what was found with one secret proves
/// nothing to who has another.
pub(super) fn key(source: &ModuleSource) -> [u8; 32] {
    let mut key = Sha256::new();
    let secret = match &source.pull_secret {
        None => "",
        Some(_) if !stands("pull-secret-of-its-own") => "",
        Some(PullSecret::DockerConfig(text) | PullSecret::Missing(text)) => text,
    };
    let parts = [
        &*source.url,
        source.sha256.as_deref().unwrap_or_default(),
        secret,
        if source.pull_secret.is_some() && stands("pull-secret-of-its-own") {
            "secret"
        } else {
            ""
        },
    ];
    for part in parts {
        key.update((part.len() as u64).to_le_bytes());
        key.update(part);
    }
    key.finalize().into()
}

/// The module's bytes, from where the policy says.
pub(super) async fn bytes_of(
    shared: &Arc<Shared>,
    source: &ModuleSource,
) -> Result<Found, ModuleError> {
    let place = Place::of(source)?;
    if let Place::File(path) = place {
        let (url, path) = (Arc::clone(&source.url), path.to_owned());
        let bytes = blocking(move || read(&path, &url)).await?;
        return found(source, bytes);
    }
    let name = Digest(key(source)).to_string();
    let before = shared.note(&name).await;
    if !asks_always(source, &place)
        && let Some(found) = shared.kept(before.clone(), Origin::Kept).await
    {
        return Ok(found);
    }
    let found = match shared
        .fetch_patiently(source, &place, before.as_ref())
        .await
    {
        Ok(found) => found,
        Err(error) if error.is_retriable() && stands("last-good-module") => {
            let last_good = shared.kept(before, Origin::LastGood).await;
            let Some(found) = last_good else {
                return Err(error);
            };
            tracing::warn!(%error, url = %source.url, "the last good version of a module stays");
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    shared.keep(&name, &found).await;
    Ok(found)
}

/// Where a module is.
enum Place<'a> {
    File(&'a Path),
    Web,
    Image(Reference, Option<Credentials>),
}

impl<'a> Place<'a> {
    fn of(source: &'a ModuleSource) -> Result<Self, ModuleError> {
        let refused = |reason: &str| ModuleError::Url {
            url: Arc::clone(&source.url),
            reason: reason.into(),
        };
        match source.url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(Path::new(path))),
            Some(("file", _)) => Err(refused("its path is not absolute")),
            Some(("http" | "https", _)) => Ok(Self::Web),
            Some(("oci", name)) => {
                let image = Reference::parse(name).map_err(refused)?;
                let secret = |reason: String| ModuleError::Secret {
                    image: Arc::clone(&source.url),
                    reason: reason.into(),
                };
                let credentials = match &source.pull_secret {
                    None => None,
                    Some(PullSecret::Missing(why)) => return Err(secret(why.to_string())),
                    Some(PullSecret::DockerConfig(config)) => {
                        Some(Credentials::find(config, &image).map_err(secret)?)
                    }
                };
                Ok(Self::Image(image, credentials))
            }
            Some(_) => Err(refused("its scheme is unknown")),
            None => Err(refused("it has no scheme")),
        }
    }
}

/// Whether the server is asked though we have something.
fn asks_always(source: &ModuleSource, place: &Place<'_>) -> bool {
    match source.pull_policy {
        PullPolicy::Always => true,
        PullPolicy::IfNotPresent => false,
        // As Istio has it, an image without a tag is not one tagged `latest`.
        PullPolicy::Unspecified => {
            matches!(place, Place::Image(..)) && source.url.ends_with(":latest")
        }
    }
}

impl Shared {
    /// Fetches, several times if that may help.
    async fn fetch_patiently(
        self: &Arc<Self>,
        source: &ModuleSource,
        place: &Place<'_>,
        before: Option<&Note>,
    ) -> Result<Found, ModuleError> {
        let mut pause = self.settings.back_off;
        let mut attempt = 1;
        loop {
            let outcome = Box::pin(self.fetch(source, place, before)).await;
            match outcome {
                Err(error) if error.is_retriable() && attempt < self.settings.attempts => {
                    tracing::debug!(%error, attempt, "a module was not fetched; trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn fetch(
        self: &Arc<Self>,
        source: &ModuleSource,
        place: &Place<'_>,
        before: Option<&Note>,
    ) -> Result<Found, ModuleError> {
        match place {
            Place::Image(image, credentials) => {
                self.pull(source, image, credentials.as_ref()).await
            }
            Place::Web | Place::File(_) => self.download(source, before).await,
        }
    }

    /// Asks a web server for the module, if it is another than the one we have.
    async fn download(
        self: &Arc<Self>,
        source: &ModuleSource,
        before: Option<&Note>,
    ) -> Result<Found, ModuleError> {
        let limits = Limits {
            body: MAX_MODULE_BYTES as u64 + PACKING,
            ..self.limits()
        };
        let mut request = Request::get(source.url.parse()?);
        let etag = before.and_then(|note| HeaderValue::from_str(note.etag.as_ref()?).ok());
        let kept = match &etag {
            Some(_) => self.kept(before.cloned(), Origin::Unchanged).await,
            None => None,
        };
        if let (Some(etag), Some(_)) = (etag, &kept) {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let fetched = self.settings.client.send(request, &limits).await?;
        match kept {
            Some(kept) if fetched.status == StatusCode::NOT_MODIFIED => return Ok(kept),
            _ if fetched.status.is_success() => {}
            _ => {
                let (url, status) = (Box::new(fetched.url), fetched.status);
                return Err(FetchError::Status { url, status }.into());
            }
        }
        let etag = fetched.headers.get(ETAG).and_then(|it| it.to_str().ok());
        let etag = etag.map(str::to_owned);
        let module = unpacked(&source.url, fetched.body, Wanted::Only).await?;
        Ok(Found {
            etag,
            ..found(source, module)?
        })
    }

    /// Asks for the manifest, and for the layer where the image is not here.
    async fn pull(
        self: &Arc<Self>,
        source: &ModuleSource,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Found, ModuleError> {
        let insecure = self.settings.is_insecure(&reference.registry);
        let client = &self.settings.client;
        let registry =
            Registry::enter(client, self.limits(), reference, credentials, insecure).await?;
        let image = registry.resolve().await?;
        let asked_for = digest_asked_for(source)?;
        if let Some(expected) = asked_for
            && ![image.digest, image.manifest].contains(&expected)
        {
            let what = format!("the manifest of {}", source.url);
            return Err(expected.mismatch(&what, image.manifest));
        }
        let name = format!("image-{}", image.manifest);
        if let Some(found) = self.kept(self.note(&name).await, Origin::Unchanged).await {
            return Ok(found);
        }
        let layer = registry.layer(&image).await?;
        let bytes = match image.content {
            // A layer that is a module is not unpacked.
            Content::Module if layer.starts_with(b"\0asm") => layer,
            Content::Module => {
                return Err(ModuleError::Layout {
                    what: Arc::clone(&source.url),
                    reason: "its layer is a module by its type, and is none; push it again".into(),
                });
            }
            Content::Archive => unpacked(&source.url, layer, Wanted::Plugin).await?,
        };
        let found = Found {
            digest: Digest::of(&bytes),
            bytes,
            manifest: Some(image.manifest),
            origin: Origin::Fetched,
            etag: None,
        };
        self.keep(&name, &found).await;
        Ok(found)
    }

    fn limits(&self) -> Limits {
        Limits {
            timeout: self.settings.timeout,
            ..Limits::default()
        }
    }

    /// What was noted under this name.
    async fn note(self: &Arc<Self>, name: &str) -> Option<Note> {
        let (shared, name) = (Arc::clone(self), name.to_owned());
        blocking(move || {
            let bytes = match &shared.cache {
                Some(cache) => cache.load(Kind::Note, &name)?.1,
                None => shared.known().notes.get(&name)?.clone(),
            };
            let note: Note = serde_json::from_slice(&bytes).ok()?;
            shared.known().noted.insert(name, Digest(note.module));
            Some(note)
        })
        .await
    }

    /// The module that a note speaks of, if it is here.
    async fn kept(self: &Arc<Self>, note: Option<Note>, origin: Origin) -> Option<Found> {
        let note = note?;
        let shared = Arc::clone(self);
        let digest = Digest(note.module);
        let bytes = blocking(move || shared.module(digest)).await?;
        Some(Found {
            bytes,
            digest,
            manifest: note.manifest.map(Digest),
            origin,
            etag: note.etag,
        })
    }

    /// Notes what was found, and keeps the module.
    async fn keep(self: &Arc<Self>, name: &str, found: &Found) {
        let note = Note {
            module: found.digest.0,
            manifest: found.manifest.map(|it| it.0),
            etag: found.etag.clone(),
        };
        let Ok(note) = serde_json::to_vec(&note) else {
            return;
        };
        let (shared, name, bytes) = (Arc::clone(self), name.to_owned(), found.bytes.clone());
        let digest = found.digest;
        blocking(move || shared.keep_now(digest, bytes, name, &note)).await;
    }

    fn module(&self, digest: Digest) -> Option<Bytes> {
        let bytes = match &self.cache {
            Some(cache) => cache.load(Kind::Module, &digest.to_string())?.1.into(),
            None => self.known().bytes.get(&digest)?.clone(),
        };
        // The seal says that it is ours, and this that it is itself.
        (Digest::of(&bytes) == digest).then_some(bytes)
    }

    fn keep_now(&self, digest: Digest, bytes: Bytes, name: String, note: &[u8]) {
        self.known().noted.insert(name.clone(), digest);
        let Some(cache) = &self.cache else {
            let mut known = self.known();
            known.remember(digest, bytes, name, note);
            return;
        };
        let module = digest.to_string();
        let kept = match cache.load(Kind::Module, &module) {
            Some(_) => Ok(()),
            None => cache.keep(Kind::Module, &module, &bytes).map(drop),
        };
        let kept = kept.and_then(|()| cache.keep(Kind::Note, &name, note).map(drop));
        if let Err(error) = kept {
            tracing::warn!(%error, "a module can not be kept on disk; it is fetched again after a restart");
        }
    }
}

async fn unpacked(url: &Arc<str>, packed: Bytes, wanted: Wanted) -> Result<Bytes, ModuleError> {
    let module = blocking(move || module_in(packed, wanted)).await;
    module.map_err(|reason| ModuleError::Layout {
        what: Arc::clone(url),
        reason: reason.into(),
    })
}

/// Bytes of a file or a web server, which are what the digest asked for is of.
fn found(source: &ModuleSource, bytes: Bytes) -> Result<Found, ModuleError> {
    if let Some(expected) = digest_asked_for(source)? {
        expected.check(&source.url, &bytes)?;
    }
    Ok(Found {
        digest: Digest::of(&bytes),
        bytes,
        manifest: None,
        origin: Origin::Fetched,
        etag: None,
    })
}

fn digest_asked_for(source: &ModuleSource) -> Result<Option<Digest>, ModuleError> {
    let Some(text) = &source.sha256 else {
        return Ok(None);
    };
    let digest = Digest::parse(text).ok_or_else(|| ModuleError::Url {
        url: Arc::clone(&source.url),
        reason: "the sha256 asked for is not 64 hexadecimal digits".into(),
    })?;
    Ok(Some(digest))
}

fn read(path: &Path, url: &Arc<str>) -> Result<Bytes, ModuleError> {
    let failed = |reason: String| ModuleError::File {
        path: path.display().to_string().into(),
        reason: reason.into(),
    };
    // Opening a pipe must not wait for who writes into it.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    if !file.metadata().is_ok_and(|it| it.is_file()) {
        return Err(failed("it is no ordinary file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_MODULE_BYTES as u64 + PACKING)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    module_in(bytes.into(), Wanted::Only).map_err(|reason| ModuleError::Layout {
        what: Arc::clone(url),
        reason: reason.into(),
    })
}
