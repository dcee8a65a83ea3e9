//! Modules from files, web servers and registries, well-meant and not: `wayline wasm inspect` obtains
//! them as the proxy does.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use wayline_tests::backend::{Backend, Recorded, Reply};
use wayline_tests::loopback::Network;
use wayline_tests::registry::{Registry, WASM_LAYER, descriptor, digest, hex};
use wayline_tests::tools;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A module that would be hosted; another one for each text.
fn module(about: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (memory (export "memory") 2 32)
            (data (i32.const 0) "{about}")
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024)))"#
    ))
    .unwrap()
}

/// The same with functions that nobody calls.
fn module_with(functions: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (memory (export "memory") 2 32)
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
            {functions})"#
    ))
    .unwrap()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A link of that name, with data that an ordinary file would have.
fn linked(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_path(path).unwrap();
    header.set_link_name("/etc/passwd").unwrap();
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, bytes).unwrap();
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A `wayline wasm inspect` to be.
struct Inspect {
    command: Command,
}

impl Inspect {
    fn of(module: &str) -> Self {
        let mut command = Command::new(tools::wayline());
        command
            .args(["wasm", "inspect", module, "--output", "json"])
            .args([
                "--fetch-allow",
                "127.0.0.0/8",
                "--wasm-insecure-registries",
                "*",
            ]);
        Self { command }
    }

    fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    fn sha256(self, digest: &str) -> Self {
        self.arg("--sha256").arg(digest)
    }

    fn cache(self, dir: &Path) -> Self {
        self.arg("--wasm-cache-dir").arg(dir.to_str().unwrap())
    }

    fn secret(self, file: &Path) -> Self {
        self.arg("--pull-secret").arg(file.to_str().unwrap())
    }

    fn pull(self) -> Self {
        self.arg("--pull")
    }

    /// What it says of a module that it takes.
    fn taken(mut self) -> Value {
        let output = self.command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What it says of a module that it refuses: one sentence, and what to try.
    fn refused(mut self) -> String {
        let output = self.command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("error: ") && said.contains("\n  try: "),
            "{said}"
        );
        said
    }

    #[track_caller]
    fn refused_for(self, reason: &str) {
        let said = self.refused();
        assert!(said.contains(reason), "{said}");
    }
}

/// A pull secret for a registry, as a file.
fn secret(registry: SocketAddr, user: &str, password: &str) -> tempfile::NamedTempFile {
    let entry = json!({"username": user, "password": password});
    let config = json!({"auths": {registry.to_string(): entry}});
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    file
}

