//! Folders of manifests, as people and Kubernetes write, change and break them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wayline_control::{FolderSource, check};
use wayline_model::translate::Options;
use wayline_model::{Finding, Severity, Snapshot};

/// A deadline for what must happen at all, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: default
  labels: {istio.io/use-waypoint: waypoint}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec:
  gatewayClassName: wayline-waypoint
  listeners:
  - {name: mesh, port: 15008, protocol: HBONE}
";

fn service(name: &str) -> String {
    service_on(name, 80)
}

fn service_on(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  clusterIP: None\n  ports:\n  - name: http\n    port: {port}\n"
    )
}

/// A folder with one waypoint that takes whatever services are put beside it.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        folder.write("mesh.yaml", MESH);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn start(&self) -> Source {
        start(self.dir.path())
    }
}

fn start(path: &Path) -> Source {
    Source(FolderSource::start(&[path.to_owned()], Options::default()).unwrap())
}

struct Source(FolderSource);

impl Source {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.publication().snapshots.borrow().clone()
    }

    fn findings(&self) -> Arc<Vec<Finding>> {
        self.0.publication().findings.borrow().clone()
    }

    /// Short names of the services that tunnels may lead to.
    fn served(&self) -> BTreeSet<String> {
        served(&self.snapshot())
    }

    fn port_of(&self, name: &str) -> Option<u16> {
        port_of(&self.snapshot(), name)
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: served {:?}, findings {:#?}",
                self.served(),
                self.findings()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn until_served(&self, names: &[&str]) {
        self.until(&format!("{names:?} are served"), |it| {
            it.served() == set(names)
        });
    }

    fn errors(&self) -> Vec<Finding> {
        errors(&self.findings())
    }
}

fn port_of(snapshot: &Snapshot, name: &str) -> Option<u16> {
    let host = format!("{name}.default.svc.cluster.local");
    let ports = snapshot.tunnels.by_host.get(host.as_str())?;
    ports.first().map(|(port, _)| *port)
}

fn served(snapshot: &Snapshot) -> BTreeSet<String> {
    let hosts = snapshot.tunnels.by_host.keys();
    hosts
        .map(|host| host.as_str().split('.').next().unwrap().to_owned())
        .collect()
}

fn errors(findings: &[Finding]) -> Vec<Finding> {
    findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .cloned()
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn everything_below_the_folder_is_read_in_whatever_order_and_shape() {
    let folder = Folder::new();
    folder.write("0/1/2/deep.yml", &service("deep"));
    folder.write(
        "several.yaml",
        &format!("{}---\n# empty\n---\n{}", service("one"), service("two")),
    );
    folder.write(
        "object.json",
        "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"json\"},\n\t\"spec\": {\"clusterIP\": \"None\", \"ports\": [{\"name\": \"http\", \"port\": 80}]}\n}\n",
    );
    folder.write(
        "list.yaml",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: listed}\n  spec: {clusterIP: None, ports: [{name: http, port: 80}]}\n",
    );
    folder.write(
        "typed-list.yaml",
        "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: typed}\n  spec: {clusterIP: None, ports: [{name: http, port: 80}]}\n",
    );
    folder.write(".hidden.yaml", &service("hidden"));
    folder.write(".git/hidden.yaml", &service("hidden"));
    folder.write("notes.txt", &service("hidden"));

    let source = folder.start();
    assert_eq!(
        source.served(),
        set(&["deep", "json", "listed", "one", "two", "typed"]),
        "{:#?}",
        source.findings()
    );
    assert_eq!(source.errors(), []);
}

#[test]
fn changes_of_every_sort_are_published() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    let source = folder.start();
    source.until_served(&["a"]);

    folder.write("new/sub/folder/b.yaml", &service("b"));
    source.until_served(&["a", "b"]);

    folder.write("a.yaml", &service_on("a", 81));
    source.until("the edit is in force", |it| it.port_of("a") == Some(81));

    // As editors save: written beside, renamed over.
    folder.write(".a.yaml.tmp", &service_on("a", 82));
    fs::rename(folder.path(".a.yaml.tmp"), folder.path("a.yaml")).unwrap();
    source.until("the rename is in force", |it| it.port_of("a") == Some(82));

    folder.write("new/sub/folder/b.yaml", &service("c"));
    source.until_served(&["a", "c"]);

    fs::rename(folder.path("new"), folder.path("moved")).unwrap();
    folder.write("moved/sub/folder/d.yaml", &service("d"));
    source.until_served(&["a", "c", "d"]);

    fs::remove_dir_all(folder.path("moved")).unwrap();
    source.until_served(&["a"]);
    fs::remove_file(folder.path("a.yaml")).unwrap();
    source.until_served(&[]);
}

