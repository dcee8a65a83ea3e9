//! Talking to a registry: who we are, manifests, blobs.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use wayline_fetch::{
    Client, DialError, FetchError, Fetched, Limits, Request, Url, retriable_status,
};

use wayline_model::defence::stands;

use super::challenge::Challenge;
use super::credentials::Credentials;
use super::manifest::{Content, Descriptor, Document, choose_image, choose_layer};
use super::reference::Reference;
use crate::inspect::MAX_MODULE_BYTES;
use crate::module::digest::Digest;
use crate::module::error::ModuleError;

/// Manifests are no longer than this (OCI distribution).
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// A list may lead to a list, but not for ever.
const MAX_DEPTH: usize = 4;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry that has let us in, for one image.
pub(crate) struct Registry<'a> {
    client: &'a Client,
    limits: Limits,
    image: Arc<str>,
    reference: &'a Reference,
    /// `https://host[:port]/v2/`.
    base: Url,
    authorization: Option<HeaderValue>,
}

/// An image whose manifest is known.
#[derive(Debug)]
pub(crate) struct Image {
    /// The digest of the manifest that the reference led to: of a list where it is one.
    pub(crate) digest: Digest,
    /// The digest of the image's own manifest.
    pub(crate) manifest: Digest,
    /// What the module's layer holds.
    pub(crate) content: Content,
    layer: Descriptor,
}

impl<'a> Registry<'a> {
    /// Finds out how the registry wants to be talked to, and says who we are. With credentials nothing is
    /// asked without them. Only an `insecure` registry is talked to without TLS, if it has none.
    pub(crate) async fn enter(
        client: &'a Client,
        limits: Limits,
        reference: &'a Reference,
        credentials: Option<&Credentials>,
        insecure: bool,
    ) -> Result<Self, ModuleError> {
        let image: Arc<str> =
            format!("oci://{}/{}", reference.registry, reference.repository).into();
        let base = |scheme| format!("{scheme}://{}/v2/", reference.api()).parse::<Url>();
        let ask = |base: &Url| {
            let request = Request::get(base.clone());
            async move { client.send(request, &limits).await }
        };
        let mut base_url = base("https")?;
        let answer = match ask(&base_url).await {
            Err(error) if insecure && speaks_no_tls(&error) => {
                base_url = base("http")?;
                ask(&base_url).await?
            }
            other => other?,
        };
        let mut registry = Self {
            client,
            limits,
            image,
            reference,
            base: base_url,
            authorization: None,
        };
        registry.authorization = registry.authorize(&answer, credentials).await?;
        Ok(registry)
    }

    /// Reads manifests until there is one of an image.
    pub(crate) async fn resolve(&self) -> Result<Image, ModuleError> {
        let mut version = self.reference.version.to_string();
        let mut expected = match &self.reference.version {
            super::Version::Digest(digest) => Some(*digest),
            super::Version::Tag(_) => None,
        };
        let mut asked_for = None;
        let depth = if stands("index-depth") { MAX_DEPTH } else { 32 };
        for _ in 0..depth {
            let bytes = self.manifest(&version).await?;
            let digest = Digest::of(&bytes);
            if let Some(expected) = expected
                && expected != digest
                && stands("module-digest")
            {
                return Err(expected.mismatch(&format!("the manifest of {}", self.image), digest));
            }
            let asked_for = *asked_for.get_or_insert(digest);
            let document = Document::parse(&bytes).map_err(|reason| self.layout(reason))?;
            match document {
                Document::Image(layers) => {
                    let (layer, content) =
                        choose_layer(&layers).map_err(|reason| self.layout(reason))?;
                    return Ok(Image {
                        digest: asked_for,
                        manifest: digest,
                        content,
                        layer: layer.clone(),
                    });
                }
                Document::Index(images) => {
                    let chosen = choose_image(&images).ok_or_else(|| {
                        self.layout("its list of images is empty; push it again".to_owned())
                    })?;
                    let digest = chosen.digest().map_err(|reason| self.layout(reason))?;
                    version = format!("sha256:{digest}");
                    expected = Some(digest);
                }
            }
        }
        Err(self.layout(format!(
            "its lists of images lead to lists more than {MAX_DEPTH} deep; push it again"
        )))
    }

    /// The layer with the module, whose digest and size are those of the manifest.
    pub(crate) async fn layer(&self, image: &Image) -> Result<Bytes, ModuleError> {
        let layer = &image.layer;
        let digest = layer.digest().map_err(|reason| self.layout(reason))?;
        // A digest needs all the bytes, so that a longer blob is refused before it is here.
        let limits = Limits {
            body: layer.size.min(MAX_MODULE_BYTES as u64),
            ..self.limits
        };
        let path = format!("blobs/sha256:{digest}");
        let body = self.get(&path, None, &limits).await?;
        digest.check(&format!("the layer of {}", self.image), &body)?;
        Ok(body)
    }

    async fn manifest(&self, version: &str) -> Result<Bytes, ModuleError> {
        let limits = Limits {
            body: MAX_MANIFEST_BYTES,
            ..self.limits
        };
        self.get(
            &format!("manifests/{version}"),
            Some(MANIFEST_TYPES),
            &limits,
        )
        .await
    }

