//! A certificate authority for laptops, tests and the demo: a folder with `root-cert.pem` and
//! `ca-key.pem`. Never meant for a mesh that anybody depends on.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use wayline_model::Identity;

use crate::files::{
    Access, CERT_CHAIN_FILE, KEY_FILE, PemBundle, ROOT_CERT_FILE, write_atomically,
};

/// How long issued certificates live unless said otherwise.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The CA's private key, mode 0600, beside `root-cert.pem`.
const CA_KEY_FILE: &str = "ca-key.pem";

/// Ten years: a development root that expires only teaches people to ignore expiry.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates begin this much in the past, so that a clock slightly behind accepts them.
const BACKDATED: Duration = Duration::from_secs(60);

/// A development CA, opened from its folder.
pub struct DevCa {
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

/// A certificate fresh from the CA, with what its holder needs.
#[derive(Clone)]
pub struct IssuedCertificate {
    /// The certificate.
    pub chain_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: String,
    /// The root that signed it.
    pub root_pem: String,
}

/// Why a development CA could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DevCaError {
    /// The folder holds other things, and not both CA files.
    #[error("{}: is not empty and holds no CA ({missing} is missing); name an empty or new folder, or one made by --dev-ca", dir.display())]
    NotACa {
        /// The folder.
        dir: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A CA file does not hold what it should.
    #[error("{}: {reason}; delete the folder to have a new CA made", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("{}: cannot {action}: {source}; check that the folder is writable and not a mount point", path.display())]
    Io {
        /// What was tried, e.g. `create the CA folder`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}; this is a defect of Wayline, please report it")]
    Generate(#[from] rcgen::Error),
}

impl DevCa {
    /// Opens the CA in `dir`, or makes one there when `dir` is missing or empty.
    ///
    /// A new CA appears in one step (a finished folder is renamed into place), so that processes
    /// started at the same time all end up with the same one.
    pub fn open_or_create(dir: &Path) -> Result<Self, DevCaError> {
        if is_missing_or_empty(dir)? {
            create(dir)?;
        }
        Self::open(dir)
    }

    /// Opens the CA in `dir`.
    pub fn open(dir: &Path) -> Result<Self, DevCaError> {
        let root_pem = read(dir, ROOT_CERT_FILE)?;
        let key_pem = read(dir, CA_KEY_FILE)?;
        let malformed = |file: &str, reason: String| DevCaError::Malformed {
            path: dir.join(file),
            reason,
        };
        let key = KeyPair::from_pem(&key_pem).map_err(|e| malformed(CA_KEY_FILE, e.to_string()))?;
        let (_, block) = x509_parser::pem::parse_x509_pem(root_pem.as_bytes())
            .map_err(|e| malformed(ROOT_CERT_FILE, e.to_string()))?;
        let root = block
            .parse_x509()
            .map_err(|e| malformed(ROOT_CERT_FILE, e.to_string()))?;
        if *root.public_key().subject_public_key.data != *key.public_key_raw() {
            let reason = "does not belong to root-cert.pem".to_owned();
            return Err(malformed(CA_KEY_FILE, reason));
        }
        let ends = u64::try_from(root.validity().not_after.timestamp()).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key)
            .map_err(|e| malformed(ROOT_CERT_FILE, e.to_string()))?;
        Ok(Self {
            root_pem,
            issuer,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
        })
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Signs a certificate for `identity` with a fresh ECDSA P-256 key, good as client and as
    /// server. It never outlives the root.
    pub fn issue(
        &self,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, DevCaError> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = organisation("Wayline development");
        let uri = Ia5String::try_from(identity.uri())?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;

        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(IssuedCertificate {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            root_pem: self.root_pem.clone(),
        })
    }
}

impl fmt::Debug for DevCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevCa")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl IssuedCertificate {
    /// The certificate as a [`crate::CertificateStore`] takes it.
    #[must_use]
    pub fn bundle(&self) -> PemBundle {
        PemBundle {
            cert_chain: self.chain_pem.clone().into_bytes(),
            key: self.key_pem.clone().into_bytes(),
            root_cert: self.root_pem.clone().into_bytes(),
            crl: Vec::new(),
        }
    }

    /// Writes `root-cert.pem`, `key.pem` (mode 0600) and `cert-chain.pem` into `dir`, making it
    /// if need be. Each file appears whole and the chain last: a reader that comes in between
    /// finds key and chain mismatched, keeps its last good epoch and is woken again.
    pub fn write_to(&self, dir: &Path) -> Result<(), DevCaError> {
        fs::create_dir_all(dir).map_err(io_error("create the folder", dir))?;
        for (name, content, access) in [
            (ROOT_CERT_FILE, &self.root_pem, Access::Everyone),
            (KEY_FILE, &self.key_pem, Access::OwnerOnly),
            (CERT_CHAIN_FILE, &self.chain_pem, Access::Everyone),
        ] {
            write_atomically(dir, name, content.as_bytes(), access)
                .map_err(io_error("write the file", &dir.join(name)))?;
        }
        Ok(())
    }
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("chain_pem", &self.chain_pem)
            .finish_non_exhaustive()
    }
}

fn is_missing_or_empty(dir: &Path) -> Result<bool, DevCaError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(io_error("read the folder", dir)(e)),
    }
}

/// Makes a complete CA folder beside `dir` and renames it there. Somebody else being first is
/// fine: theirs is then used.
fn create(dir: &Path) -> Result<(), DevCaError> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io_error("create the folder", parent))?;
    let staging = tempfile::Builder::new()
        .prefix(".wayline-ca-")
        .tempdir_in(parent)
        .map_err(io_error("create the CA beside", dir))?;

    let (root_pem, key_pem) = generate_root()?;
    for (name, content, access) in [
        (CA_KEY_FILE, key_pem, Access::OwnerOnly),
        (ROOT_CERT_FILE, root_pem, Access::Everyone),
    ] {
        write_atomically(staging.path(), name, content.as_bytes(), access)
            .map_err(io_error("write the CA", &staging.path().join(name)))?;
    }

    // rename(2) replaces a folder only while that is empty: exactly the race we need decided.
    match fs::rename(staging.path(), dir) {
        Ok(()) => {
            let _moved = staging.keep();
            Ok(())
        }
        Err(e) if is_taken(&e) => Ok(()),
        Err(e) => Err(io_error("move the new CA into place", dir)(e)),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

fn generate_root() -> Result<(String, String), DevCaError> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = organisation("Wayline development CA");
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let root = params.self_signed(&key)?;
    Ok((root.pem(), key.serialize_pem()))
}

fn organisation(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, name);
    subject
}

fn read(dir: &Path, file: &'static str) -> Result<String, DevCaError> {
    let path = dir.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(DevCaError::NotACa {
            dir: dir.to_owned(),
            missing: file,
        }),
        Err(e) => Err(io_error("read the file", &path)(e)),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DevCaError {
    let path = path.to_owned();
    move |source| DevCaError::Io {
        action,
        path,
        source,
    }
}
