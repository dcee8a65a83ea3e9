//! The two handshakes of the mesh, and the encrypted streams they yield.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use wayline_model::Identity;

use crate::epoch::{ALPN_H2, Epoch, not_after_of};
use crate::error::HandshakeError;
use crate::revoked::PeerChain;
use crate::store::CertificateStore;
use crate::verify::identity_of;

/// The content type of a TLS handshake record (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// A peer that came to us and proved who it is.
#[derive(Debug)]
pub struct Accepted {
    /// The decrypted stream.
    pub io: ServerStream,
    /// Who the peer is: the only URI name of its certificate.
    pub peer: Identity,
    /// The peer's certificate, DER.
    pub peer_certificate: Arc<[u8]>,
    /// When the peer's certificate ends; later streams on a long connection may be judged by it.
    pub peer_not_after: SystemTime,
    /// For [`CertificateStore::taken_back`].
    pub peer_chain: PeerChain,
}

/// Serves one handshake: TLS 1.3, client certificate of this mesh, ALPN `h2`.
///
/// `timeout` covers everything from the first byte. Plain text is recognised by its first byte and
/// gets no answer; closing with those bytes unread makes the kernel reset the connection.
pub async fn accept(
    store: &CertificateStore,
    tcp: TcpStream,
    timeout: Duration,
) -> Result<Accepted, HandshakeError> {
    let epoch = store.current().map_err(HandshakeError::NotReady)?;
    let handshake = async {
        let mut first = [0_u8; 1];
        let seen = tcp.peek(&mut first).await.map_err(HandshakeError::Io)?;
        if seen == 0 {
            let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(HandshakeError::Io(gone));
        }
        if first[0] != HANDSHAKE_RECORD {
            return Err(HandshakeError::NotTls);
        }
        TlsAcceptor::from(epoch.server_config())
            .accept(tcp)
            .await
            .map_err(HandshakeError::from_io)
    };
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| HandshakeError::Timeout(timeout))??;

    let (_, session) = stream.get_ref();
    check_alpn(session.alpn_protocol())?;
    let peer_chain = PeerChain::of(session.peer_certificates().unwrap_or_default());
    let leaf = leaf(session.peer_certificates())?;
    let peer = identity_of(leaf)?;
    let peer_not_after = not_after_of(leaf).unwrap_or(SystemTime::UNIX_EPOCH);
    let peer_certificate = Arc::from(leaf.as_ref());
    Ok(Accepted {
        io: ServerStream(Box::new(stream)),
        peer,
        peer_certificate,
        peer_not_after,
        peer_chain,
    })
}

/// Connects as the epoch's identity over `io`: TLS 1.3, ALPN `h2`, no SNI, no resumption. The
/// server must chain to the mesh roots and be exactly one of `expected`.
///
/// There is no deadline in here; the caller's covers TCP, TLS and HTTP/2 together.
pub async fn connect<IO>(
    epoch: &Epoch,
    io: IO,
    expected: &[Identity],
) -> Result<ClientStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = epoch
        .client_config(expected)
        .map_err(HandshakeError::NotReady)?;
    connect_with(config, io).await
}

/// Connects as the epoch's identity to whoever answers, if the mesh roots vouch for him. For tools
/// that are told an address by their user; the data path knows whom it means to reach and calls
/// [`connect`].
pub async fn connect_to_any<IO>(epoch: &Epoch, io: IO) -> Result<ClientStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = epoch
        .build_client_config(None)
        .map_err(HandshakeError::NotReady)?;
    connect_with(config, io).await
}

async fn connect_with<IO>(
    config: Arc<ClientConfig>,
    io: IO,
) -> Result<ClientStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // rustls wants a name; it is neither sent (no SNI) nor looked at (the verifier knows the identity).
    let unnamed = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
    let stream = TlsConnector::from(config)
        .connect(unnamed, io)
        .await
        .map_err(HandshakeError::from_io)?;
    check_alpn(stream.get_ref().1.alpn_protocol())?;
    Ok(ClientStream(Box::new(stream)))
}

/// The server's end of an encrypted mesh connection.
// Boxed, both: a session has more than a kilobyte, and each future it is handed to would keep room for it.
#[derive(Debug)]
pub struct ServerStream<IO = TcpStream>(Box<server::TlsStream<IO>>);

/// The client's end of an encrypted connection.
#[derive(Debug)]
pub struct ClientStream<IO = TcpStream>(Box<client::TlsStream<IO>>);

impl<IO> ServerStream<IO> {
    /// The transport below, for its addresses and socket options.
    #[must_use]
    pub fn transport(&self) -> &IO {
        self.0.get_ref().0
    }
}

impl<IO> ClientStream<IO> {
    pub(crate) fn new(stream: client::TlsStream<IO>) -> Self {
        Self(Box::new(stream))
    }

    /// The transport below, for its addresses and socket options.
    #[must_use]
    pub fn transport(&self) -> &IO {
        self.0.get_ref().0
    }
}

macro_rules! forward_io {
    ($stream:ident) => {
        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for $stream<IO> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut *self.0).poll_read(cx, buf)
            }
        }

        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for $stream<IO> {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut *self.0).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.0.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut *self.0).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut *self.0).poll_shutdown(cx)
            }
        }
    };
}

forward_io!(ServerStream);
forward_io!(ClientStream);

/// rustls lets a peer through that offers no protocol at all; HBONE does not.
fn check_alpn(negotiated: Option<&[u8]>) -> Result<(), HandshakeError> {
    match negotiated {
        Some(ALPN_H2) => Ok(()),
        _ => Err(HandshakeError::Alpn),
    }
}

fn leaf<'a>(
    chain: Option<&'a [CertificateDer<'static>]>,
) -> Result<&'a CertificateDer<'static>, HandshakeError> {
    chain
        .and_then(<[_]>::first)
        .ok_or(HandshakeError::NoCertificate)
}
