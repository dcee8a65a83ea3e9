//! Identity folders, good and bad, and the development CA.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::support::{CLIENT, Forged, SERVER, identity};
use wayline_tls::{CertificateStore, CredentialError, DEFAULT_LIFETIME, DevCa, PemBundle, Reload};

fn write(dir: &Path, bundle: &PemBundle) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("cert-chain.pem"), &bundle.cert_chain).unwrap();
    fs::write(dir.join("key.pem"), &bundle.key).unwrap();
    fs::write(dir.join("root-cert.pem"), &bundle.root_cert).unwrap();
    fs::write(dir.join("crl.pem"), &bundle.crl).unwrap();
}

#[test]
fn a_folder_that_cannot_be_served_with_says_which_file_and_why() {
    let temp = tempfile::tempdir().unwrap();
    let ca_dir = temp.path().join("ca");
    let ca = DevCa::open_or_create(&ca_dir).unwrap();
    let other_root = DevCa::open_or_create(&temp.path().join("other")).unwrap();
    let good = ca.issue(&identity(SERVER), DEFAULT_LIFETIME).unwrap();
    let another = ca.issue(&identity(SERVER), DEFAULT_LIFETIME).unwrap();
    let good = good.bundle();

    let cases: Vec<(PemBundle, &str, &str)> = vec![
        (
            PemBundle {
                key: another.bundle().key,
                ..good.clone()
            },
            "key.pem",
            "does not belong",
        ),
        (
            PemBundle {
                key: b"no key".to_vec(),
                ..good.clone()
            },
            "key.pem",
            "BEGIN PRIVATE KEY",
        ),
        (
            PemBundle {
                cert_chain: good.cert_chain[..good.cert_chain.len() / 2].to_vec(),
                ..good.clone()
            },
            "cert-chain.pem",
            "BEGIN CERTIFICATE",
        ),
        (
            PemBundle {
                crl: b"no list".to_vec(),
                ..good.clone()
            },
            "crl.pem",
            "BEGIN X509 CRL",
        ),
        (
            PemBundle {
                root_cert: Vec::new(),
                ..good.clone()
            },
            "root-cert.pem",
            "holds no certificate",
        ),
        (
            PemBundle {
                root_cert: other_root.root_pem().into(),
                ..good.clone()
            },
            "root-cert.pem",
            "not signed by",
        ),
        (
            Forged {
                lifetime: Duration::from_secs(3000),
                ..Forged::with_uris(&[SERVER])
            }
            .sign(&ca_dir),
            "cert-chain.pem",
            "expired",
        ),
        (
            Forged {
                ago: false,
                ..Forged::with_uris(&[SERVER])
            }
            .sign(&ca_dir),
            "cert-chain.pem",
            "not valid for another",
        ),
        (
            Forged::with_uris(&[]).sign(&ca_dir),
            "cert-chain.pem",
            "no URI",
        ),
        (
            Forged::with_uris(&[SERVER, CLIENT]).sign(&ca_dir),
            "cert-chain.pem",
            "has 2 URI",
        ),
        (
            Forged::with_uris(&["spiffe://td/workload"]).sign(&ca_dir),
            "cert-chain.pem",
            "not an Istio identity",
        ),
    ];
    for (index, (bundle, file, reason)) in cases.into_iter().enumerate() {
        let dir = temp.path().join(index.to_string());
        write(&dir, &bundle);
        let store = CertificateStore::new();
        let error = store.reload_from(&dir).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(reason), "{error}");
        assert!(store.readiness().is_err());
    }
}

#[test]
fn a_missing_file_is_named_and_the_store_is_not_ready() {
    let temp = tempfile::tempdir().unwrap();
    let store = CertificateStore::new();
    assert!(matches!(store.readiness(), Err(CredentialError::NotLoaded)));
    let error = store.reload_from(temp.path()).unwrap_err();
    let missing = temp.path().join("cert-chain.pem");
    assert!(matches!(&error, CredentialError::Missing(path) if *path == missing));
    let why = store.readiness().unwrap_err().to_string();
    assert!(why.contains("cert-chain.pem"), "{why}");
}

