//! Servers of the internet: whom we believe.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use wayline_tls::{PublicTls, PublicTlsError};

/// A private CA and a server certificate of it for `registry.example`.
struct Authority {
    pem: String,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["registry.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &ca).unwrap();
        Self {
            pem: ca.pem(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
        }
    }

    fn acceptor(&self, version: &'static rustls::SupportedProtocolVersion) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// What a client that asks for `host` makes of this server.
    async fn reached(
        &self,
        tls: &PublicTls,
        host: &str,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Result<String, PublicTlsError> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let acceptor = self.acceptor(version);
        let server = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        });
        let mut stream = tls.connect(host, near).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        server.await.unwrap().unwrap();
        Ok(text)
    }
}

#[tokio::test]
async fn additional_roots_are_believed_for_the_name_asked_for() {
    let authority = Authority::new();
    let tls = PublicTls::new(Some(authority.pem.as_bytes())).unwrap();
    for version in [&TLS12, &TLS13] {
        let text = authority.reached(&tls, "registry.example", version).await;
        assert_eq!(text.unwrap(), "hello");
    }
    for host in ["other.example", "127.0.0.1", "[::1]"] {
        let error = authority.reached(&tls, host, &TLS13).await.unwrap_err();
        assert!(
            matches!(error, PublicTlsError::WrongName),
            "{host}: {error}"
        );
    }
    let error = authority
        .reached(&tls, "no name", &TLS13)
        .await
        .unwrap_err();
    assert!(matches!(error, PublicTlsError::Name(_)), "{error}");
}

#[tokio::test]
async fn others_are_not_believed() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for tls in [
        PublicTls::new(None).unwrap(),
        PublicTls::new(Some(stranger.pem.as_bytes())).unwrap(),
    ] {
        let error = authority.reached(&tls, "registry.example", &TLS13).await;
        let error = error.unwrap_err();
        assert!(matches!(error, PublicTlsError::UnknownIssuer), "{error}");
    }
}

#[test]
fn additional_roots_must_be_some() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for pem in ["", "nothing here", broken] {
        let error = PublicTls::new(Some(pem.as_bytes())).unwrap_err();
        assert!(
            matches!(error, PublicTlsError::Roots(_)),
            "{pem:?}: {error}"
        );
    }
}