#[test]
fn every_layout_of_images_is_pulled() {
    let registry = Registry::open();
    let wasm = module("layouts");
    let archive = tar(&[("README.md", b"hello"), ("./plugin.wasm", &wasm)]);
    let other = tar(&[("etc/os-release", b"ID=none")]);
    let (gzipped, zstandard) = (gzip(&archive), zstd(&archive));
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let gzip_layer = format!("{OCI_TAR}+gzip");
    let zstd_layer = format!("{OCI_TAR}+zstd");
    let solo = "application/vnd.module.wasm.config.v1+json";
    type Layers<'a> = Vec<(&'a str, &'a [u8])>;
    let images: [(&str, bool, &str, Layers<'_>); 9] = [
        (
            "docker",
            true,
            "application/vnd.docker.container.image.v1+json",
            vec![(docker, &gzipped)],
        ),
        ("compat", false, CONFIG, vec![(&gzip_layer, &gzipped)]),
        (
            "several",
            false,
            CONFIG,
            vec![(OCI_TAR, &other), (&gzip_layer, &gzipped)],
        ),
        ("plain-tar", false, CONFIG, vec![(OCI_TAR, &archive)]),
        ("zstd", false, CONFIG, vec![(&zstd_layer, &zstandard)]),
        (
            "solo",
            false,
            solo,
            vec![(WASM_LAYER, &wasm), ("application/json", b"{}")],
        ),
        ("single", false, solo, vec![(WASM_LAYER, &wasm)]),
        (
            "cncf",
            false,
            "application/vnd.wasm.config.v0+json",
            vec![("application/wasm", &wasm)],
        ),
        (
            "wasm-to-oci",
            false,
            CONFIG,
            vec![("application/vnd.wasm.content.layer.v1+wasm", &wasm)],
        ),
    ];
    let mut pushed = Vec::new();
    for (name, docker, config, layers) in &images {
        let manifest = registry.push(&format!("filters/{name}:v1"), *docker, config, layers);
        let found = Inspect::of(&registry.url(&format!("filters/{name}:v1"))).taken();
        assert_eq!(found["sha256"], hex(&wasm), "{name}");
        assert_eq!(
            format!("sha256:{}", found["manifestSha256"].as_str().unwrap()),
            manifest
        );
        assert_eq!(found["origin"], "fetched");
        pushed.push(manifest);
    }
    // By the digest of the manifest, in the URL and beside it.
    let single = &pushed[6];
    Inspect::of(&registry.url(&format!("filters/single@{single}"))).taken();
    let url = registry.url("filters/single:v1");
    Inspect::of(&url).sha256(&single["sha256:".len()..]).taken();
    Inspect::of(&url)
        .sha256(&hex(&wasm))
        .refused_for("expected sha256:");

    // A list: attestations and other machines are passed over.
    let image = |manifest: &str, os: &str, architecture: &str| {
        json!({"mediaType": OCI_MANIFEST, "digest": manifest,
            "size": registry.manifest_size("filters/single", manifest),
            "platform": {"os": os, "architecture": architecture}})
    };
    let different = registry.push(
        "filters/single:other",
        false,
        solo,
        &[(WASM_LAYER, &module("other"))],
    );
    let list = registry.push_index(
        "filters/single:list",
        &[
            image(&different, "unknown", "unknown"),
            image(&different, "plan9", "mips"),
            image(single, "wasip1", "wasm"),
        ],
    );
    let url = registry.url("filters/single:list");
    let found = Inspect::of(&url).sha256(&list["sha256:".len()..]).taken();
    assert_eq!(found["sha256"], hex(&wasm));
    assert_eq!(
        format!("sha256:{}", found["manifestSha256"].as_str().unwrap()),
        *single
    );

    Inspect::of(&registry.url("filters/single:v9")).refused_for("404");
    Inspect::of(&registry.url("filters/none:v1")).refused_for("404");
}

#[test]
fn pull_secrets_are_used_and_nothing_is_asked_without_them() {
    let registry = Registry::guarded();
    let wasm = module("secret");
    registry.push("me/filter:v1", false, CONFIG, &[(WASM_LAYER, &wasm)]);
    let url = registry.url("me/filter:v1");
    let right = secret(registry.address, "wayline", "secret");
    let wrong = secret(registry.address, "wayline", "guess");
    let found = Inspect::of(&url).secret(right.path()).taken();
    assert_eq!(found["sha256"], hex(&wasm));
    Inspect::of(&url).refused_for("name a valid pull secret");
    let said = Inspect::of(&url).secret(wrong.path()).refused();
    assert!(
        said.contains("check the pull secret") && !said.contains("guess"),
        "{said}"
    );

    // What one secret has pulled is nothing to who has another, or none.
    let cache = tempfile::tempdir().unwrap();
    Inspect::of(&url)
        .cache(cache.path())
        .secret(right.path())
        .taken();
    let kept = Inspect::of(&url)
        .cache(cache.path())
        .secret(right.path())
        .taken();
    assert_eq!(kept["origin"], "kept");
    Inspect::of(&url)
        .cache(cache.path())
        .secret(wrong.path())
        .refused_for("check the pull secret");
    Inspect::of(&url).cache(cache.path()).refused_for("401");

    // A secret that does not fit is no reason to ask without one.
    let network = Network::claim();
    let elsewhere = Backend::http(network.ip(1), 5000, |_| Reply::ok("{}"));
    let url = format!("oci://{}/a:v1", elsewhere.address);
    Inspect::of(&url)
        .secret(right.path())
        .refused_for("no entry");
    let empty = tempfile::NamedTempFile::new().unwrap();
    Inspect::of(&url)
        .secret(empty.path())
        .refused_for("pull secret");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn what_is_here_is_not_fetched_again_and_survives_restarts() {
    let registry = Registry::open();
    let (first, second) = (module("first"), module("second"));
    registry.push("kept:v1", false, CONFIG, &[(WASM_LAYER, &first)]);
    registry.push("moving:latest", false, CONFIG, &[(WASM_LAYER, &first)]);
    let cache = tempfile::tempdir().unwrap();
    let inspect = |name: &str| Inspect::of(&registry.url(name)).cache(cache.path());

    let fresh = inspect("kept:v1").taken();
    assert_eq!(fresh["origin"], "fetched");
    assert!(fresh["compileMillis"].is_u64());
    let kept = inspect("kept:v1").taken();
    assert_eq!(kept["origin"], "kept");
    assert!(kept.get("compileMillis").is_none(), "{kept}");
    assert_eq!(kept["codeBytes"], fresh["codeBytes"]);
    // Another name for the same image: its manifest says that it is the same.
    assert_eq!(inspect("moving:latest").taken()["origin"], "unchanged");
    assert_eq!(inspect("kept:v1").pull().taken()["origin"], "unchanged");

    registry.push("moving:latest", false, CONFIG, &[(WASM_LAYER, &second)]);
    assert_eq!(inspect("moving:latest").taken()["sha256"], hex(&second));

    let urls = ["kept:v1", "moving:latest"].map(|name| registry.url(name));
    drop(registry);
    let inspect = |url: &str| Inspect::of(url).cache(cache.path());
    assert_eq!(inspect(&urls[0]).taken()["origin"], "kept");
    let last = inspect(&urls[1]).taken();
    assert_eq!(
        (&last["origin"], &last["sha256"]),
        (&json!("lastGood"), &json!(hex(&second)))
    );
}

#[test]
fn files_in_the_cache_that_are_not_ours_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("filter.wasm");
    std::fs::write(&path, module("tampered")).unwrap();
    let cache = folder.path().join("cache");
    let inspect = || Inspect::of(path.to_str().unwrap()).cache(&cache).taken();
    let fresh = inspect();
    let code = || {
        let entry = std::fs::read_dir(cache.join("code"))
            .unwrap()
            .next()
            .unwrap();
        entry.unwrap().path()
    };
    let good = std::fs::read(code()).unwrap();
    assert!(inspect().get("compileMillis").is_none());
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(code(), &bad).unwrap();
        let again = inspect();
        assert!(again["compileMillis"].is_u64(), "byte {at}");
        assert_eq!(again["codeBytes"], fresh["codeBytes"]);
        assert_eq!(std::fs::read(code()).unwrap(), good);
    }
    // With another key nothing that was there counts.
    std::fs::remove_file(cache.join("key")).unwrap();
    assert!(inspect()["compileMillis"].is_u64());
    // No folder: no cache, and no harm.
    let nowhere = path.join("below-a-file");
    Inspect::of(path.to_str().unwrap()).cache(&nowhere).taken();
}

