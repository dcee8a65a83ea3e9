//! One certificate epoch: everything a handshake needs, built once when the certificate is loaded.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use wayline_model::Identity;

use crate::error::CredentialError;
use crate::files::{CERT_CHAIN_FILE, CRL_FILE, KEY_FILE, PemBundle, ROOT_CERT_FILE};
use crate::revoked::{PeerChain, Revoked};
use crate::verify::{
    MeshClientVerifier, MeshServerVerifier, PeerFault, TrustDomainAliases, identity_of,
    verify_signed_by_roots,
};

/// The only protocol that runs on mesh connections.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Client configurations kept per epoch; beyond, the cache starts anew.
const MAX_CLIENT_CONFIGS: usize = 4096;

pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// A loaded certificate with the TLS configurations built from it. Immutable: a rotation makes a
/// new epoch, and connections keep the one they were made with.
pub struct Epoch {
    id: u64,
    identity: Identity,
    not_before: SystemTime,
    not_after: SystemTime,
    chain_pem: Box<str>,
    roots_pem: Box<str>,
    roots: Arc<RootCertStore>,
    revoked: Arc<Revoked>,
    certified: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<Box<[Identity]>, Arc<ClientConfig>>>,
}

impl Epoch {
    /// Checks a bundle and builds its configurations.
    pub(crate) fn build(
        id: u64,
        pem: &PemBundle,
        aliases: Arc<TrustDomainAliases>,
        now: SystemTime,
    ) -> Result<Self, CredentialError> {
        let chain = certificates(CERT_CHAIN_FILE, &pem.cert_chain)?;
        let root_certificates = certificates(ROOT_CERT_FILE, &pem.root_cert)?;
        let (chain_pem, roots_pem) = (pem_of(&chain), pem_of(&root_certificates));
        let roots = Arc::new(root_store(root_certificates)?);
        let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|e| malformed_key(&e))?;

        let (not_before, not_after) = validity(&chain)?;
        if let Ok(ahead) = not_before.duration_since(now)
            && !ahead.is_zero()
        {
            return Err(CredentialError::NotYetValid(ahead));
        }
        if let Ok(since) = now.duration_since(not_after) {
            return Err(CredentialError::Expired(since));
        }

        let identity = identity_of(&chain[0])?;
        let certified = certified_key(chain.clone(), key)?;
        let unix_now =
            UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        verify_signed_by_roots(&chain[0], &chain[1..], &roots, &PROVIDER, unix_now)
            .map_err(|e| CredentialError::NotSignedByRoots(e.to_string()))?;

