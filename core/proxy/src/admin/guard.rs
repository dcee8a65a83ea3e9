//! Who may ask: the admin port trusts this machine, but not every page a browser on it has open.
//!
//! A page of another site can send requests to 127.0.0.1, and by pointing its own name there
//! (DNS rebinding) it could read the answers, too. Its requests carry its name as Host or Origin.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;

/// Refuses what may come from another site's page; `loopback_only` when the port is bound to a
/// loopback address, where the host asked for must be one as well.
pub(super) fn admit(head: &Parts, loopback_only: bool) -> Result<(), &'static str> {
    let hosts: Vec<&str> = texts(&head.headers, HOST.as_str());
    if loopback_only {
        let asked = head.uri.authority().map(http::uri::Authority::as_str);
        let mut all = hosts.iter().copied().chain(asked).peekable();
        if all.peek().is_none() || !all.all(is_loopback) {
            return Err(
                "this port answers only to requests for localhost: name it so, or forward the port",
            );
        }
    }
    let from = texts(&head.headers, ORIGIN.as_str());
    let from_elsewhere = from.iter().any(|origin| {
        let host = origin.strip_prefix("http://").unwrap_or_default();
        !hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    });
    let site = texts(&head.headers, "sec-fetch-site");
    if from_elsewhere
        || site
            .iter()
            .any(|site| !matches!(*site, "same-origin" | "none"))
    {
        return Err("this port does not answer to pages of other sites");
    }
    Ok(())
}

/// The parameters of the query, then those of a form in the body.
pub(super) fn parameters(head: &Parts, body: &[u8]) -> Vec<(String, String)> {
    let form = texts(&head.headers, CONTENT_TYPE.as_str())
        .iter()
        .any(|kind| kind.starts_with("application/x-www-form-urlencoded"))
        .then(|| std::str::from_utf8(body).ok())
        .flatten();
    [head.uri.query(), form]
        .into_iter()
        .flatten()
        .flat_map(|text| text.trim().split('&'))
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Values that are not text count as one that fits nowhere.
fn texts<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap_or("?")).collect()
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority
            .split_once(':')
            .map_or(authority, |(host, _)| host),
    };
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// `application/x-www-form-urlencoded`; what is malformed stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let escaped = (byte == b'%').then(|| hexadecimal(&bytes[at..])).flatten();
        if escaped.is_some() {
            at += 2;
        }
        decoded.push(match byte {
            b'+' => b' ',
            _ => escaped.unwrap_or(byte),
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hexadecimal(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri("/?a=1&b%20c=%2f+&d&%zz=%4");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_loopback_port_answers_to_loopback_names_only() {
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "localhost.:1",
            "a.localhost",
            "127.0.0.1",
            "127.8.8.8:15000",
            "[::1]:15000",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(admit(&head(&[("host", host)]), true).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:15000",
            "10.0.0.1",
            "[fe80::1]",
            "",
            "[",
        ] {
            assert!(admit(&head(&[("host", host)]), true).is_err(), "{host}");
            assert!(admit(&head(&[("host", host)]), false).is_ok(), "{host}");
        }
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert!(admit(&head(&two), true).is_err());
        assert!(admit(&head(&[]), true).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused_everywhere() {
        let host = ("host", "localhost:15000");
        for (header, fits) in [
            (("origin", "http://localhost:15000"), true),
            (("origin", "http://localhost:3000"), false),
            (("origin", "https://localhost:15000"), false),
            (("origin", "null"), false),
            (("sec-fetch-site", "same-origin"), true),
            (("sec-fetch-site", "none"), true),
            (("sec-fetch-site", "cross-site"), false),
            (("sec-fetch-site", "same-site"), false),
        ] {
            for loopback_only in [false, true] {
                let admitted = admit(&head(&[host, header]), loopback_only).is_ok();
                assert_eq!(admitted, fits, "{header:?}");
            }
        }
    }

    #[test]
    fn parameters_are_decoded_once() {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let query = [
            pair("a", "1"),
            pair("b c", "/ "),
            pair("d", ""),
            pair("%zz", "%4"),
        ];
        assert_eq!(parameters(&head(&[]), b"e=5"), query);
        let with_form = parameters(&head(&[form]), b"e=%255\n");
        assert_eq!(with_form, [&query[..], &[pair("e", "%5")]].concat());
    }
}