#[test]
fn web_servers_hand_out_modules_however_packed() {
    let network = Network::claim();
    let wasm = module("web");
    let archive = tar(&[("a/README", b"hello"), ("a/b.wasm", &wasm)]);
    let two = tar(&[("a.wasm", &wasm), ("b.wasm", &wasm)]);
    let bodies = [
        ("/raw", wasm.clone()),
        ("/gz", gzip(&wasm)),
        ("/tar", archive.clone()),
        ("/tar.gz", gzip(&archive)),
        ("/tar.zst", zstd(&archive)),
        ("/two", two),
        ("/text", b"<html>not here</html>".to_vec()),
        ("/bomb", gzip(&vec![0; 100 << 20])),
        ("/long", vec![0; 18 << 20]),
    ];
    let server = Backend::http(network.ip(1), 80, move |request| {
        let body = bodies.iter().find(|(path, _)| *path == request.target);
        match (body, &*request.target) {
            (Some((_, body)), _) => Reply::ok(body.clone()),
            (_, "/moved") => Reply::status(302, "").header("location", "/raw"),
            (_, "/metadata") => {
                Reply::status(302, "").header("location", "http://169.254.169.254/x")
            }
            (_, "/denied") => Reply::status(403, ""),
            _ => Reply::status(404, ""),
        }
    });
    let inspect = |path: &str| Inspect::of(&format!("http://{}{path}", server.address));
    for path in ["/raw", "/gz", "/tar", "/tar.gz", "/tar.zst", "/moved"] {
        let found = inspect(path).sha256(&hex(&wasm)).taken();
        assert_eq!(found["sha256"], hex(&wasm), "{path}");
    }
    inspect("/raw")
        .sha256(&hex(b""))
        .refused_for("expected sha256:");
    inspect("/raw").sha256("abc").refused_for("64 hexadecimal");
    inspect("/two").refused_for("several modules");
    inspect("/text").refused_for("neither Wasm nor");
    inspect("/bomb").refused_for("neither Wasm nor");
    inspect("/long").refused_for("longer than");
    inspect("/metadata").refused_for("169.254.169.254 is a link-local address");
    inspect("/denied").refused_for("403");
    inspect("/nothing").refused_for("404");
    let mut unguarded = Command::new(tools::wayline());
    unguarded.args(["wasm", "inspect", &format!("http://{}/raw", server.address)]);
    let output = unguarded.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("loopback"),
        "{said}"
    );
    for (url, reason) in [
        ("ftp://a/b", "scheme"),
        ("file://relative/x", "not absolute"),
        ("file:///dev/zero", "no ordinary file"),
        ("file:///no/such.wasm", "cannot read"),
        ("oci://UPPER/x:v1", "repository"),
    ] {
        Inspect::of(url).refused_for(reason);
    }
}

