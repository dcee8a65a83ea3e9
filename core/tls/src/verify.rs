//! Who a certificate says its holder is, and the two verifiers that rustls asks.
//!
//! Chains are checked by webpki against the mesh roots; on top of that exactly one URI name of
//! Istio's shape is demanded. Other kinds of names (DNS, mail, common name) are never read.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use wayline_model::{Identity, TrustDomain};
use x509_parser::extensions::GeneralName;

use crate::revoked::Revoked;

/// More intermediates than this are not looked at: path building costs grow with the chain.
const MAX_INTERMEDIATES: usize = 9;

/// The context tag of `uniformResourceIdentifier` in a GeneralName (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

/// A certificate that chains to the roots and yet is not the peer we take.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PeerFault {
    #[error("no URI subject alternative name")]
    NoUriSan,
    #[error("{0} URI subject alternative names")]
    SeveralUriSans(usize),
    #[error("{0}")]
    NotIstioIdentity(String),
    #[error("trust domain of {0} is not accepted")]
    TrustDomain(Identity),
    #[error("the certificate was taken back")]
    Revoked,
    #[error("expected {expected}, found {found}")]
    IdentityMismatch { expected: String, found: Identity },
    #[error("{0}")]
    Malformed(String),
}

impl From<PeerFault> for rustls::Error {
    fn from(fault: PeerFault) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
    }
}

/// Reads the identity of a certificate: its only URI name.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, PeerFault> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| PeerFault::Malformed(e.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|e| PeerFault::Malformed(e.to_string()))?;
    let Some(names) = names else {
        return Err(PeerFault::NoUriSan);
    };
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(Some(*uri)),
            // A URI that is not text still counts: skipping it could turn two names into one.
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some(None),
            _ => None,
        });
    let Some(only) = uris.next() else {
        return Err(PeerFault::NoUriSan);
    };
    let others = uris.count();
    if others > 0 {
        return Err(PeerFault::SeveralUriSans(others + 1));
    }
    let Some(uri) = only else {
        return Err(PeerFault::NotIstioIdentity(
            "the URI name is not ASCII text".to_owned(),
        ));
    };
    uri.parse::<Identity>()
        .map_err(|e| PeerFault::NotIstioIdentity(e.to_string()))
}

/// Trust domains accepted besides our own; shared by all epochs, read once per handshake.
#[derive(Debug, Default)]
pub(crate) struct TrustDomainAliases(Mutex<Arc<[TrustDomain]>>);

impl TrustDomainAliases {
    pub(crate) fn set(&self, aliases: Arc<[TrustDomain]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = aliases;
    }

    fn contains(&self, domain: &TrustDomain) -> bool {
        let aliases = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        aliases.contains(domain)
    }
}

/// Verifies those who connect to us: chain, purpose, one identity, accepted trust domain.
#[derive(Debug)]
pub(crate) struct MeshClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    revoked: Arc<Revoked>,
    own: TrustDomain,
    aliases: Arc<TrustDomainAliases>,
}

impl MeshClientVerifier {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        revoked: Arc<Revoked>,
        provider: Arc<CryptoProvider>,
        own: TrustDomain,
        aliases: Arc<TrustDomainAliases>,
    ) -> Result<Self, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            chain,
            revoked,
            own,
            aliases,
        })
    }
}

impl ClientCertVerifier for MeshClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Mesh peers hold one certificate; hints would only lengthen every handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_chain_length(intermediates)?;
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        check_revoked(end_entity, intermediates, &self.revoked)?;
        let peer = identity_of(end_entity)?;
        if *peer.trust_domain() != self.own && !self.aliases.contains(peer.trust_domain()) {
            return Err(PeerFault::TrustDomain(peer).into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies those we connect to: chain, purpose, and exactly one of the expected identities.
#[derive(Debug)]
pub(crate) struct MeshServerVerifier {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) revoked: Arc<Revoked>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// `None`: anybody the roots vouch for.
    pub(crate) expected: Option<Box<[Identity]>>,
}

impl ServerCertVerifier for MeshServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        check_chain_length(intermediates)?;
        verify_signed_by_roots(end_entity, intermediates, &self.roots, &self.provider, now)?;
        check_revoked(end_entity, intermediates, &self.revoked)?;
        let found = identity_of(end_entity)?;
        if let Some(expected) = &self.expected
            && !expected.contains(&found)
        {
            let expected: Vec<&str> = expected.iter().map(Identity::uri).collect();
            return Err(PeerFault::IdentityMismatch {
                expected: expected.join(", "),
                found,
            }
            .into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Checks a server chain, purpose included, against the roots.
pub(crate) fn verify_signed_by_roots(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(
        &parsed,
        roots,
        intermediates,
        now,
        provider.signature_verification_algorithms.all,
    )
}

fn check_revoked(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    revoked: &Revoked,
) -> Result<(), PeerFault> {
    let mut chain = std::iter::once(end_entity).chain(intermediates);
    if chain.any(|certificate| revoked.contains(certificate)) {
        return Err(PeerFault::Revoked);
    }
    Ok(())
}

fn check_chain_length(intermediates: &[CertificateDer<'_>]) -> Result<(), PeerFault> {
    if intermediates.len() > MAX_INTERMEDIATES {
        let length = intermediates.len() + 1;
        return Err(PeerFault::Malformed(format!(
            "a chain of {length} certificates; at most {} are looked at",
            MAX_INTERMEDIATES + 1
        )));
    }
    Ok(())
}
