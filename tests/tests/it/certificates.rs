//! Connections that live longer than the certificates they were made with (T06, T08, T12 of the
//! catalogue): rotation drops none, an end and a revocation do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use wayline_tests::{Caller, Conversation, Mesh, Request, eventually, revocation};
use wayline_tls::{DevCa, PemBundle};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, WAYPOINT};

/// Puts files into an identity folder, each in one step.
fn put(dir: &Path, bundle: &PemBundle) {
    std::fs::create_dir_all(dir).unwrap();
    let files = [
        ("root-cert.pem", &bundle.root_cert),
        ("key.pem", &bundle.key),
        ("cert-chain.pem", &bundle.cert_chain),
    ];
    for (file, text) in files {
        let fresh = dir.join(format!(".{file}"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, dir.join(file)).unwrap();
    }
}

fn issued(ca: &Path, identity: &str, lifetime: Duration) -> PemBundle {
    let ca = DevCa::open_or_create(ca).unwrap();
    let issued = ca.issue(&identity.parse().unwrap(), lifetime).unwrap();
    issued.bundle()
}

const DAY: Duration = Duration::from_secs(86_400);

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/a";

/// A mesh whose waypoint has its certificate from a folder.
fn with_identity() -> (Mesh, PathBuf) {
    let mesh = scene::echo_mesh(&[]);
    let dir = mesh.home().join("identity");
    put(&dir, &issued(&mesh.ca(), WAYPOINT, DAY));
    (mesh, dir)
}

fn is_served(conversation: &mut Conversation) -> bool {
    let answer = conversation.exchange(&Request::get("/"));
    answer.is_ok_and(|answer| answer.status == 200)
}

fn caller(mesh: &Mesh, certificate: PathBuf) -> Caller {
    Caller {
        certificate,
        ..mesh.caller("default/a")
    }
}

#[test]
fn a_certificate_that_is_taken_back_takes_its_connections_with_it() {
    let (mesh, dir) = with_identity();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start_with(&["--identity-dir", dir.to_str().unwrap()]);
    wayline.wait_ready();
    let [thief, other] = ["default/a", "default/b"].map(|who| mesh.tunnel(who, ECHO_AUTHORITY));
    let mut stolen = Conversation::open(thief.address);
    let mut honest = Conversation::open(other.address);
    assert!(is_served(&mut stolen) && is_served(&mut honest));

    // A list that can not be read changes nothing.
    std::fs::write(dir.join("crl.pem"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(is_served(&mut stolen) && wayline.is_ready());

    let list = revocation::list_of(&mesh.ca(), &mesh.certificate(CLIENT));
    std::fs::write(dir.join("crl.pem"), list).unwrap();
    eventually("the connection to be cut", || {
        (!is_served(&mut stolen)).then_some(())
    });
    assert!(is_served(&mut honest));
    let again = Conversation::open(thief.address).exchange(&Request::get("/"));
    assert!(again.is_err(), "{again:?}");
    eventually("both to be counted", || {
        (wayline.refusals("revoked") >= 2.0).then_some(())
    });
}

#[test]
fn a_connection_takes_no_more_streams_once_its_certificate_has_ended() {
    let (mesh, dir) = with_identity();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start_with(&[
        "--identity-dir",
        dir.to_str().unwrap(),
        "--certificate-grace",
        "1s",
    ]);
    wayline.wait_ready();
    let certificate = mesh.home().join("short");
    put(
        &certificate,
        &issued(&mesh.ca(), CLIENT, Duration::from_secs(5)),
    );
    let tunnel = mesh.tunnel_of(&caller(&mesh, certificate), ECHO_AUTHORITY);
    let mut open = Conversation::open(tunnel.address);
    assert!(is_served(&mut open));
    eventually("new streams to be refused", || {
        let next = Conversation::open(tunnel.address).exchange(&Request::get("/"));
        next.is_err().then_some(())
    });
    // What was begun before is brought to its end.
    assert!(is_served(&mut open));
}

#[test]
fn certificate_and_ca_rotate_without_a_connection_lost() {
    let (mesh, dir) = with_identity();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start_with(&["--identity-dir", dir.to_str().unwrap()]);
    wayline.wait_ready();
    let new_ca = mesh.home().join("new-ca");
    let old = issued(&mesh.ca(), WAYPOINT, DAY);
    let new = issued(&new_ca, WAYPOINT, DAY);
    let both = [&old.root_cert[..], &new.root_cert].concat();
    let of_new = mesh.home().join("client-of-new");
    let new_client = PemBundle {
        root_cert: both.clone(),
        ..issued(&new_ca, CLIENT, DAY)
    };
    put(&of_new, &new_client);

    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut first = Conversation::open(tunnel.address);
    assert!(is_served(&mut first));
    let next = mesh.tunnel_of(&caller(&mesh, of_new), ECHO_AUTHORITY);
    let refused = Conversation::open(next.address).exchange(&Request::get("/"));
    assert!(refused.is_err(), "{refused:?}");

    // Its roots first, then what it vouches for, then without the old one.
    let with_roots = |bundle: &PemBundle| PemBundle {
        root_cert: both.clone(),
        ..bundle.clone()
    };
    put(&dir, &with_roots(&old));
    let mut second = eventually("the new CA to be believed", || {
        let mut conversation = Conversation::open(next.address);
        is_served(&mut conversation).then_some(conversation)
    });
    put(&dir, &with_roots(&new));
    put(&dir, &new);
    eventually("the old CA to be forgotten", || {
        mesh.knock("default/b", ECHO_AUTHORITY)
            .is_err()
            .then_some(())
    });
    assert!(is_served(&mut first), "a connection from before is lost");
    assert!(is_served(&mut second), "a connection from between is lost");
    assert!(wayline.is_ready());
}