#[test]
fn web_servers_are_asked_for_what_is_new_only() {
    let network = Network::claim();
    let versions = [module("one"), module("two")];
    let served = Arc::new(AtomicBool::new(false));
    let (news, bodies) = (Arc::clone(&served), versions.clone());
    let server = Backend::http(network.ip(1), 80, move |request| {
        let version = usize::from(news.load(Ordering::Relaxed));
        let etag = format!("\"{version}\"");
        if request.header("if-none-match") == Some(&*etag) {
            return Reply::status(304, "").header("etag", &etag);
        }
        Reply::ok(bodies[version].clone()).header("etag", &etag)
    });
    let url = format!("http://{}/filter.wasm", server.address);
    let cache = tempfile::tempdir().unwrap();
    let look = || Inspect::of(&url).cache(cache.path()).pull().taken();
    assert_eq!(look()["origin"], "fetched");
    let again = look();
    assert_eq!(again["origin"], "unchanged");
    assert_eq!(again["sha256"], hex(&versions[0]));
    served.store(true, Ordering::Relaxed);
    assert_eq!(look()["sha256"], hex(&versions[1]));
    assert_eq!(look()["origin"], "unchanged");
    // Who has nothing asks for all of it.
    let fresh = Inspect::of(&url).pull().taken();
    assert_eq!(fresh["origin"], "fetched");
    assert_eq!(server.last().header("if-none-match"), None);
}

/// A registry that says what it is told to, and what it was asked.
struct Liar {
    server: Backend,
    _network: Network,
}

impl Liar {
    fn new(answer: impl Fn(&Recorded) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let network = Network::claim();
        let server = Backend::http(network.ip(1), 5000, move |request| {
            match (answer(request), &*request.target) {
                (Some(reply), _) => reply,
                (None, "/v2/") => Reply::ok("{}"),
                _ => Reply::status(404, "{}"),
            }
        });
        Self {
            server,
            _network: network,
        }
    }

    /// One with this image as `x:v1`, which serves `blob` where the layer is asked for.
    fn serving(manifest: &Value, blob: impl Into<Vec<u8>>) -> Self {
        let (manifest, blob) = (manifest.to_string(), blob.into());
        Self::new(move |request| {
            if request.target.contains("/manifests/") {
                return Some(Reply::ok(manifest.clone()).header("content-type", OCI_MANIFEST));
            }
            request
                .target
                .contains("/blobs/")
                .then(|| Reply::ok(blob.clone()))
        })
    }

    fn inspect(&self) -> Inspect {
        Inspect::of(&format!("oci://{}/x:v1", self.server.address))
    }

    fn asked(&self, part: &str) -> usize {
        let requests = self.server.requests();
        requests
            .iter()
            .filter(|it| it.target.contains(part))
            .count()
    }
}

