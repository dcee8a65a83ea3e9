//! Certificates that were taken back are not taken.

use std::time::SystemTime;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use wayline_tls::{CertificateStore, DEFAULT_LIFETIME, DevCa, PemBundle, accept, connect_to_any};

use crate::support::{CLIENT, SERVER, identity, tcp_pair};

/// A list by the issuer of a certificate, which names that certificate.
fn list_of(certificate: &[u8]) -> Vec<u8> {
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    // The issuer's name is all that ties the list to it.
    let name = parsed.issuer();
    let mut named = DistinguishedName::new();
    for part in name.iter_organization() {
        named.push(rcgen::DnType::OrganizationName, part.as_str().unwrap());
    }
    for part in name.iter_common_name() {
        named.push(rcgen::DnType::CommonName, part.as_str().unwrap());
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = named;
    let issuer = Issuer::new(params, KeyPair::generate().unwrap());
    let now = SystemTime::now();
    let list = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + DEFAULT_LIFETIME).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(parsed.raw_serial()),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap().into_bytes()
}

async fn taken(server: &CertificateStore, client: &CertificateStore) -> Result<(), &'static str> {
    let (dialled, accepted) = tcp_pair().await;
    let epoch = client.current().unwrap();
    let (served, _) = tokio::join!(
        accept(server, accepted, DEFAULT_LIFETIME),
        connect_to_any(&epoch, dialled)
    );
    served.map(drop).map_err(|error| error.reason())
}

#[tokio::test]
async fn a_certificate_that_was_taken_back_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::open_or_create(dir.path()).unwrap();
    let bundle = |uri| ca.issue(&identity(uri), DEFAULT_LIFETIME).unwrap().bundle();
    let (ours, theirs, others) = (bundle(SERVER), bundle(CLIENT), bundle(CLIENT));
    let store = |bundle: &PemBundle| {
        let store = CertificateStore::new();
        store.replace(bundle.clone()).unwrap();
        store
    };
    let server = store(&ours);
    let (client, other) = (store(&theirs), store(&others));
    assert_eq!(taken(&server, &client).await, Ok(()));

    let with_list = PemBundle {
        crl: list_of(&theirs.cert_chain),
        ..ours.clone()
    };
    server.replace(with_list.clone()).unwrap();
    assert_eq!(taken(&server, &client).await, Err("revoked"));
    assert_eq!(taken(&server, &other).await, Ok(()));

    // A list that can not be read leaves the last good one in force.
    let broken = PemBundle {
        crl: b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_vec(),
        ..ours.clone()
    };
    assert!(server.replace(broken).is_err());
    assert_eq!(taken(&server, &client).await, Err("revoked"));

    // Nor is a certificate of ours put to use that was taken back.
    let own = PemBundle {
        crl: list_of(&ours.cert_chain),
        ..ours
    };
    assert!(server.replace(own).is_err());
}