#[test]
fn a_bad_reload_keeps_the_last_good_certificate_and_a_good_one_clears_the_alarm() {
    let temp = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&temp.path().join("ca")).unwrap();
    let dir = temp.path().join("id");
    let first = ca.issue(&identity(SERVER), DEFAULT_LIFETIME).unwrap();
    first.write_to(&dir).unwrap();
    let store = CertificateStore::new();
    store.reload_from(&dir).unwrap();
    let before = store.current().unwrap();

    assert!(matches!(store.reload_from(&dir), Ok(Reload::Unchanged(_))));
    assert_eq!(store.current().unwrap().id(), before.id());

    let second = ca.issue(&identity(SERVER), DEFAULT_LIFETIME).unwrap();
    fs::write(dir.join("key.pem"), &second.key_pem).unwrap();
    assert!(store.reload_from(&dir).is_err());
    assert_eq!(store.current().unwrap().id(), before.id());
    assert!(matches!(
        store.status().failure,
        Some(CredentialError::KeyMismatch)
    ));

    second.write_to(&dir).unwrap();
    assert!(matches!(store.reload_from(&dir), Ok(Reload::Replaced(_))));
    assert!(store.current().unwrap().id() > before.id());
    assert!(store.status().failure.is_none());
}

#[test]
fn private_keys_are_for_their_owner_only() {
    let temp = tempfile::tempdir().unwrap();
    let ca_dir = temp.path().join("ca");
    let ca = DevCa::open_or_create(&ca_dir).unwrap();
    let dir = temp.path().join("id");
    let issued = ca.issue(&identity(CLIENT), DEFAULT_LIFETIME).unwrap();
    issued.write_to(&dir).unwrap();
    // Writing over a file that was left open for everybody closes it.
    fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    issued.write_to(&dir).unwrap();
    for key in [ca_dir.join("ca-key.pem"), dir.join("key.pem")] {
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["cert-chain.pem", "key.pem", "root-cert.pem"]);
}

#[test]
fn processes_that_start_together_get_the_same_ca() {
    let temp = tempfile::tempdir().unwrap();
    for (round, prepared) in [false, true, false, true].into_iter().enumerate() {
        let dir = temp.path().join(format!("ca-{round}"));
        if prepared {
            fs::create_dir(&dir).unwrap();
        }
        let starters = 8;
        let together = Arc::new(Barrier::new(starters));
        let roots: Vec<String> = (0..starters)
            .map(|_| {
                let (dir, together) = (dir.clone(), Arc::clone(&together));
                std::thread::spawn(move || {
                    together.wait();
                    DevCa::open_or_create(&dir).unwrap().root_pem().to_owned()
                })
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|starter| starter.join().unwrap())
            .collect();
        assert!(roots.iter().all(|root| *root == roots[0]));
    }
    let left: Vec<_> = fs::read_dir(temp.path()).unwrap().collect();
    assert_eq!(
        left.len(),
        4,
        "nothing is left over beside the folders: {left:?}"
    );
}

#[test]
fn a_folder_of_other_things_is_not_taken_for_a_ca() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("notes.txt"), "mine").unwrap();
    let error = DevCa::open_or_create(temp.path()).unwrap_err().to_string();
    assert!(
        error.contains("is not empty") && error.contains("root-cert.pem"),
        "{error}"
    );
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);

    let mixed = temp.path().join("mixed");
    DevCa::open_or_create(&mixed).unwrap();
    let other = temp.path().join("other");
    DevCa::open_or_create(&other).unwrap();
    fs::copy(other.join("ca-key.pem"), mixed.join("ca-key.pem")).unwrap();
    let error = DevCa::open_or_create(&mixed).unwrap_err().to_string();
    assert!(error.contains("does not belong"), "{error}");
}

#[test]
fn what_an_epoch_shows_of_its_files_is_certificates_only() {
    let temp = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&temp.path().join("ca")).unwrap();
    let issued = ca.issue(&identity(SERVER), DEFAULT_LIFETIME).unwrap();
    let mut bundle = issued.bundle();
    // Some tools write key and certificate into one file.
    for file in [&mut bundle.cert_chain, &mut bundle.root_cert] {
        let certificate = std::mem::take(file);
        file.extend_from_slice(issued.key_pem.as_bytes());
        file.extend_from_slice(&certificate);
        file.extend_from_slice(issued.key_pem.as_bytes());
    }

    let store = CertificateStore::new();
    store.replace(bundle).unwrap();

    let epoch = store.current().unwrap();
    let unix = |pem: &str| pem.replace('\r', "");
    assert_eq!(epoch.chain_pem(), unix(&issued.chain_pem));
    assert_eq!(epoch.roots_pem(), unix(&issued.root_pem));
}
