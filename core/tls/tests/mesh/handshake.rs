//! Mesh handshakes over loopback sockets: who gets in, who does not, and why.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{CLIENT, Forged, SERVER, attempt, careless_client, identity, store, tcp_pair};
use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wayline_model::TrustDomain;
use wayline_tls::{
    DEFAULT_LIFETIME, DevCa, HandshakeError, Reload, accept, connect, connect_to_any,
};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn both_sides_know_each_other_and_bytes_flow() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let (server, client) = (store(&ca, SERVER), store(&ca, CLIENT));
    let epoch = client.current().unwrap();
    let expected = [identity(SERVER)];

    let (to_server, from_client) = tcp_pair().await;
    let (connected, accepted) = tokio::join!(
        connect(&epoch, to_server, &expected),
        accept(&server, from_client, PATIENCE)
    );
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!(accepted.peer, identity(CLIENT));
    assert_eq!(accepted.peer_not_after, epoch.not_after());

    connected.write_all(b"ping").await.unwrap();
    connected.flush().await.unwrap();
    let mut heard = [0; 4];
    accepted.io.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

#[tokio::test]
async fn whoever_is_not_one_istio_identity_of_this_mesh_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let ca_dir = dir.path().join("ca");
    let ca = DevCa::open_or_create(&ca_dir).unwrap();
    let other_dir = dir.path().join("other");
    DevCa::open_or_create(&other_dir).unwrap();
    let server = store(&ca, SERVER);

    let dns = SanType::DnsName(Ia5String::try_from("td.example").unwrap());
    let cases = [
        ("no_uri_san", Forged::with_uris(&[]), &ca_dir),
        (
            "no_uri_san",
            Forged {
                sans: vec![dns],
                ..Forged::with_uris(&[])
            },
            &ca_dir,
        ),
        (
            "no_uri_san",
            Forged {
                sans: vec![SanType::Rfc822Name(Ia5String::try_from(CLIENT).unwrap())],
                ..Forged::with_uris(&[])
            },
            &ca_dir,
        ),
        (
            "several_uri_sans",
            Forged::with_uris(&[CLIENT, SERVER]),
            &ca_dir,
        ),
        (
            "several_uri_sans",
            Forged::with_uris(&["https://example.com", CLIENT]),
            &ca_dir,
        ),
        (
            "not_istio_identity",
            Forged::with_uris(&["spiffe://cluster.local/ns/a/sa/b/c"]),
            &ca_dir,
        ),
        (
            "not_istio_identity",
            Forged::with_uris(&["https://cluster.local/ns/a/sa/b"]),
            &ca_dir,
        ),
        (
            "trust_domain",
            Forged::with_uris(&["spiffe://elsewhere.example/ns/a/sa/b"]),
            &ca_dir,
        ),
        ("unknown_issuer", Forged::with_uris(&[CLIENT]), &other_dir),
        (
            "expired",
            Forged {
                lifetime: Duration::from_secs(3599),
                ..Forged::with_uris(&[CLIENT])
            },
            &ca_dir,
        ),
        (
            "not_yet_valid",
            Forged {
                ago: false,
                ..Forged::with_uris(&[CLIENT])
            },
            &ca_dir,
        ),
        (
            "bad_certificate",
            Forged {
                usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
                ..Forged::with_uris(&[CLIENT])
            },
            &ca_dir,
        ),
        (
            "bad_certificate",
            Forged {
                is_ca: true,
                ..Forged::with_uris(&[CLIENT])
            },
            &ca_dir,
        ),
    ];
    for (reason, forged, signer) in cases {
        let bundle = forged.sign(signer);
        let refused = attempt(&server, careless_client(Some(&bundle), &["h2"])).await;
        assert_eq!(refused.unwrap_err().reason(), reason);
    }

    let good = Forged::with_uris(&[CLIENT]).sign(&ca_dir);
    let accepted = attempt(&server, careless_client(Some(&good), &["h2"])).await;
    assert_eq!(accepted.unwrap().peer, identity(CLIENT));
}

#[tokio::test]
async fn an_alias_counts_from_the_next_handshake_on() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let guest = "spiffe://old.example/ns/default/sa/productpage";
    let bundle = ca
        .issue(&identity(guest), DEFAULT_LIFETIME)
        .unwrap()
        .bundle();

    let refused = attempt(&server, careless_client(Some(&bundle), &["h2"])).await;
    assert!(matches!(refused, Err(HandshakeError::TrustDomain(peer)) if peer == identity(guest)));

    server.set_trust_domain_aliases(&[TrustDomain::parse("old.example").unwrap()]);
    let accepted = attempt(&server, careless_client(Some(&bundle), &["h2"])).await;
    assert_eq!(accepted.unwrap().peer, identity(guest));

    server.set_trust_domain_aliases(&[]);
    let refused = attempt(&server, careless_client(Some(&bundle), &["h2"])).await;
    assert_eq!(refused.unwrap_err().reason(), "trust_domain");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let refused = attempt(&store(&ca, SERVER), careless_client(None, &["h2"])).await;
    assert_eq!(refused.unwrap_err().reason(), "no_certificate");
}

#[tokio::test]
async fn a_chain_longer_than_ten_certificates_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let mut bundle = ca
        .issue(&identity(CLIENT), DEFAULT_LIFETIME)
        .unwrap()
        .bundle();
    bundle.cert_chain.extend(ca.root_pem().repeat(9).bytes());
    attempt(&server, careless_client(Some(&bundle), &["h2"]))
        .await
        .unwrap();
    bundle.cert_chain.extend(ca.root_pem().bytes());
    let refused = attempt(&server, careless_client(Some(&bundle), &["h2"])).await;
    assert_eq!(refused.unwrap_err().reason(), "bad_certificate");
}

