//! Requests and who sends them: paths, authorities, raw heads, targets of tunnels, identities.

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use wayline_hbone::{ProxyHeader, TunnelAuthority};
use wayline_model::request::{Authority, PathNormalization, forwarded_client};
use wayline_model::{CanonicalRequest, Identity, Snapshot};
use wayline_proxy::decisions;
use wayline_proxy::fuzzing::{self, Framing};

/// The canonicaliser: the first byte chooses the mode, the rest is path and query as sent.
pub fn path(data: &[u8]) {
    let Some((mode, sent)) = data.split_first() else {
        return;
    };
    let mode = match mode % 4 {
        0 => PathNormalization::None,
        1 => PathNormalization::Base,
        2 => PathNormalization::MergeSlashes,
        _ => PathNormalization::DecodeAndMergeSlashes,
    };
    let Some(request) = canonical(sent, mode) else {
        return;
    };
    let path = request.path();
    if path == "*" {
        return;
    }
    assert!(path.starts_with('/'), "{path}");
    assert!(
        !path.contains("%00") && !path.contains(['?', '#']),
        "{path}"
    );
    let again = canonical(request.path.as_str().as_bytes(), mode);
    let again = again.unwrap_or_else(|| panic!("{} has no reading", request.path));
    assert_eq!(again.path, request.path, "normalised twice");
    if mode == PathNormalization::None {
        return;
    }
    for segment in path.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        assert!(!matches!(name, "." | ".."), "{path}");
    }
    assert!(!path.contains('\\'), "{path}");
    assert!(
        mode == PathNormalization::Base || !path.contains("//"),
        "{path}"
    );
    if mode == PathNormalization::DecodeAndMergeSlashes {
        let lower = path.to_ascii_lowercase();
        assert!(!lower.contains("%2f") && !lower.contains("%5c"), "{path}");
    }
}

fn canonical(sent: &[u8], mode: PathNormalization) -> Option<CanonicalRequest> {
    let uri: Uri = Uri::builder().path_and_query(sent).build().ok()?;
    let mut headers = HeaderMap::new();
    headers.insert(http::header::HOST, HeaderValue::from_static("a"));
    CanonicalRequest::new(Method::GET, &uri, Version::HTTP_11, headers, mode).ok()
}

/// `Host` and `:authority`.
pub fn authority(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let Ok(authority) = Authority::parse(value) else {
        return;
    };
    let text = authority.as_str();
    assert_eq!(text.as_bytes(), data);
    assert!(text.is_ascii() && text.len() <= 261);
    let host = authority.host();
    assert!(!host.is_empty() && text.starts_with(host), "{text}");
    assert!(
        !text.contains(['@', '/', ',', ' ', '?', '#', '\\', '%']),
        "{text}"
    );
    match text[host.len()..].strip_prefix(':') {
        Some(port) => assert_eq!(port.parse().ok(), authority.port(), "{text}"),
        None => assert_eq!((text.len(), authority.port()), (host.len(), None), "{text}"),
    }
    assert!(!host.contains(':') || host.starts_with('['), "{text}");
}

/// `x-forwarded-for`: the first byte is the number of trusted proxies, lines end with a line feed.
pub fn forwarded(data: &[u8]) {
    let Some((hops, lines)) = data.split_first() else {
        return;
    };
    let hops = u32::from(*hops % 8);
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return;
        };
        headers.append("x-forwarded-for", value);
    }
    let found = forwarded_client(&headers, hops);
    assert!(hops > 0 || found.is_none(), "nobody is trusted");
    // Whatever a client puts before it changes nothing, once that one is known.
    let mut spoofed = HeaderMap::new();
    spoofed.append("x-forwarded-for", HeaderValue::from_static("192.0.2.1, x"));
    for line in headers.get_all("x-forwarded-for") {
        spoofed.append("x-forwarded-for", line.clone());
    }
    if let Some(address) = found {
        assert_eq!(forwarded_client(&spoofed, hops), Some(address));
        assert_eq!(address, address.to_canonical());
    }
}

/// The PROXY protocol header in front of a connection that a ztunnel hands over.
pub fn proxy_header(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
    }
    let mut rest = data;
    let patience = std::time::Duration::from_secs(5);
    let read = RUNTIME.with(|runtime| runtime.block_on(ProxyHeader::read(&mut rest, patience)));
    let Ok(header) = read else {
        return;
    };
    // It took what the length says, and not a byte more.
    let length = usize::from(u16::from_be_bytes([data[14], data[15]]));
    assert_eq!(data.len() - rest.len(), 16 + length);
    assert_eq!(data[12..13], [0x21], "version 2, PROXY");
    assert_eq!(header.source.is_ipv4(), header.destination.is_ipv4());
    for address in [header.source.ip(), header.destination.ip()] {
        assert_eq!(address, address.to_canonical());
    }
}

/// The head of an HTTP/1 request, as it comes from the socket.
pub fn head(data: &[u8]) {
    let reading = fuzzing::head(data);
    let Ok(Some(head)) = reading else {
        return;
    };
    let whole = &data[..head.length];
    assert!(whole.ends_with(b"\r\n\r\n"));
    // What comes behind it changes nothing, and no part of it is a head.
    assert_eq!(fuzzing::head(whole), Ok(Some(head)));
    assert_eq!(fuzzing::head(&whole[..whole.len() - 1]), Ok(None));
    // A naive reader finds the same.
    let mut lines = whole.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap();
    let (mut hosts, mut lengths, mut codings) = (0, Vec::new(), 0);
    for line in lines {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let Some((name, value)) = line.trim_end_matches('\r').split_once(':') else {
            continue;
        };
        match name {
            "host" => hosts += 1,
            "content-length" => lengths.push(value.trim().parse::<u64>().unwrap()),
            "transfer-encoding" => codings += 1,
            _ => {}
        }
    }
    let framing = match (&lengths[..], codings) {
        ([], 0) => Framing::None,
        ([length], 0) => Framing::Length(*length),
        ([], 1) => Framing::Chunked,
        other => panic!("ambiguous: {other:?}"),
    };
    assert_eq!(head.framing, framing);
    assert!(hosts == 1 || (hosts == 0 && first.ends_with(b"HTTP/1.0\r")));
}

/// The authority of a CONNECT.
pub fn tunnel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(authority) = TunnelAuthority::parse(text) else {
        return;
    };
    assert_ne!(authority.port(), 0);
    let written = authority.to_string();
    assert_eq!(
        TunnelAuthority::parse(&written).unwrap(),
        authority,
        "{text}"
    );
    // Nobody is served by a snapshot that knows nobody.
    assert!(decisions::tunnel_target(&Snapshot::default(), &authority).is_err());
}

/// The URI name of a certificate.
pub fn identity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(identity) = text.parse::<Identity>() else {
        return;
    };
    assert_eq!(identity.uri(), text, "there is one way to write it");
    let parts: Vec<&str> = identity.principal().split('/').collect();
    let [domain, "ns", namespace, "sa", account] = parts[..] else {
        panic!("{text}");
    };
    assert_eq!(domain, identity.trust_domain().as_str());
    assert_eq!(namespace, identity.namespace());
    assert_eq!(account, identity.service_account());
    assert!(text.is_ascii() && text.len() <= 2048);
    assert!(![domain, namespace, account].contains(&""), "{text}");
}