fn image(layer: &Value) -> Value {
    json!({"schemaVersion": 2, "config": descriptor(CONFIG, b"{}"), "layers": [layer]})
}

#[test]
fn what_a_registry_says_is_checked() {
    let wasm = module("honest");
    let layer = descriptor(WASM_LAYER, &wasm);
    assert_eq!(
        Liar::serving(&image(&layer), &*wasm).inspect().taken()["sha256"],
        hex(&wasm)
    );

    // Another layer, a shorter one, a longer one.
    let mut other = wasm.clone();
    *other.last_mut().unwrap() ^= 1;
    Liar::serving(&image(&layer), other)
        .inspect()
        .refused_for("expected sha256:");
    let torn = &wasm[..wasm.len() - 1];
    Liar::serving(&image(&layer), torn)
        .inspect()
        .refused_for("expected sha256:");
    let longer = [&*wasm, b"\0"].concat();
    Liar::serving(&image(&layer), longer)
        .inspect()
        .refused_for("longer than");
    // Another manifest than that asked for.
    let liar = Liar::serving(&image(&layer), &*wasm);
    let url = format!("oci://{}/x@{}", liar.server.address, digest(b"another"));
    Inspect::of(&url).refused_for("expected sha256:");
    assert_eq!(liar.asked("/blobs/"), 0);

    for (layer, reason) in [
        (
            json!({"mediaType": WASM_LAYER, "digest": digest(&wasm), "size": u64::MAX}),
            "allowed",
        ),
        (
            json!({"mediaType": WASM_LAYER, "digest": "sha512:00", "size": 10}),
            "no sha256 digest",
        ),
        (
            json!({"mediaType": WASM_LAYER, "digest": digest(&wasm)}),
            "can not be read",
        ),
        (
            descriptor("application/x-iso9660-image", &wasm),
            "last layer is of type",
        ),
    ] {
        let liar = Liar::serving(&image(&layer), &*wasm);
        liar.inspect().refused_for(reason);
        assert_eq!(liar.asked("/blobs/"), 0, "{reason}");
    }
    let archives = [
        (gzip(&vec![0; 70 << 20]), "neither Wasm nor"),
        (
            gzip(&tar(&[("plugin.wasm", &vec![0; 17 << 20])])),
            "neither Wasm nor",
        ),
        (
            gzip(&tar(&[(
                "plugin.wasm",
                &[&*wasm, &vec![0; 17 << 20]].concat(),
            )])),
            "longer than",
        ),
        (
            gzip(&tar(&[("big", &vec![0; 65 << 20]), ("plugin.wasm", &wasm)])),
            "unpacks to more",
        ),
        (
            gzip(&tar(&[("plugin.wasm", &wasm), ("a/plugin.wasm", &wasm)])),
            "several files plugin.wasm",
        ),
        (gzip(&tar(&[("other.wasm", &wasm)])), "no file plugin.wasm"),
        (gzip(&linked("plugin.wasm", &wasm)), "no ordinary file"),
        (
            gzip(&tar(&[("plugin.wasm", &wasm)]))[..100].to_vec(),
            "can not be unpacked",
        ),
    ];
    for (archive, reason) in archives {
        let layer = descriptor(&format!("{OCI_TAR}+gzip"), &archive);
        Liar::serving(&image(&layer), archive)
            .inspect()
            .refused_for(reason);
    }

    // A list that contains itself can not be made, so that this one grows as it is read.
    let endless = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let mut inner = json!({"manifests": []}).to_string().into_bytes();
    for _ in 0..50 {
        endless.lock().unwrap().push(inner.clone());
        inner = json!({"manifests": [descriptor("x", &inner)]})
            .to_string()
            .into_bytes();
    }
    let liar = Liar::new(move |request| {
        let (_, version) = request.target.split_once("/manifests/")?;
        let lists = endless.lock().unwrap();
        let list = lists.iter().find(|list| digest(list) == version);
        Some(Reply::ok(list.unwrap_or(&inner).clone()))
    });
    liar.inspect().refused_for("lead to lists");
    assert!(liar.asked("/manifests/") < 10);
}

