//! The files of an identity folder: `cert-chain.pem`, `key.pem`, `root-cert.pem`, and `crl.pem` where
//! certificates were taken back.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use crate::error::CredentialError;

/// Our certificate first, then its intermediates.
pub const CERT_CHAIN_FILE: &str = "cert-chain.pem";
/// The private key of our certificate.
pub const KEY_FILE: &str = "key.pem";
/// The roots of the mesh, one or more.
pub const ROOT_CERT_FILE: &str = "root-cert.pem";

/// Revocation lists of the roots' certificates; may be missing.
pub const CRL_FILE: &str = "crl.pem";

/// How often a folder is read again when it changed while being read.
const READ_ATTEMPTS: usize = 3;

/// The PEM texts an identity consists of.
#[derive(Clone, Eq, PartialEq)]
pub struct PemBundle {
    /// Our certificate, then its intermediates.
    pub cert_chain: Vec<u8>,
    /// The private key (PKCS#8, SEC1 or PKCS#1).
    pub key: Vec<u8>,
    /// The roots that vouch for peers.
    pub root_cert: Vec<u8>,
    /// Certificates that were taken back; empty where there is no such list.
    pub crl: Vec<u8>,
}

impl PemBundle {
    /// Reads the files of `dir`. A folder that changes meanwhile is read again, so that a
    /// rotation by symlink swap does not yield the key of one epoch and the chain of another.
    pub fn read(dir: &Path) -> Result<Self, CredentialError> {
        let mut bundle = Self::read_once(dir)?;
        for _ in 1..READ_ATTEMPTS {
            let again = Self::read_once(dir)?;
            if again == bundle {
                break;
            }
            bundle = again;
        }
        Ok(bundle)
    }

    fn read_once(dir: &Path) -> Result<Self, CredentialError> {
        Ok(Self {
            cert_chain: read_file(dir, CERT_CHAIN_FILE)?,
            key: read_file(dir, KEY_FILE)?,
            root_cert: read_file(dir, ROOT_CERT_FILE)?,
            crl: match read_file(dir, CRL_FILE) {
                Err(CredentialError::Missing(_)) => Vec::new(),
                read => read?,
            },
        })
    }
}

/// Shows sizes only: the bundle holds a private key.
impl fmt::Debug for PemBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemBundle")
            .field("cert_chain_bytes", &self.cert_chain.len())
            .field("root_cert_bytes", &self.root_cert.len())
            .finish_non_exhaustive()
    }
}

/// Who may read a file that is being written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Mode 0600, for private keys.
    OwnerOnly,
    /// Mode 0644, for certificates.
    Everyone,
}

/// Puts a file in place in one step: written and synced beside its place, then renamed over it.
pub(crate) fn write_atomically(
    dir: &Path,
    name: &str,
    content: &[u8],
    access: Access,
) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".wayline-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = match access {
            Access::OwnerOnly => 0o600,
            Access::Everyone => 0o644,
        };
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(dir.join(name)).map_err(|e| e.error)?;
    Ok(())
}

fn read_file(dir: &Path, name: &str) -> Result<Vec<u8>, CredentialError> {
    let path = dir.join(name);
    fs::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CredentialError::Missing(path),
        _ => CredentialError::Unreadable {
            path,
            source: Arc::new(source),
        },
    })
}
