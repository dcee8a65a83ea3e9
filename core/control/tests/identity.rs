//! The process's own certificate: followed through rotations, renewed, never lost to a bad one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wayline_control::IdentityFolder;
use wayline_control::identity::Issuer;
use wayline_model::Identity;
use wayline_tls::{CertificateStore, DEFAULT_LIFETIME, DevCa};

/// A deadline for what must happen at all, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn workload(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn write(ca: &DevCa, account: &str, dir: &Path) {
    let issued = ca.issue(&workload(account), DEFAULT_LIFETIME).unwrap();
    issued.write_to(dir).unwrap();
}

fn serves_as(store: &CertificateStore, account: &str) -> bool {
    store
        .current()
        .is_ok_and(|epoch| *epoch.identity() == workload(account))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_folder_is_followed_through_rotation_loss_and_return() {
    let temp = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&temp.path().join("ca")).unwrap();
    let dir = temp.path().join("identity");
    let store = CertificateStore::new();

    let _follower = IdentityFolder::follow(dir.clone(), store.clone()).unwrap();
    assert!(store.readiness().is_err());
    write(&ca, "first", &dir);
    until("the first certificate is taken", || {
        serves_as(&store, "first")
    });

    write(&ca, "second", &dir);
    until("the rotation is taken", || serves_as(&store, "second"));

    fs::write(dir.join("key.pem"), "nonsense").unwrap();
    until("the failure is known", || store.status().failure.is_some());
    assert!(serves_as(&store, "second"));

    fs::remove_dir_all(&dir).unwrap();
    write(&ca, "third", &dir);
    until("the new folder is taken", || serves_as(&store, "third"));
    assert!(store.status().failure.is_none());
}

#[test]
fn a_kubernetes_volume_is_followed_through_its_data_link() {
    let temp = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&temp.path().join("ca")).unwrap();
    let dir = temp.path().join("identity");
    let swap = |version: &str, account: &str| {
        write(&ca, account, &dir.join(version));
        symlink(version, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    swap("..1", "first");
    for file in ["cert-chain.pem", "key.pem", "root-cert.pem"] {
        symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
    }
    let store = CertificateStore::new();
    let _follower = IdentityFolder::follow(dir.clone(), store.clone()).unwrap();
    assert!(serves_as(&store, "first"));
    swap("..2", "second");
    until("the swap is taken", || serves_as(&store, "second"));
}

#[tokio::test(start_paused = true)]
async fn a_development_certificate_follows_the_identity_and_is_renewed() {
    let temp = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&temp.path().join("ca")).unwrap();
    let store = CertificateStore::new();
    let (publish, published) = watch::channel(None);
    let keeper = tokio::spawn(Issuer::new(ca, store.clone(), published).run());

    let settle = async || tokio::time::sleep(Duration::from_secs(1)).await;
    settle().await;
    assert!(store.readiness().is_err());
    publish.send(Some(workload("first"))).unwrap();
    settle().await;
    let first = store.current().unwrap();
    assert_eq!(*first.identity(), workload("first"));

    publish.send(Some(workload("second"))).unwrap();
    settle().await;
    assert!(serves_as(&store, "second"));

    let before = store.current().unwrap().id();
    tokio::time::sleep(DEFAULT_LIFETIME).await;
    assert!(store.current().unwrap().id() > before, "it was not renewed");

    keeper.abort();
}