    async fn get(
        &self,
        path: &str,
        accept: Option<&'static str>,
        limits: &Limits,
    ) -> Result<Bytes, ModuleError> {
        let url = self
            .base
            .join(&format!("/v2/{}/{path}", self.reference.repository))?;
        let mut request = Request::get(url);
        if let Some(types) = accept {
            request = request.header(ACCEPT, HeaderValue::from_static(types));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let answer = self.client.send(request, limits).await?;
        if answer.status == StatusCode::OK {
            return Ok(answer.body);
        }
        Err(self.refused(&answer, path))
    }

    /// What goes into the Authorization header, by what the registry asks for.
    async fn authorize(
        &self,
        answer: &Fetched,
        credentials: Option<&Credentials>,
    ) -> Result<Option<HeaderValue>, ModuleError> {
        if let Some(Credentials::Token(token)) = credentials {
            return self.header(&format!("Bearer {token}")).map(Some);
        }
        let challenge = match answer.status {
            // It lets everybody in here, and may still ask whom it hands the image to.
            StatusCode::OK => Some(Challenge::Basic),
            StatusCode::UNAUTHORIZED => {
                let values = answer.headers.get_all(WWW_AUTHENTICATE).iter();
                Challenge::read(values.filter_map(|value| value.to_str().ok()))
            }
            _ => return Err(self.refused(answer, "its API")),
        };
        match challenge {
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(&realm, service.as_deref(), credentials).await?;
                self.header(&format!("Bearer {token}")).map(Some)
            }
            Some(Challenge::Basic) => match credentials {
                None => Ok(None),
                Some(credentials) => {
                    let basic = credentials.basic().ok_or_else(|| ModuleError::Secret {
                        image: Arc::clone(&self.image),
                        reason: "its registry asks for a user and a password, and the pull secret has a token; write the secret anew".into(),
                    })?;
                    self.header(&basic).map(Some)
                }
            },
            None => Err(self.failed(
                "the registry asks who we are in no way that we know (Basic, Bearer); use another registry"
                    .to_owned(),
                false,
            )),
        }
    }

    /// Gets a token for pulling this image (Docker's token authentication).
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<String, ModuleError> {
        let mut query = format!(
            "scope={}",
            encoded(&format!("repository:{}:pull", self.reference.repository))
        );
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encoded(service)));
        }
        let realm_url: Url = realm.parse()?;
        if self.base.is_https() && !realm_url.is_https() {
            return Err(self.failed(
                format!("the registry wants us to get a token from {realm_url}, which is not protected by TLS; use another registry"),
                false,
            ));
        }
        let request = match credentials {
            Some(Credentials::Refresh(token)) => {
                let form = format!(
                    "grant_type=refresh_token&client_id=wayline&refresh_token={}&{query}",
                    encoded(token)
                );
                Request::post(realm_url, form)
            }
            other => {
                let separator = if realm_url.path_and_query().contains('?') {
                    '&'
                } else {
                    '?'
                };
                let url = format!("{realm_url}{separator}{query}").parse()?;
                let request = Request::get(url);
                match other.and_then(Credentials::basic) {
                    Some(basic) => request.header(AUTHORIZATION, self.header(&basic)?),
                    None => request,
                }
            }
        };
        let answer = self.client.send(request, &self.limits).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(&answer, "a token"));
        }
        let token: Token = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = token.token.or(token.access_token);
        token.filter(|token| !token.is_empty()).ok_or_else(|| {
            self.failed(
                format!(
                    "{} answers without a token; use another registry",
                    answer.url.host()
                ),
                false,
            )
        })
    }

    fn header(&self, text: &str) -> Result<HeaderValue, ModuleError> {
        let mut value = HeaderValue::from_str(text).map_err(|_| ModuleError::Secret {
            image: Arc::clone(&self.image),
            reason: "its token has characters that no header may have; write the pull secret anew"
                .into(),
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// An answer that is not what was asked for.
    fn refused(&self, answer: &Fetched, what: &str) -> ModuleError {
        let status = answer.status;
        let host = answer.url.host();
        let reason = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.authorization.is_some() => {
                format!("{host} refuses our credentials ({status}); check the pull secret")
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                format!("{host} refuses access ({status}); name a valid pull secret")
            }
            StatusCode::NOT_FOUND => {
                format!("{host} has no {what} of it ({status}); check name and tag")
            }
            _ => format!("{host} answers {status} when asked for {what}; look at the registry"),
        };
        self.failed(reason, retriable_status(status))
    }

    fn failed(&self, reason: String, retriable: bool) -> ModuleError {
        ModuleError::Registry {
            image: Arc::clone(&self.image),
            reason: reason.into(),
            retriable,
        }
    }

    fn layout(&self, reason: String) -> ModuleError {
        ModuleError::Layout {
            what: Arc::clone(&self.image),
            reason: reason.into(),
        }
    }
}

#[derive(Default, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Whether nobody speaks TLS there, as far as one can tell.
fn speaks_no_tls(error: &FetchError) -> bool {
    error.is_no_tls() || matches!(error, FetchError::Dial(DialError::Connect { .. }))
}

/// Percent-encodes a value of a query or a form.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
