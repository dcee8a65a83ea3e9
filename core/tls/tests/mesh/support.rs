//! Certificates of every sort, signed by a CA of the test's own, and a client that will present
//! any of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use wayline_model::Identity;
use wayline_tls::{
    Accepted, CertificateStore, DEFAULT_LIFETIME, DevCa, HandshakeError, PemBundle, accept,
};

pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/waypoint";
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/productpage";

pub(crate) fn identity(uri: &str) -> Identity {
    uri.parse().unwrap()
}

/// A store that holds a certificate of `ca` for `uri`.
pub(crate) fn store(ca: &DevCa, uri: &str) -> CertificateStore {
    let store = CertificateStore::new();
    let issued = ca.issue(&identity(uri), DEFAULT_LIFETIME).unwrap();
    store.replace(issued.bundle()).unwrap();
    store
}

pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// What a forged certificate differs in from a good one.
pub(crate) struct Forged {
    pub(crate) sans: Vec<SanType>,
    pub(crate) begins: Duration,
    pub(crate) ago: bool,
    pub(crate) lifetime: Duration,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) is_ca: bool,
}

impl Forged {
    pub(crate) fn with_uris(uris: &[&str]) -> Self {
        let sans = uris
            .iter()
            .map(|uri| SanType::URI(Ia5String::try_from(*uri).unwrap()))
            .collect();
        Self {
            sans,
            begins: Duration::from_secs(3600),
            ago: true,
            lifetime: Duration::from_secs(7200),
            usages: vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ],
            is_ca: false,
        }
    }

    /// Signs it with the CA in `ca_dir`.
    pub(crate) fn sign(self, ca_dir: &Path) -> PemBundle {
        let root = std::fs::read_to_string(ca_dir.join("root-cert.pem")).unwrap();
        let ca_key = std::fs::read_to_string(ca_dir.join("ca-key.pem")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&root, KeyPair::from_pem(&ca_key).unwrap()).unwrap();
        let now = SystemTime::now();
        let begin = if self.ago {
            now - self.begins
        } else {
            now + self.begins
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.sans;
        params.not_before = begin.into();
        params.not_after = (begin + self.lifetime).into();
        params.extended_key_usages = self.usages;
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        PemBundle {
            crl: Vec::new(),
            cert_chain: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            root_cert: root.into_bytes(),
        }
    }
}

/// A client that trusts anybody and presents what it is given.
pub(crate) fn careless_client(presents: Option<&PemBundle>, alpn: &[&str]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody));
    let mut config = match presents {
        None => builder.with_no_client_auth(),
        Some(bundle) => {
            let chain = CertificateDer::pem_slice_iter(&bundle.cert_chain)
                .collect::<Result<Vec<_>, _>>()
                .unwrap();
            let key = PrivateKeyDer::from_pem_slice(&bundle.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Lets a careless client connect, and returns what the server made of it.
pub(crate) async fn attempt(
    store: &CertificateStore,
    client: ClientConfig,
) -> Result<Accepted, HandshakeError> {
    let (to_server, from_client) = tcp_pair().await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("unused.example").unwrap();
    let (_, accepted) = tokio::join!(
        connector.connect(name, to_server),
        accept(store, from_client, Duration::from_secs(10)),
    );
    accepted
}

#[derive(Debug)]
struct TrustAnybody;

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