#[test]
fn a_kubernetes_volume_is_followed_through_its_data_link() {
    let volume = tempfile::tempdir().unwrap();
    let root = volume.path();
    let publish = |version: &str, port: u16| {
        let data = root.join(version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("mesh.yaml"), MESH).unwrap();
        fs::write(data.join("a.yaml"), service_on("a", port)).unwrap();
        symlink(version, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    publish("..2026_01_01", 81);
    for file in ["mesh.yaml", "a.yaml"] {
        symlink(Path::new("..data").join(file), root.join(file)).unwrap();
    }
    let source = start(root);
    assert_eq!(source.port_of("a"), Some(81), "{:#?}", source.findings());
    assert_eq!(source.errors(), []);

    publish("..2026_01_02", 82);
    fs::remove_dir_all(root.join("..2026_01_01")).unwrap();
    source.until("the swap is in force", |it| it.port_of("a") == Some(82));
}

#[test]
fn a_broken_document_keeps_its_last_good_version_and_stops_nothing() {
    let folder = Folder::new();
    folder.write(
        "two.yaml",
        &format!("{}---\n{}", service("a"), service("b")),
    );
    let source = folder.start();
    source.until_served(&["a", "b"]);

    let broken = service("b").replace("ports:", "ports: [");
    folder.write(
        "two.yaml",
        &format!("{}---\n{broken}---\n{}", service_on("a", 81), service("c")),
    );
    source.until_served(&["a", "b", "c"]);
    assert_eq!(source.port_of("a"), Some(81));
    let errors = source.errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let finding = &errors[0];
    assert!(finding.file.as_deref().unwrap().ends_with("two.yaml"));
    assert_eq!(finding.object.as_deref(), Some("Service default/b"));
    assert!((12..=22).contains(&finding.line.unwrap()), "{finding}");

    // What was taken out on purpose is gone even while a neighbour is broken.
    folder.write("two.yaml", &format!("{}---\n{broken}", service_on("a", 81)));
    source.until_served(&["a", "b"]);

    // A document that does not even say what it is may be any of those that were there.
    folder.write("two.yaml", &format!("{}---\n{{[\n", service_on("a", 82)));
    source.until("the good part is in force", |it| {
        it.port_of("a") == Some(82)
    });
    assert_eq!(source.served(), set(&["a", "b"]));

    folder.write("two.yaml", &service_on("a", 82));
    source.until_served(&["a"]);
    source.until("the finding is gone", |it| it.errors().is_empty());
}

#[test]
fn a_wrong_field_is_found_on_its_line() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    folder.write(
        "policy.yaml",
        "# who may\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: default\nspec:\n  action: ALLOW\n  rules:\n  - to:\n    - operation:\n        methods: GET\n",
    );
    let checked = check(&[folder.dir.path().to_owned()], Options::default()).unwrap();
    let errors = errors(&checked.findings);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(
        errors[0].object.as_deref(),
        Some("AuthorizationPolicy default/p")
    );
    assert!(errors[0].file.as_deref().unwrap().ends_with("policy.yaml"));
    assert_eq!(errors[0].line, Some(12), "{}", errors[0]);
    assert_eq!((checked.files, checked.objects), (3, 4));
}

#[test]
fn bombs_harm_only_their_own_file() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..40 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    folder.write("aliases.yaml", &bomb);
    folder.write("depth.yaml", &"[".repeat(1_000_000));
    folder.write("garbage.json", "\u{0}\u{1}");
    fs::write(folder.path("latin1.yaml"), b"a: \xe9\n").unwrap();
    fs::File::create(folder.path("huge.yaml"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();

    let source = folder.start();
    assert_eq!(source.served(), set(&["a"]));
    let files: BTreeSet<String> = source
        .errors()
        .iter()
        .map(|finding| {
            let file = finding.file.as_deref().unwrap();
            Path::new(file)
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        files,
        set(&[
            "aliases.yaml",
            "depth.yaml",
            "garbage.json",
            "huge.yaml",
            "latin1.yaml"
        ])
    );
}

#[test]
fn symlink_loops_end() {
    let folder = Folder::new();
    folder.write("sub/a.yaml", &service("a"));
    symlink("..", folder.path("sub/up")).unwrap();
    symlink(".", folder.path("here")).unwrap();
    symlink("self.yaml", folder.path("self.yaml")).unwrap();
    let source = folder.start();
    assert_eq!(source.served(), set(&["a"]));
    let errors = source.errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].file.as_deref().unwrap().ends_with("self.yaml"));

    fs::remove_file(folder.path("self.yaml")).unwrap();
    source.until("the loop is gone", |it| it.errors().is_empty());
}

#[test]
fn a_folder_that_vanishes_leaves_its_last_good_content() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("config");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("mesh.yaml"), MESH).unwrap();
    fs::write(inner.join("a.yaml"), service("a")).unwrap();
    let source = start(&inner);
    source.until_served(&["a"]);

    let away = outer.path().join("away");
    fs::rename(&inner, &away).unwrap();
    source.until("the loss is found", |it| it.errors().len() == 1);
    assert_eq!(source.served(), set(&["a"]));

    fs::write(away.join("b.yaml"), service("b")).unwrap();
    fs::rename(&away, &inner).unwrap();
    source.until_served(&["a", "b"]);
    source.until("the finding is gone", |it| it.errors().is_empty());

    fs::write(inner.join("c.yaml"), service("c")).unwrap();
    source.until_served(&["a", "b", "c"]);
}

