//! What can go wrong with our own certificate, and with a handshake.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use wayline_model::Identity;

use crate::verify::PeerFault;

/// Why a folder does not hold a certificate we can serve with. Each message names the file, the
/// reason and the remedy.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    /// No certificate was loaded yet.
    #[error("no certificate loaded yet: waiting for the identity source")]
    NotLoaded,
    /// A file is not there.
    #[error("{}: file is missing; the folder must hold cert-chain.pem, key.pem and root-cert.pem", .0.display())]
    Missing(PathBuf),
    /// A file is there but can not be read.
    #[error("{}: cannot be read: {source}; check owner and mode", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A file holds no usable PEM block of the expected kind.
    #[error("{file}: {reason}; write it as PEM ({expected})")]
    Malformed {
        /// The file's name.
        file: &'static str,
        /// What is wrong.
        reason: String,
        /// The PEM block that belongs there.
        expected: &'static str,
    },
    /// The private key does not belong to the certificate.
    #[error(
        "key.pem: does not belong to the first certificate of cert-chain.pem; replace both files together"
    )]
    KeyMismatch,
    /// The certificate's time is over.
    #[error("cert-chain.pem: expired {}s ago; renew the certificate (or correct this machine's clock)", .0.as_secs())]
    Expired(Duration),
    /// The certificate's time has not begun.
    #[error("cert-chain.pem: not valid for another {}s; wait, or correct this machine's clock", .0.as_secs())]
    NotYetValid(Duration),
    /// The certificate carries no URI name, hence no identity.
    #[error(
        "cert-chain.pem: the certificate has no URI subject alternative name; issue it with spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    NoUriSan,
    /// The certificate carries several URI names, so that its identity is ambiguous.
    #[error(
        "cert-chain.pem: the certificate has {0} URI subject alternative names; issue it with exactly one"
    )]
    SeveralUriSans(usize),
    /// The URI name is not an identity as Istio writes them.
    #[error("cert-chain.pem: {0}; issue the certificate with an Istio SPIFFE identity")]
    NotIstioIdentity(String),
    /// Peers that trust only our roots would not trust our certificate.
    #[error(
        "cert-chain.pem: not signed by any certificate in root-cert.pem ({0}); add the signing root, or the missing intermediate"
    )]
    NotSignedByRoots(String),
    /// rustls refused the material for another reason.
    #[error(
        "cert-chain.pem: refused by the TLS library: {0}; issue an ECDSA P-256 or RSA certificate"
    )]
    Refused(String),
}

/// Why a handshake did not lead to a verified peer.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We hold no valid certificate ourselves.
    #[error("no certificate to serve with: {0}")]
    NotReady(#[source] CredentialError),
    /// The first byte is not that of a TLS record: plain text on a TLS port.
    #[error("the peer does not speak TLS; this port takes only HBONE (mutual TLS)")]
    NotTls,
    /// The peer sent no certificate.
    #[error("the peer presented no certificate; mesh peers must present theirs")]
    NoCertificate,
    /// The peer's certificate carries no URI name.
    #[error("the peer's certificate has no URI subject alternative name")]
    NoUriSan,
    /// The peer's certificate carries several URI names.
    #[error(
        "the peer's certificate has {0} URI subject alternative names; exactly one is accepted"
    )]
    SeveralUriSans(usize),
    /// The peer's URI name is not an Istio identity.
    #[error("the peer's certificate names no Istio identity: {0}")]
    NotIstioIdentity(String),
    /// The peer belongs to a trust domain that is neither ours nor an alias.
    #[error("the peer is {0}, whose trust domain is neither ours nor among trustDomainAliases")]
    TrustDomain(Identity),
    /// The peer's certificate, or one above it, is on a revocation list of ours.
    #[error("the peer's certificate was taken back")]
    Revoked,
    /// The server is not the workload we meant to reach.
    #[error("the peer is {found}, expected {expected}")]
    IdentityMismatch {
        /// Who we meant, several joined by a comma.
        expected: String,
        /// Who answered.
        found: Identity,
    },
    /// The peer's certificate has expired.
    #[error("the peer's certificate has expired")]
    Expired,
    /// The peer's certificate is not valid yet.
    #[error("the peer's certificate is not valid yet; compare the clocks of both machines")]
    NotYetValid,
    /// The peer's certificate does not chain to the mesh roots.
    #[error("the peer's certificate is not signed by a root of this mesh")]
    UnknownIssuer,
    /// The peer's certificate is unusable for another reason: purpose, encoding, chain length.
    #[error("the peer's certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// The peer did not offer or choose ALPN `h2`.
    #[error("the peer did not negotiate ALPN h2")]
    Alpn,
    /// The peer refused us with a TLS alert.
    #[error("the peer refused the handshake with alert {0}")]
    RefusedByPeer(String),
    /// The peer broke the TLS protocol, or shares no version or cipher with us.
    #[error("TLS protocol error: {0}; both sides must speak TLS 1.3")]
    Protocol(String),
    /// The handshake took longer than allowed.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The connection failed underneath.
    #[error("the connection failed during the handshake: {0}")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    /// A short stable word for counters and logs, e.g. `no_certificate`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "not_ready",
            Self::NotTls => "not_tls",
            Self::NoCertificate => "no_certificate",
            Self::NoUriSan => "no_uri_san",
            Self::SeveralUriSans(_) => "several_uri_sans",
            Self::NotIstioIdentity(_) => "not_istio_identity",
            Self::TrustDomain(_) => "trust_domain",
            Self::Revoked => "revoked",
            Self::IdentityMismatch { .. } => "identity_mismatch",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadCertificate(_) => "bad_certificate",
            Self::Alpn => "alpn",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::Protocol(_) => "protocol",
            Self::Timeout(_) => "timeout",
            Self::Io(_) => "io",
        }
    }

    /// Sorts what the TLS stream reported into our reasons.
    pub(crate) fn from_io(error: io::Error) -> Self {
        let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        else {
            return Self::Io(error);
        };
        match tls {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            rustls::Error::AlertReceived(alert) => Self::RefusedByPeer(format!("{alert:?}")),
            rustls::Error::InvalidCertificate(fault) => Self::from_certificate(fault),
            other => Self::Protocol(other.to_string()),
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::Other(other) => match other.0.downcast_ref::<PeerFault>() {
                Some(fault) => fault.clone().into(),
                None => Self::BadCertificate(other.to_string()),
            },
            other => Self::BadCertificate(other.to_string()),
        }
    }
}

impl From<PeerFault> for HandshakeError {
    fn from(fault: PeerFault) -> Self {
        match fault {
            PeerFault::NoUriSan => Self::NoUriSan,
            PeerFault::SeveralUriSans(count) => Self::SeveralUriSans(count),
            PeerFault::NotIstioIdentity(what) => Self::NotIstioIdentity(what),
            PeerFault::TrustDomain(peer) => Self::TrustDomain(peer),
            PeerFault::IdentityMismatch { expected, found } => {
                Self::IdentityMismatch { expected, found }
            }
            PeerFault::Revoked => Self::Revoked,
            PeerFault::Malformed(what) => Self::BadCertificate(what),
        }
    }
}
