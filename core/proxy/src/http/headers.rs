//! Headers that the proxy itself adds or takes away.

use bytes::Bytes;
use http::header::{
    CONNECTION, EXPECT, Entry, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use wayline_model::defence::stands;
use wayline_model::snapshot::ProxyRole;

use crate::random::Random;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How long the upstream took to answer, in milliseconds.
pub(crate) const SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");

/// Path and query before a rewrite.
pub(crate) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Makes a request's headers what filters and backends may rely on. `is_believed`: whether a gateway's
/// peer is a proxy that is trusted about how the client came.
pub(crate) fn prepare_request(
    headers: &mut HeaderMap,
    source: &HeaderValue,
    role: ProxyRole,
    is_believed: bool,
    random: &Random,
) {
    // The codec asks the client for its body itself; an upgrade is offered upstream anew by whoever
    // took it from the codec.
    // Nobody but a proxy that terminated the client's TLS may vouch for a certificate.
    static GONE: [HeaderName; 3] = [EXPECT, UPGRADE, CLIENT_CERT];
    match stands("client-cert") {
        true => remove_all(headers, &GONE),
        false => remove_all(headers, &GONE[..2]),
    }
    match role {
        ProxyRole::Gateway => {
            remove_internal(headers);
            append_forwarded_for(headers, source);
            let is_believed = is_believed || !stands("forwarded-proto");
            if !is_believed || !has_protocol(headers) {
                headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
            }
        }
        ProxyRole::Waypoint => {
            headers
                .entry(FORWARDED_PROTO)
                .or_insert(HeaderValue::from_static("http"));
        }
    }
    headers
        .entry(REQUEST_ID)
        .or_insert_with(|| request_id(random));
}

/// Whether a proxy before us says which protocol the client spoke.
fn has_protocol(headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(&FORWARDED_PROTO).iter();
    let first = said.next().map(HeaderValue::as_bytes);
    matches!(first, Some(b"http" | b"https")) && said.next().is_none()
}

/// `x-envoy-*` is what proxies of the mesh tell each other; from outside it is a lie.
fn remove_internal(headers: &mut HeaderMap) {
    let is_internal = |name: &HeaderName| name.as_str().starts_with("x-envoy-");
    if headers.keys().any(is_internal) && stands("internal-headers") {
        let internal: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_internal(name))
            .cloned()
            .collect();
        for name in internal {
            headers.remove(name);
        }
    }
}

/// Drops what belonged to the upstream's connection.
pub(crate) fn prepare_response(headers: &mut HeaderMap) {
    static GONE: [HeaderName; 5] = [
        CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ];
    remove_all(headers, &GONE);
}

/// Removes those of the names that are there, mostly none: looking at the few names of a message costs
/// less than hashing each that is not among them.
fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    let first = |headers: &HeaderMap| headers.keys().find(|name| names.contains(name)).cloned();
    while let Some(name) = first(headers) {
        headers.remove(name);
    }
}

/// The value of `x-forwarded-for` for a client that names nobody before it.
pub(crate) fn forwarded_for(source: std::net::IpAddr) -> HeaderValue {
    HeaderValue::try_from(source.to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("-"))
}

fn append_forwarded_for(headers: &mut HeaderMap, source: &HeaderValue) {
    let mut known = match headers.entry(FORWARDED_FOR) {
        Entry::Vacant(none) => {
            none.insert(source.clone());
            return;
        }
        Entry::Occupied(known) => known,
    };
    let mut chain = Vec::new();
    for value in known.iter() {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(source.as_bytes());
    // Made of parts of header values and an address.
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(chain)) {
        // Not `insert_mult`, which panics where three lines or more are replaced (http 1.5.0).
        known.insert(value);
    }
}

/// A random UUID (RFC 9562 version 4).
fn request_id(random: &Random) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let high = (random.next() & 0xFFFF_FFFF_FFFF_0FFF) | 0x4000;
    let low = (random.next() & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000;
    let mut text = Vec::with_capacity(36);
    for (half, first) in [(high, 0), (low, 16)] {
        for nibble in 0..16 {
            if matches!(first + nibble, 8 | 12 | 16 | 20) {
                text.push(b'-');
            }
            text.push(DIGITS[(half >> (60 - 4 * nibble)) as usize & 0xF]);
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proxies_tell_each_other_is_not_taken_from_outside() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-envoy-original-path",
            "x-envoy-internal",
            "x-forwarded-client-cert",
            "x-other",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let mut inside = headers.clone();
        let source = HeaderValue::from_static("203.0.113.1");
        let random = Random::new();
        prepare_request(&mut headers, &source, ProxyRole::Gateway, false, &random);
        assert!(!headers.contains_key("x-envoy-original-path"));
        assert!(!headers.contains_key("x-envoy-internal"));
        assert!(!headers.contains_key("x-forwarded-client-cert"));
        assert_eq!(headers["x-other"], "v");
        assert_eq!(headers["x-forwarded-for"], "203.0.113.1");

        prepare_request(&mut inside, &source, ProxyRole::Waypoint, false, &random);
        assert!(inside.contains_key("x-envoy-internal"));
        assert!(!inside.contains_key("x-forwarded-client-cert"));
        assert!(!inside.contains_key("x-forwarded-for"));
    }

    #[test]
    fn however_many_lines_a_chain_has_it_becomes_one() {
        for lines in 0..6 {
            let mut headers = HeaderMap::new();
            headers.insert("a", HeaderValue::from_static("a"));
            for _ in 0..lines {
                headers.append("x-forwarded-for", HeaderValue::from_static("1.1.1.1"));
                headers.append("a", HeaderValue::from_static("b"));
            }
            append_forwarded_for(&mut headers, &HeaderValue::from_static("2.2.2.2"));
            let expected = "1.1.1.1, ".repeat(lines) + "2.2.2.2";
            assert_eq!(headers["x-forwarded-for"], expected);
            assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
            assert_eq!(headers.get_all("a").iter().count(), lines + 1);
        }
    }

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let random = Random::new();
        let id = request_id(&random);
        let id = id.to_str().unwrap();
        assert_eq!(id.len(), 36);
        let parts: Vec<&str> = id.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(parts[2].starts_with('4'), "{id}");
        assert!(
            matches!(parts[3].as_bytes()[0], b'8' | b'9' | b'a' | b'b'),
            "{id}"
        );
        assert_ne!(request_id(&random), request_id(&random));
    }
}