#[test]
fn registries_that_fail_are_asked_again_if_that_may_help() {
    let wasm = module("later");
    let manifest = image(&descriptor(WASM_LAYER, &wasm)).to_string();
    let failed = AtomicBool::new(false);
    let recovering = Liar::new(move |request| {
        if request.target.contains("/manifests/") {
            let first = !failed.swap(true, Ordering::Relaxed);
            return Some(if first {
                Reply::status(503, "")
            } else {
                Reply::ok(manifest.clone())
            });
        }
        request
            .target
            .contains("/blobs/")
            .then(|| Reply::ok(wasm.clone()))
    });
    recovering.inspect().taken();

    for status in [400, 401, 403, 404, 501] {
        let liar = Liar::new(move |request| {
            request
                .target
                .contains("/manifests/")
                .then(|| Reply::status(status, "no"))
        });
        liar.inspect().refused_for(&status.to_string());
        assert_eq!(liar.asked("/manifests/"), 1, "{status}");
    }
    let looping = Liar::new(|_| Some(Reply::status(307, "").header("location", "/v2/")));
    looping.inspect().refused_for("redirected more than");
    assert!(looping.asked("/v2/") < 50, "{}", looping.asked("/v2/"));
    let inward = Liar::new(|request| {
        let location = "http://10.0.0.1/blob";
        let blobs = request.target.contains("/manifests/");
        blobs.then(|| Reply::status(307, "").header("location", location))
    });
    inward.inspect().refused_for("a private address");
}

#[test]
fn tokens_are_had_from_the_realm_and_passwords_go_nowhere_else() {
    let network = Network::claim();
    let realm = Backend::http(network.ip(2), 8080, |request| {
        let anonymous = request.header("authorization").is_none();
        let token = if anonymous { "anonymous" } else { "known" };
        Reply::ok(json!({"token": token}).to_string())
    });
    let wasm = module("token");
    let (blob, manifest) = (
        wasm.clone(),
        image(&descriptor(WASM_LAYER, &wasm)).to_string(),
    );
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="the registry""#,
        realm.address
    );
    let storage = Backend::http(network.ip(3), 8080, move |_| Reply::ok(blob.clone()));
    let location = format!("http://{}/blob", storage.address);
    let registry = Liar::new(move |request| {
        if request.header("authorization") != Some("Bearer known") {
            return Some(Reply::status(401, "").header("www-authenticate", &challenge));
        }
        if request.target.contains("/blobs/") {
            return Some(Reply::status(307, "").header("location", &location));
        }
        request
            .target
            .contains("/manifests/")
            .then(|| Reply::ok(manifest.clone()))
    });
    registry.inspect().refused_for("401");
    let secret = secret(registry.server.address, "me", "pw");
    let found = registry.inspect().secret(secret.path()).taken();
    assert_eq!(found["sha256"], hex(&wasm));
    let asked = realm.last();
    assert_eq!(asked.header("authorization"), Some("Basic bWU6cHc="));
    assert!(
        asked.target.contains("scope=repository%3Ax%3Apull"),
        "{}",
        asked.target
    );
    assert!(
        asked.target.contains("service=the%20registry"),
        "{}",
        asked.target
    );
    assert_eq!(storage.last().header("authorization"), None);
    let basic = |it: &Recorded| {
        it.header("authorization")
            .is_some_and(|it| it.contains("bWU6"))
    };
    assert!(!registry.server.requests().iter().any(basic));

    let inward = Liar::new(|_| {
        let challenge = r#"Bearer realm="http://169.254.169.254/token""#;
        Some(Reply::status(401, "").header("www-authenticate", challenge))
    });
    inward.inspect().refused_for("a link-local address");
    let odd = Liar::new(|_| Some(Reply::status(401, "").header("www-authenticate", "Negotiate")));
    odd.inspect().refused_for("in no way that we know");
}

