//! TLS to servers of the internet, or of an organisation with roots of its own: registries, key
//! servers. Nothing of the mesh is involved, and no certificate is shown.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::epoch::PROVIDER;
use crate::handshake::ClientStream;

/// Verifies servers by the public roots (Mozilla's, compiled in) and by roots added to them: TLS 1.2
/// and 1.3, ALPN `http/1.1`.
#[derive(Clone, Debug)]
pub struct PublicTls {
    config: Arc<ClientConfig>,
}

/// Why a server of the internet is not talked to, or roots were not taken.
#[derive(Debug, Error)]
pub enum PublicTlsError {
    /// The additional roots are not certificates.
    #[error(
        "the additional roots can not be used: {0}; expected PEM with BEGIN CERTIFICATE sections"
    )]
    Roots(String),
    /// The host is neither a DNS name nor an address.
    #[error("{0:?} is no name that a certificate could be for")]
    Name(String),
    /// Nobody we trust vouches for the server.
    #[error(
        "its certificate is not signed by a public root nor by one of the additional roots; add its CA to the additional roots"
    )]
    UnknownIssuer,
    /// The certificate is for somebody else.
    #[error("its certificate is for another name; use the name that the certificate has")]
    WrongName,
    /// The certificate has expired or is not valid yet.
    #[error("its certificate is not valid at this time; renew it, or compare the clocks")]
    Expired,
    /// The certificate is unusable for another reason.
    #[error("its certificate is not acceptable: {0}")]
    Certificate(String),
    /// What came first was no TLS.
    #[error("it does not speak TLS; use http:// if that is what it speaks")]
    NotTls,
    /// It does not speak TLS 1.2 or 1.3 as we do.
    #[error("TLS protocol error: {0}; check that the port speaks TLS 1.2 or 1.3")]
    Protocol(String),
    /// The connection failed underneath.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(#[source] std::io::Error),
}

impl PublicTls {
    /// Trusts the public roots, and those in `additional` (PEM) besides.
    ///
    /// # Errors
    ///
    /// [`PublicTlsError::Roots`] where `additional` is given and holds no certificate or a broken one.
    pub fn new(additional: Option<&[u8]>) -> Result<Self, PublicTlsError> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(pem) = additional {
            add(&mut roots, pem)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()
            .map_err(|error| PublicTlsError::Protocol(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Makes the handshake with `host`, a DNS name or an address (IPv6 with or without brackets), over
    /// `io`. There is no deadline in here; the caller's covers all of an exchange.
    ///
    /// # Errors
    ///
    /// Why the server is not who it should be, or what failed.
    pub async fn connect<IO>(&self, host: &str, io: IO) -> Result<ClientStream<IO>, PublicTlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(host).to_owned())
            .map_err(|_| PublicTlsError::Name(host.to_owned()))?;
        let stream = TlsConnector::from(Arc::clone(&self.config))
            .connect(name, io)
            .await
            .map_err(from_io)?;
        Ok(ClientStream::new(stream))
    }
}

fn add(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), PublicTlsError> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| PublicTlsError::Roots(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| PublicTlsError::Roots(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(PublicTlsError::Roots("there is no certificate".to_owned()));
    }
    Ok(())
}

fn from_io(error: std::io::Error) -> PublicTlsError {
    let inner = error.get_ref();
    let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return PublicTlsError::Io(error);
    };
    match tls {
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                PublicTlsError::UnknownIssuer
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                PublicTlsError::WrongName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => PublicTlsError::Expired,
            other => PublicTlsError::Certificate(other.to_string()),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => PublicTlsError::NotTls,
        other => PublicTlsError::Protocol(other.to_string()),
    }
}
