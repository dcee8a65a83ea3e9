//! Manifests, and which layer of an image the module is in.

use serde::Deserialize;

use crate::inspect::MAX_MODULE_BYTES;
use crate::module::digest::Digest;

/// Layers that are a module.
const MODULE_LAYERS: [&str; 3] = [
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
];

/// What a manifest turned out to be.
#[derive(Debug)]
pub(crate) enum Document {
    /// A list of images.
    Index(Vec<Descriptor>),
    /// One image.
    Image(Vec<Descriptor>),
}

/// What is said of a blob or a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    platform: Option<Platform>,
}

/// What a layer holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// The module.
    Module,
    /// An archive with a file `plugin.wasm`.
    Archive,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    manifests: Option<Vec<Descriptor>>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a manifest of either kind; the error says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|error| format!("its manifest can not be read ({error}); push it again"))?;
        match (manifest.manifests, manifest.layers) {
            (Some(images), None) => Ok(Self::Index(images)),
            (None, Some(layers)) => Ok(Self::Image(layers)),
            // It would be one thing to us and another to whoever checks it.
            (Some(_), Some(_)) => Err(
                "its manifest claims to be a list and an image at once; push it again".to_owned(),
            ),
            (None, None) => Err(
                "its manifest is neither an image nor a list of images of OCI or Docker v2; push it with a current tool"
                    .to_owned(),
            ),
        }
    }
}

impl Descriptor {
    /// The digest, where it is one we can check.
    pub(crate) fn digest(&self) -> Result<Digest, String> {
        let sha256 = self.digest.strip_prefix("sha256:");
        sha256.and_then(Digest::parse).ok_or_else(|| {
            format!(
                "{:?} in its manifest is no sha256 digest; push it with a current tool",
                shortened(&self.digest)
            )
        })
    }
}

/// The image of a list that is looked at: one for Wasm, else the one for this machine, else one for
/// any, else the first. Attestations are none.
pub(crate) fn choose_image(images: &[Descriptor]) -> Option<&Descriptor> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let rank = |image: &Descriptor| match &image.platform {
        Some(it) if it.architecture == "wasm" || it.architecture == "wasm32" => Some(0),
        Some(it) if it.architecture == machine && it.os == "linux" => Some(1),
        None => Some(2),
        Some(it) if it.architecture == "unknown" && it.os == "unknown" => None,
        Some(_) => Some(3),
    };
    let ranked = images
        .iter()
        .filter_map(|image| Some((rank(image)?, image)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, image)| image)
}

/// The layer with the module: the only one that is a module by its media type, else the last, if that is
/// an archive (Istio).
pub(crate) fn choose_layer(layers: &[Descriptor]) -> Result<(&Descriptor, Content), String> {
    let is_module = |layer: &&Descriptor| MODULE_LAYERS.contains(&&*layer.media_type);
    let mut modules = layers.iter().filter(is_module);
    let chosen = match (modules.next(), modules.next(), layers.last()) {
        (Some(module), None, _) => (module, Content::Module),
        (Some(_), Some(_), _) => {
            return Err("several of its layers are modules; push one module per image".to_owned());
        }
        (None, _, Some(last)) if is_archive(&last.media_type) => (last, Content::Archive),
        (None, _, Some(last)) => {
            return Err(format!(
                "its last layer is of type {:?}, expected {} or an archive; push it with a tool for Wasm images",
                shortened(&last.media_type),
                MODULE_LAYERS[0]
            ));
        }
        (None, _, None) => return Err("it has no layers; push it again".to_owned()),
    };
    let (layer, _) = chosen;
    if layer.size > MAX_MODULE_BYTES as u64 {
        return Err(format!(
            "its layer is {} bytes long and {MAX_MODULE_BYTES} are allowed; build the module in release mode and strip it",
            layer.size
        ));
    }
    Ok(chosen)
}

fn is_archive(media_type: &str) -> bool {
    let (kind, compression) = media_type
        .rsplit_once(['+', '.'])
        .map_or((media_type, ""), |split| split);
    let tar = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ];
    tar.contains(&media_type) || tar.contains(&kind) && matches!(compression, "gzip" | "zstd")
}