#[test]
fn hostile_modules_harm_the_compiler_alone() {
    let folder = tempfile::tempdir().unwrap();
    let inspect = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Inspect::of(&format!("file://{}", path.display()))
    };
    inspect("text", b"hello").refused_for("neither Wasm nor");
    inspect("empty", b"").refused_for("neither Wasm nor");
    inspect("component", b"\0asm\x0d\0\x01\0").refused_for("component");
    inspect("torn", &module("torn")[..40]).refused_for("broken");
    inspect("bare", b"\0asm\x01\0\0\0").refused_for("proxy_abi_version");
    let mut long = module("long");
    long.resize((16 << 20) + 1, 0);
    inspect("long", &long).refused_for("16777216");
    let invalid = module_with("(func (export \"f\") (result i32) (i32.const 1))");
    let at = invalid.iter().rposition(|byte| *byte == 0x41).unwrap();
    let mut typed = invalid;
    typed[at] = 0x42;
    inspect("invalid", &typed).refused_for("can not be compiled");
}

/// What is to be compiled, as a file that stays as long as its folder.
fn local(wasm: &[u8]) -> (tempfile::TempDir, Inspect) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("filter.wasm");
    std::fs::write(&path, wasm).unwrap();
    let inspect = Inspect::of(&format!("file://{}", path.display()));
    (folder, inspect)
}

#[test]
fn nesting_harms_the_compiler_alone() {
    let deep = format!(
        "(func {} {})",
        "block ".repeat(100_000),
        "end ".repeat(100_000)
    );
    let (_folder, inspect) = local(&module_with(&deep));
    inspect.refused_for("nests more than");
}

#[test]
fn long_work_harms_the_compiler_alone() {
    // Functions of which everything lives at once, each small.
    let (_folder, inspect) = local(&assembled(0, &busy(2_000), 400));
    inspect.refused_for("of CPU time");
}

#[test]
fn large_work_harms_the_compiler_alone() {
    let (_folder, inspect) = local(&assembled(900_000, &[], 0));
    inspect.refused_for("bytes of memory");
}

/// A module that would be hosted, with so many types that are each another, and a function of this body so
/// many times. Its text would be longer than anybody wants to parse.
fn assembled(types: u32, body: &[u8], times: u32) -> Vec<u8> {
    const KINDS: [u8; 4] = [0x7f, 0x7e, 0x7d, 0x7c];
    let mut section = number(2 + types);
    section.extend([0x60, 0, 0, 0x60, 1, 0x7f, 1, 0x7f]);
    for index in 0..types {
        section.extend([0x60, 10]);
        section.extend((0..10).map(|at| KINDS[(index >> (2 * at)) as usize & 3]));
        section.push(0);
    }
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    let mut put = |id: u8, content: &[u8]| {
        module.push(id);
        module.extend(number(u32::try_from(content.len()).unwrap()));
        module.extend(content);
    };
    put(1, &section);
    let count = number(2 + times);
    let kinds = [&[0_u8, 1][..], &vec![1; times as usize]].concat();
    put(3, &[&*count, &kinds].concat());
    put(5, &[1, 0, 2]);
    let mut exports = vec![3];
    for (name, kind, index) in [
        ("memory", 2, 0),
        ("proxy_abi_version_0_2_1", 0, 0),
        ("malloc", 0, 1),
    ] {
        exports.push(u8::try_from(name.len()).unwrap());
        exports.extend(name.as_bytes());
        exports.extend([kind, index]);
    }
    put(7, &exports);
    let mut code = count;
    code.extend([2, 0, 0x0b, 4, 0, 0x41, 0, 0x0b]);
    for _ in 0..times {
        code.extend(number(u32::try_from(body.len()).unwrap()));
        code.extend(body);
    }
    put(10, &code);
    module
}

/// A function in which so many locals live until its end.
fn busy(locals: u32) -> Vec<u8> {
    let mut body = vec![1];
    body.extend(number(locals));
    body.push(0x7f);
    for local in 1..=locals {
        // local.set (i32.load (i32.add (local.get 0) (local.get before)))
        body.extend([0x20, 0, 0x20]);
        body.extend(number(local - 1));
        body.extend([0x6a, 0x28, 2, 0, 0x21]);
        body.extend(number(local));
    }
    body.extend([0x20, 0]);
    for local in 1..=locals {
        body.push(0x20);
        body.extend(number(local));
        body.push(0x6c);
    }
    body.push(0x0b);
    body
}

/// As modules write numbers (LEB128).
fn number(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}
