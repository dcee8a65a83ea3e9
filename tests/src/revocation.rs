//! Lists of certificates that were taken back.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};

/// A list (PEM) by the development CA in `ca` that names the certificate in the folder `certificate`.
///
/// # Panics
/// When one of the folders is none.
#[must_use]
#[allow(clippy::unwrap_used, reason = "a test may stop where it stands")]
pub fn list_of(ca: &Path, certificate: &Path) -> String {
    let read = |folder: &Path, file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let key = KeyPair::from_pem(&read(ca, "ca-key.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(ca, "root-cert.pem"), key).unwrap();
    let chain = read(certificate, "cert-chain.pem");
    let (_, block) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
    let serial = block.parse_x509().unwrap().raw_serial().to_vec();
    let now = SystemTime::now();
    let list = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}