#[tokio::test]
async fn only_h2_is_negotiated() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let bundle = ca
        .issue(&identity(CLIENT), DEFAULT_LIFETIME)
        .unwrap()
        .bundle();
    for offer in [&[][..], &["http/1.1"], &["http/1.1", "h3"]] {
        let refused = attempt(&server, careless_client(Some(&bundle), offer)).await;
        assert_eq!(refused.unwrap_err().reason(), "alpn", "{offer:?}");
    }
    let offer = ["http/1.1", "h2"];
    attempt(&server, careless_client(Some(&bundle), &offer))
        .await
        .unwrap();
}

#[tokio::test]
async fn plain_text_is_named_and_gets_no_byte_back() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let (mut client, from_client) = tcp_pair().await;
    client.write_all(b"G").await.unwrap();
    let refused = accept(&server, from_client, PATIENCE).await;
    assert_eq!(refused.unwrap_err().reason(), "not_tls");
    let mut heard = Vec::new();
    let reset = client.read_to_end(&mut heard).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(heard.is_empty());
}

#[tokio::test]
async fn a_silent_client_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let (_silent, from_client) = tcp_pair().await;
    let refused = accept(&server, from_client, Duration::from_millis(50)).await;
    assert_eq!(refused.unwrap_err().reason(), "timeout");
}

#[tokio::test]
async fn a_server_of_another_identity_is_not_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, "spiffe://cluster.local/ns/default/sa/waypoint-2");
    let epoch = store(&ca, CLIENT).current().unwrap();
    let expected = [identity(SERVER)];

    let (to_server, from_client) = tcp_pair().await;
    let (connected, accepted) = tokio::join!(
        connect(&epoch, to_server, &expected),
        accept(&server, from_client, PATIENCE)
    );
    let refusal = connected.unwrap_err();
    assert_eq!(refusal.reason(), "identity_mismatch");
    assert!(refusal.to_string().contains("waypoint-2"), "{refusal}");
    assert_eq!(accepted.unwrap_err().reason(), "refused_by_peer");
}

#[tokio::test]
async fn a_server_of_another_mesh_is_not_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let other = DevCa::open_or_create(&dir.path().join("other")).unwrap();
    let server = store(&other, SERVER);
    let epoch = store(&ca, CLIENT).current().unwrap();
    let expected = [identity(SERVER)];

    let (to_server, from_client) = tcp_pair().await;
    let (connected, _) = tokio::join!(
        connect(&epoch, to_server, &expected),
        accept(&server, from_client, PATIENCE)
    );
    assert_eq!(connected.unwrap_err().reason(), "unknown_issuer");
}

#[tokio::test]
async fn a_tool_reaches_anybody_of_its_mesh_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let other = DevCa::open_or_create(&dir.path().join("other")).unwrap();
    let epoch = store(&ca, CLIENT).current().unwrap();
    for (signer, reached) in [(&ca, true), (&other, false)] {
        let server = store(signer, SERVER);
        let (to_server, from_client) = tcp_pair().await;
        let (connected, _) = tokio::join!(
            connect_to_any(&epoch, to_server),
            accept(&server, from_client, PATIENCE)
        );
        assert_eq!(connected.is_ok(), reached);
    }
}

#[tokio::test]
async fn nothing_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let bundle = ca
        .issue(&identity(CLIENT), DEFAULT_LIFETIME)
        .unwrap()
        .bundle();
    let config = Arc::new(careless_client(Some(&bundle), &["h2"]));
    for _ in 0..2 {
        let (to_server, from_client) = tcp_pair().await;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let name = ServerName::try_from("unused.example").unwrap();
        let (connected, accepted) = tokio::join!(
            connector.connect(name, to_server),
            accept(&server, from_client, PATIENCE)
        );
        let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
        // A ticket would travel ahead of this byte.
        accepted.io.write_all(b"x").await.unwrap();
        accepted.io.flush().await.unwrap();
        connected.read_exact(&mut [0]).await.unwrap();
        let session = connected.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn a_rotation_changes_new_handshakes_and_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
    let server = store(&ca, SERVER);
    let client = store(&ca, CLIENT);
    let expected = [identity(SERVER)];
    let before = client.current().unwrap();

    let (to_server, from_client) = tcp_pair().await;
    let (connected, accepted) = tokio::join!(
        connect(&before, to_server, &expected),
        accept(&server, from_client, PATIENCE)
    );
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());

    let renamed = "spiffe://cluster.local/ns/default/sa/renamed";
    let issued = ca.issue(&identity(renamed), DEFAULT_LIFETIME).unwrap();
    let Reload::Replaced(after) = client.replace(issued.bundle()).unwrap() else {
        panic!("the certificate is another one");
    };
    assert!(after.id() > before.id());

    connected.write_all(b"still here").await.unwrap();
    connected.flush().await.unwrap();
    let mut heard = [0; 10];
    accepted.io.read_exact(&mut heard).await.unwrap();

    let epoch = client.current().unwrap();
    let (to_server, from_client) = tcp_pair().await;
    let (_, accepted) = tokio::join!(
        connect(&epoch, to_server, &expected),
        accept(&server, from_client, PATIENCE)
    );
    assert_eq!(accepted.unwrap().peer, identity(renamed));
}
