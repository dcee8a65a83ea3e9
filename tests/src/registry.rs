//! A real registry, and images in every layout that is seen in the wild, pushed over its own API.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client::{Request, Response};
use crate::loopback::Network;
use crate::process::Process;
use crate::{eventually, tools};

/// The user that a registry with [`Registry::guarded`] knows, and the password.
pub const USER: (&str, &str) = ("wayline", "secret");

/// The same in the registry's file (bcrypt).
const HTPASSWD: &str = "wayline:$2b$04$853VSFnPRAKNeQVQIwnrQulOUaI09gOR5n7fJTQfwagMIz3RwB69S\n";

/// The media type of a module that is a layer.
pub const WASM_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Debian's docker-registry, without TLS, on a loopback address of its own; what it holds is in memory.
pub struct Registry {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, which may be stopped.
    pub process: Process,
    guarded: bool,
    _network: Network,
    _home: tempfile::TempDir,
}

/// `sha256:` and the digest of these bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// The digest of these bytes in hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a manifest says of a blob.
#[must_use]
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

impl Registry {
    /// Starts one that lets everybody in.
    #[must_use]
    pub fn open() -> Self {
        Self::start(false)
    }

    /// Starts one that asks for [`USER`].
    #[must_use]
    pub fn guarded() -> Self {
        Self::start(true)
    }

    fn start(guarded: bool) -> Self {
        let network = Network::claim();
        let address = SocketAddr::new(network.ip(1), 5000);
        let home = tempfile::tempdir().unwrap();
        let passwords = home.path().join("htpasswd");
        std::fs::write(&passwords, HTPASSWD).unwrap();
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            passwords.display()
        );
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  inmemory: {{}}\nhttp:\n  addr: {address}\n{}",
            if guarded { &auth } else { "" }
        );
        let file = home.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(tools::tool("docker-registry"));
        command.arg("serve").arg(&file);
        let mut process = Process::start(command);
        eventually("the registry to listen", || {
            assert!(process.ended().is_none(), "it ended: {}", process.stderr());
            std::net::TcpStream::connect(address).ok()
        });
        Self {
            address,
            process,
            guarded,
            _network: network,
            _home: home,
        }
    }

    /// The URL of an image in it.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    /// Pushes an image of these layers, as a Docker or an OCI manifest; answers with its digest.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub fn push(&self, name: &str, docker: bool, config: &str, layers: &[(&str, &[u8])]) -> String {
        let kind = if docker {
            DOCKER_MANIFEST
        } else {
            OCI_MANIFEST
        };
        let repository = name.split_once(':').map_or(name, |(it, _)| it);
        self.push_blob(repository, b"{}");
        for (_, layer) in layers {
            self.push_blob(repository, layer);
        }
        let layers = layers.iter().map(|(kind, bytes)| descriptor(kind, bytes));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": descriptor(config, b"{}"),
            "layers": layers.collect::<Vec<_>>(),
        });
        self.push_manifest(name, kind, &manifest)
    }

    /// Pushes a list of images that were pushed before.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub fn push_index(&self, name: &str, images: &[Value]) -> String {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": images});
        self.push_manifest(name, OCI_INDEX, &index)
    }

    /// Length in bytes of a manifest that was pushed.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn manifest_size(&self, repository: &str, digest: &str) -> usize {
        let target = format!("/v2/{repository}/manifests/{digest}");
        let answer = self.ask(&Request::get(&target).header("accept", OCI_MANIFEST));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.body.len()
    }

    fn push_manifest(&self, name: &str, kind: &str, manifest: &Value) -> String {
        let body = serde_json::to_vec(manifest).unwrap();
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let target = format!("/v2/{repository}/manifests/{tag}");
        let digest = digest(&body);
        let request = Request::new("PUT", &target)
            .header("content-type", kind)
            .body(body);
        let answer = self.ask(&request);
        assert_eq!(answer.status, 201, "{}", answer.text());
        digest
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let target = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.ask(&Request::new("POST", &target).body(""));
        assert_eq!(answer.status, 202, "{}", answer.text());
        let location = answer.header("location").unwrap();
        let path = location.split_once("://").map_or(location, |(_, rest)| {
            rest.find('/').map_or("/", |start| &rest[start..])
        });
        let request = Request::new("PUT", &format!("{path}&digest={}", digest(bytes)))
            .header("content-type", "application/octet-stream")
            .body(bytes);
        let answer = self.ask(&request);
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    fn ask(&self, request: &Request) -> Response {
        let mut request = request.clone().host(&self.address.to_string());
        if self.guarded {
            request = request.header("authorization", "Basic d2F5bGluZTpzZWNyZXQ=");
        }
        request.send(self.address)
    }
}
