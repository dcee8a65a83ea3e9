//! Certificates taken back: the revocation lists of an identity folder.
//!
//! A list is believed because it lies beside the roots, which are believed for the same reason; it needs no
//! signature, and says nothing of issuers it is not from. A list that can not be read makes the whole
//! bundle unusable, so that the last good one stays in force.

use std::collections::{HashMap, HashSet};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::error::CredentialError;
use crate::files::CRL_FILE;

/// As much of a peer's certificates as it takes to find out later whether one was taken back.
#[derive(Clone, Debug, Default)]
pub struct PeerChain(Box<[Numbered]>);

/// What tells a certificate from all others.
#[derive(Clone, Debug)]
struct Numbered {
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
}

impl PeerChain {
    /// Of certificates that a handshake found good.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Self {
        let numbered = |certificate: &CertificateDer<'_>| {
            let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
            Some(Numbered {
                issuer: parsed.issuer().as_raw().into(),
                serial: parsed.raw_serial().into(),
            })
        };
        Self(chain.iter().filter_map(numbered).collect())
    }
}

/// Serial numbers by the issuer that gave them, as both are encoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revoked(HashMap<Vec<u8>, HashSet<Vec<u8>>>);

impl Revoked {
    /// Reads the lists of a PEM text; an empty text holds none.
    pub(crate) fn read(pem: &[u8]) -> Result<Self, CredentialError> {
        let malformed = |reason: String| CredentialError::Malformed {
            file: CRL_FILE,
            reason,
            expected: "BEGIN X509 CRL",
        };
        let mut revoked = Self::default();
        if pem.trim_ascii().is_empty() {
            return Ok(revoked);
        }
        let mut lists = 0;
        for list in CertificateRevocationListDer::pem_slice_iter(pem) {
            let list = list.map_err(|error| malformed(error.to_string()))?;
            let (_, list) =
                x509_parser::parse_x509_crl(&list).map_err(|error| malformed(error.to_string()))?;
            let serials = revoked
                .0
                .entry(list.issuer().as_raw().to_vec())
                .or_default();
            serials.extend(
                list.iter_revoked_certificates()
                    .map(|entry| entry.raw_serial().to_vec()),
            );
            lists += 1;
        }
        if lists == 0 {
            return Err(malformed("holds no revocation list".to_owned()));
        }
        Ok(revoked)
    }

    /// Whether one of a peer's certificates was taken back since.
    pub(crate) fn contains_any(&self, chain: &PeerChain) -> bool {
        chain.0.iter().any(|it| {
            let serials = self.0.get(&*it.issuer);
            serials.is_some_and(|serials| serials.contains(&*it.serial))
        })
    }

    /// Whether a certificate was taken back.
    pub(crate) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        // What can not be read does not pass other checks either.
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return true;
        };
        let serials = self.0.get(parsed.issuer().as_raw());
        serials.is_some_and(|serials| serials.contains(parsed.raw_serial()))
    }
}