#[test]
fn a_rewritten_file_is_never_seen_half() {
    let folder = Folder::new();
    let name = "both.yaml";
    let text = |port: u16| format!("{}---\n{}", service_on("a", port), service_on("b", port));
    folder.write(name, &text(1000));
    let source = folder.start();
    let mut snapshots = source.0.publication().snapshots.clone();
    let last = 1600;
    let path = folder.path(name);
    let writer = thread::spawn(move || {
        for port in 1001..=last {
            // In place: truncated, then written.
            fs::write(&path, text(port)).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    let deadline = Instant::now() + PATIENCE;
    while source.port_of("b") != Some(last) {
        assert!(Instant::now() < deadline, "the last edit never came");
        let snapshot = snapshots.borrow_and_update().clone();
        assert_eq!(served(&snapshot), set(&["a", "b"]));
        thread::sleep(Duration::from_millis(1));
    }
    writer.join().unwrap();
    assert_eq!(source.errors(), []);
}

#[test]
fn of_two_documents_for_one_object_the_first_counts_until_it_goes() {
    let folder = Folder::new();
    folder.write("1.yaml", &service_on("a", 81));
    folder.write("2.yaml", &service_on("a", 82));
    let source = folder.start();
    assert_eq!(source.port_of("a"), Some(81));
    let errors = source.errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].file.as_deref().unwrap().ends_with("2.yaml"));

    folder.write("2.yaml", &service_on("a", 83));
    fs::remove_file(folder.path("1.yaml")).unwrap();
    source.until("the second counts", |it| it.port_of("a") == Some(83));
    source.until("no duplicate is left", |it| it.errors().is_empty());
}

#[test]
fn of_two_roots_the_one_named_first_counts_wherever_they_lie() {
    let folder = Folder::new();
    for (file, port) in [("1/a.yaml", 81), ("2/a.yaml", 82)] {
        folder.write(file, &service_on("a", port));
    }
    for (roots, port) in [(["1", "2"], 81), (["2", "1"], 82)] {
        let paths = ["mesh.yaml", roots[0], roots[1]].map(|root| folder.path(root));
        let checked = check(&paths, Options::default()).unwrap();
        assert_eq!(port_of(&checked.snapshot, "a"), Some(port), "{roots:?}");
        assert_eq!(errors(&checked.findings).len(), 1, "{roots:?}");
    }
}

#[test]
fn a_file_may_be_named_alone() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    folder.write("b.yaml", &service("b"));
    let paths = [folder.path("mesh.yaml"), folder.path("a.yaml")];
    let source = Source(FolderSource::start(&paths, Options::default()).unwrap());
    assert_eq!(source.served(), set(&["a"]));
    folder.write("a.yaml", &service_on("a", 81));
    source.until("the edit is in force", |it| it.port_of("a") == Some(81));
    fs::remove_file(folder.path("a.yaml")).unwrap();
    source.until("the loss is found", |it| it.errors().len() == 1);
    assert_eq!(source.served(), set(&["a"]));
}

#[test]
fn a_path_that_never_was_there_is_refused() {
    let folder = Folder::new();
    let missing = folder.path("missing");
    let error = FolderSource::start(&[missing], Options::default()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(FolderSource::start(&[], Options::default()).is_err());
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = Folder::new();
    let pipe = folder.path("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for error in [
        FolderSource::start(std::slice::from_ref(&pipe), Options::default()).err(),
        check(std::slice::from_ref(&pipe), Options::default()).err(),
    ] {
        let error = error.unwrap().to_string();
        assert!(error.contains("neither a file nor a folder"), "{error}");
    }
    // One that takes a file's place later is a finding.
    folder.write("a.yaml", "");
    let source = start(&folder.path("a.yaml"));
    fs::rename(&pipe, folder.path("a.yaml")).unwrap();
    source.until("the pipe is found", |it| it.errors().len() == 1);
}

#[test]
fn what_is_named_like_a_manifest_and_is_none_is_a_finding() {
    let folder = Folder::new();
    symlink("nowhere", folder.path("lost.yaml")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket.yaml")).unwrap();
    // What is not named like a manifest is nobody's business.
    symlink("nowhere", folder.path("lost.txt")).unwrap();
    folder.write("two.json", "{\"a\": 1}\n{\"b\": 2}\n");
    let checked = check(&[folder.dir.path().to_owned()], Options::default()).unwrap();
    let about = |file: &str| -> Vec<&Finding> {
        let named =
            |finding: &&Finding| finding.file.as_deref().is_some_and(|it| it.ends_with(file));
        checked.findings.iter().filter(named).collect()
    };
    assert!(about("lost.yaml")[0].reason.contains("cannot be read"));
    assert!(
        about("socket.yaml")[0]
            .reason
            .contains("neither a file nor a folder")
    );
    assert!(about("lost.txt").is_empty());
    let remedy = about("two.json").iter().find_map(|it| it.remedy.clone());
    assert!(remedy.unwrap().contains("List"));
}
