//! What Envoy tells modules of a peer's certificate.
//!
//! Refuses to judge: whoever hands a certificate in has verified it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};

/// The subject as RFC 2253 writes it: the last part first.
pub(crate) fn subject(certificate: &[u8]) -> Option<String> {
    let parsed = parse(certificate)?;
    let mut parts: Vec<String> = Vec::new();
    for part in parsed.subject().iter_rdn() {
        let attributes = part.iter().map(|attribute| {
            let kind = attribute.attr_type();
            let name = oid2abbrev(kind, oid_registry())
                .map_or_else(|_| kind.to_id_string(), str::to_owned);
            format!("{name}={}", escaped(attribute.as_str().unwrap_or_default()))
        });
        parts.push(attributes.collect::<Vec<_>>().join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// The first DNS name.
pub(crate) fn dns_name(certificate: &[u8]) -> Option<String> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
}

/// SHA-256 of it, in hexadecimal digits.
pub(crate) fn digest(certificate: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(certificate) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// PEM, fit for a header: with what URLs reserve escaped.
pub(crate) fn pem(certificate: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(certificate);
    let mut text = "-----BEGIN%20CERTIFICATE-----%0A".to_owned();
    for (index, c) in encoded.char_indices() {
        if index > 0 && index % 64 == 0 {
            text.push_str("%0A");
        }
        match c {
            '+' => text.push_str("%2B"),
            '/' => text.push_str("%2F"),
            '=' => text.push_str("%3D"),
            c => text.push(c),
        }
    }
    text.push_str("%0A-----END%20CERTIFICATE-----%0A");
    text
}

fn parse(certificate: &[u8]) -> Option<X509Certificate<'_>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed)
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}