/// What others wrote, for messages.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn layer(media_type: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", Digest::of(b"")),
            size: 3,
            platform: None,
        }
    }

    fn image(name: &str, platform: Option<(&str, &str)>) -> Descriptor {
        Descriptor {
            platform: platform.map(|(os, architecture)| Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            }),
            ..layer(name)
        }
    }

    #[test]
    fn the_layer_with_the_module_is_found_in_every_layout() {
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let oci = "application/vnd.oci.image.layer.v1.tar+gzip";
        let solo = MODULE_LAYERS[0];
        for (layers, at, content) in [
            (vec![docker], 0, Content::Archive),
            (vec![docker, docker], 1, Content::Archive),
            (vec![oci, oci, oci], 2, Content::Archive),
            (
                vec!["application/vnd.oci.image.layer.v1.tar"],
                0,
                Content::Archive,
            ),
            (
                vec!["application/vnd.oci.image.layer.v1.tar+zstd"],
                0,
                Content::Archive,
            ),
            (vec![solo], 0, Content::Module),
            (vec![solo, "application/json"], 0, Content::Module),
            (
                vec!["text/markdown", "application/json", solo],
                2,
                Content::Module,
            ),
            (vec!["application/wasm"], 0, Content::Module),
            (
                vec!["application/vnd.wasm.content.layer.v1+wasm"],
                0,
                Content::Module,
            ),
        ] {
            let layers: Vec<_> = layers.into_iter().map(layer).collect();
            let (found, kind) = choose_layer(&layers).unwrap();
            assert!(std::ptr::eq(found, &layers[at]), "{layers:?}");
            assert_eq!(kind, content, "{layers:?}");
        }
        for layers in [
            vec![],
            vec![solo, solo],
            vec!["text/plain"],
            vec![oci, "a/b.tar"],
        ] {
            let layers: Vec<_> = layers.into_iter().map(layer).collect();
            assert!(choose_layer(&layers).is_err(), "{layers:?}");
        }
        let vast = Descriptor {
            size: u64::MAX,
            ..layer(solo)
        };
        assert!(choose_layer(&[vast]).unwrap_err().contains("allowed"));
    }

    #[test]
    fn of_a_list_the_image_for_wasm_or_this_machine_is_taken() {
        let wasm = image("wasm", Some(("wasip1", "wasm")));
        let (amd, arm) = (
            image("amd64", Some(("linux", "amd64"))),
            image("arm64", Some(("linux", "arm64"))),
        );
        let odd = image("odd", Some(("plan9", "mips")));
        let any = image("any", None);
        let attestation = image("attestation", Some(("unknown", "unknown")));
        let machine = if cfg!(target_arch = "x86_64") {
            "amd64"
        } else {
            "arm64"
        };
        for (images, expected) in [
            (vec![&amd, &arm, &wasm], Some("wasm")),
            (vec![&attestation, &any, &amd, &arm], Some(machine)),
            (vec![&attestation, &odd, &any], Some("any")),
            (vec![&attestation, &odd], Some("odd")),
            (vec![&attestation], None),
        ] {
            let images: Vec<_> = images.into_iter().cloned().collect();
            let found = choose_image(&images).map(|image| &*image.media_type);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn manifests_are_one_thing() {
        assert!(matches!(
            Document::parse(br#"{"layers": []}"#),
            Ok(Document::Image(_))
        ));
        assert!(matches!(
            Document::parse(br#"{"manifests": []}"#),
            Ok(Document::Index(_))
        ));
        for bad in [
            &b""[..],
            b"{}",
            b"<html>",
            br#"{"layers": [], "manifests": []}"#,
            br#"{"layers": [{"size": 1}]}"#,
            br#"{"layers": [{"digest": "sha256:a", "size": -1}]}"#,
            br#"{"schemaVersion": 1, "fsLayers": []}"#,
        ] {
            assert!(Document::parse(bad).is_err());
        }
    }
}
