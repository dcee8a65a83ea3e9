//! Mutual TLS with mesh identities: the only package that names rustls.
//!
//! This room owns certificate *epochs* (one loaded certificate with the TLS configurations built
//! from it), the checks of a peer's SPIFFE identity, the handshakes of the mesh (TLS 1.3, ALPN
//! `h2`, no tickets) and a development CA. It refuses to know what runs inside the encrypted
//! stream, who watches files, and which peer may do what: it says who the peer *is*.
//!
//! The paved path: a [`CertificateStore`] is filled with [`CertificateStore::reload_from`], servers
//! call [`accept`], clients take [`CertificateStore::current`] and call [`connect`]. Servers outside
//! the mesh (registries, key servers) are reached by [`PublicTls`].

mod dev_ca;
mod epoch;
mod error;
mod files;
mod handshake;
mod public;
mod revoked;
mod store;
mod verify;

pub use dev_ca::{DEFAULT_LIFETIME, DevCa, DevCaError, IssuedCertificate};
pub use epoch::Epoch;
pub use error::{CredentialError, HandshakeError};
pub use files::{CERT_CHAIN_FILE, CRL_FILE, KEY_FILE, PemBundle, ROOT_CERT_FILE};
pub use handshake::{Accepted, ClientStream, ServerStream, accept, connect, connect_to_any};
pub use public::{PublicTls, PublicTlsError};
pub use revoked::PeerChain;
pub use store::{CertificateStore, Reload, StoreStatus};