        let revoked = Arc::new(Revoked::read(&pem.crl)?);
        if chain
            .iter()
            .any(|certificate| revoked.contains(certificate))
        {
            return Err(CredentialError::Refused(format!(
                "{CRL_FILE} says that it was taken back"
            )));
        }
        let verifier = MeshClientVerifier::new(
            Arc::clone(&roots),
            Arc::clone(&revoked),
            Arc::clone(&PROVIDER),
            identity.trust_domain().clone(),
            aliases,
        )
        .map_err(CredentialError::Refused)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| CredentialError::Refused(e.to_string()))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&certified) as _);
        server.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A resumed session would outlive a change of trust, so there is nothing to resume with.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        Ok(Self {
            id,
            identity,
            not_before,
            not_after,
            chain_pem,
            roots_pem,
            roots,
            revoked,
            certified,
            server: Arc::new(server),
            clients: Mutex::default(),
        })
    }

    /// A number that no other epoch of the same store has; it grows with each rotation.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The latest begin of validity in the chain.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The earliest end of validity in the chain.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Our certificate and its intermediates as PEM. It is written anew from the certificates that
    /// were read: whatever else the file held, a private key for example, is not in it.
    #[must_use]
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The roots of the mesh as PEM, likewise nothing but certificates.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// Whether one of a peer's certificates is on a revocation list of this epoch.
    #[must_use]
    pub fn has_taken_back(&self, chain: &PeerChain) -> bool {
        self.revoked.contains_any(chain)
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The configuration for reaching one of `expected`; built at most once per epoch and set.
    pub(crate) fn client_config(
        &self,
        expected: &[Identity],
    ) -> Result<Arc<ClientConfig>, CredentialError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.get(expected) {
            return Ok(Arc::clone(config));
        }
        let config = self.build_client_config(Some(expected.into()))?;
        if clients.len() >= MAX_CLIENT_CONFIGS {
            clients.clear();
        }
        clients.insert(expected.into(), Arc::clone(&config));
        Ok(config)
    }

    /// The configuration for reaching one of `expected`, or anybody of this mesh.
    pub(crate) fn build_client_config(
        &self,
        expected: Option<Box<[Identity]>>,
    ) -> Result<Arc<ClientConfig>, CredentialError> {
        let verifier = MeshServerVerifier {
            roots: Arc::clone(&self.roots),
            revoked: Arc::clone(&self.revoked),
            provider: Arc::clone(&PROVIDER),
            expected,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| CredentialError::Refused(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl From<PeerFault> for CredentialError {
    /// The same certificate faults, seen from the holder's side.
    fn from(fault: PeerFault) -> Self {
        match fault {
            PeerFault::NoUriSan => Self::NoUriSan,
            PeerFault::SeveralUriSans(count) => Self::SeveralUriSans(count),
            PeerFault::NotIstioIdentity(what) => Self::NotIstioIdentity(what),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// When a certificate's validity ends.
pub(crate) fn not_after_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(system_time(parsed.validity().not_after.timestamp()))
}

fn certificates(
    file: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let malformed = |reason: String| CredentialError::Malformed {
        file,
        reason,
        expected: "BEGIN CERTIFICATE",
    };
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| malformed(e.to_string()))?;
    if certificates.is_empty() {
        return Err(malformed("holds no certificate".to_owned()));
    }
    Ok(certificates)
}

fn pem_of(certificates: &[CertificateDer<'_>]) -> Box<str> {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        // 48 bytes make a line of 64 characters (RFC 7468 §2), and leave nothing over to pad.
        for line in certificate.chunks(48) {
            STANDARD.encode_string(line, &mut pem);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem.into()
}

fn root_store(
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|e| CredentialError::Malformed {
                file: ROOT_CERT_FILE,
                reason: e.to_string(),
                expected: "BEGIN CERTIFICATE",
            })?;
    }
    Ok(roots)
}

fn malformed_key(error: &rustls::pki_types::pem::Error) -> CredentialError {
    CredentialError::Malformed {
        file: KEY_FILE,
        reason: error.to_string(),
        expected: "BEGIN PRIVATE KEY",
    }
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<SingleCertAndKey>, CredentialError> {
    let key =
        PROVIDER
            .key_provider
            .load_private_key(key)
            .map_err(|e| CredentialError::Malformed {
                file: KEY_FILE,
                reason: e.to_string(),
                expected: "BEGIN PRIVATE KEY",
            })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(SingleCertAndKey::from(certified))),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(CredentialError::KeyMismatch)
        }
        Err(other) => Err(CredentialError::Refused(other.to_string())),
    }
}

/// The span in which every certificate of the chain is valid: an intermediate that ends first
/// ends the leaf's use.
fn validity(chain: &[CertificateDer<'_>]) -> Result<(SystemTime, SystemTime), CredentialError> {
    let mut begin = UNIX_EPOCH;
    let mut end: Option<SystemTime> = None;
    for certificate in chain {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| {
            CredentialError::Malformed {
                file: CERT_CHAIN_FILE,
                reason: e.to_string(),
                expected: "BEGIN CERTIFICATE",
            }
        })?;
        let validity = parsed.validity();
        begin = begin.max(system_time(validity.not_before.timestamp()));
        let until = system_time(validity.not_after.timestamp());
        end = Some(end.map_or(until, |end| end.min(until)));
    }
    Ok((begin, end.unwrap_or(UNIX_EPOCH)))
}

fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
