//! Path normalisation in Istio's modes (MeshConfig `pathNormalization`).
//!
//! What comes out is what is judged, routed, logged and sent: nobody reads the path as it came. Each
//! step runs once, and what comes out normalises to itself: a path in which decoding would uncover a
//! further escape (`%%36%31`) is refused, because a backend that decodes would read another path than
//! the one that was judged. The query is never touched; a fragment never gets this far.

use std::borrow::Cow;

use http::Method;
use http::uri::PathAndQuery;

use super::RequestError;
use crate::defence::stands;

/// MeshConfig `pathNormalization.normalization`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PathNormalization {
    /// As sent, but for the fragment.
    None,
    /// RFC 3986: dot segments, unreserved characters decoded, backslash to slash. Istio's DEFAULT.
    #[default]
    Base,
    /// BASE, then adjacent slashes merged.
    MergeSlashes,
    /// `%2F` and `%5C` decoded, then MERGE_SLASHES.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    fn merges_slashes(self) -> bool {
        matches!(self, Self::MergeSlashes | Self::DecodeAndMergeSlashes)
    }
}

/// Whether a `%` is not followed by two hexadecimal digits. Such a path passes through the mesh as it
/// is; gateways refuse it.
#[must_use]
pub fn has_malformed_escape(path: &str) -> bool {
    let bytes = path.as_bytes();
    memchr::memchr_iter(b'%', bytes).any(|at| escape(&bytes[at..]).is_none())
}

/// The canonical path and query, and those as sent where that differs.
pub(super) fn canonical(
    method: &Method,
    sent: &PathAndQuery,
    mode: PathNormalization,
) -> Result<(PathAndQuery, Option<PathAndQuery>), RequestError> {
    let path = sent.path();
    if path == "*" {
        if *method != Method::OPTIONS {
            return Err(RequestError::Path("`*` is for OPTIONS only"));
        }
        return Ok((sent.clone(), None));
    }
    if !path.starts_with('/') {
        return Err(RequestError::Path("it does not begin with a slash"));
    }
    let normal = normalize(path, mode)?;
    // An absolute URI may have a query and no path (`http://host?q`): it gains its slash here.
    if matches!(normal, Cow::Borrowed(_)) && !sent.as_str().starts_with('?') {
        return Ok((sent.clone(), None));
    }
    let text = match sent.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal.into_owned(),
    };
    let normal = PathAndQuery::try_from(text)
        .map_err(|_| RequestError::Path("it can not be written once normalised"))?;
    Ok((normal, Some(sent.clone())))
}

/// Normalises a path that begins with a slash; borrowed when it is normal already.
fn normalize(path: &str, mode: PathNormalization) -> Result<Cow<'_, str>, RequestError> {
    let scan = scan(path.as_bytes(), mode);
    if scan.nul && stands("nul-in-path") {
        return Err(RequestError::Path("it holds %00"));
    }
    if !scan.abnormal || mode == PathNormalization::None || !stands("path-normalization") {
        return Ok(Cow::Borrowed(path));
    }
    let normal = rewrite(path.as_bytes(), mode);
    if scan.malformed && (has_nul(&normal) || rewrite(&normal, mode) != normal) {
        return Err(RequestError::Path("an escape in it hides another"));
    }
    if normal == path.as_bytes() {
        return Ok(Cow::Borrowed(path));
    }
    String::from_utf8(normal)
        .map(Cow::Owned)
        .map_err(|_| RequestError::Path("it is not UTF-8"))
}

#[derive(Default)]
struct Scan {
    /// `%00` is in it.
    nul: bool,
    /// A `%` that begins no escape is in it.
    malformed: bool,
    /// Something may have to change.
    abnormal: bool,
}

/// One pass without allocation; ordinary paths need no other.
fn scan(path: &[u8], mode: PathNormalization) -> Scan {
    let mut scan = Scan::default();
    let mut previous = 0;
    for (at, &byte) in path.iter().enumerate() {
        match byte {
            b'%' => match escape(&path[at..]) {
                Some(0) => scan.nul = true,
                Some(value) => scan.abnormal |= decodes(value, mode),
                None => scan.malformed = true,
            },
            b'\\' => scan.abnormal = true,
            b'/' if previous == b'/' => scan.abnormal |= mode.merges_slashes(),
            // Only what looks like a dot segment: `/.well-known` is none.
            b'.' if previous == b'/' => {
                scan.abnormal |= matches!(
                    path.get(at + 1),
                    None | Some(b'/' | b'\\' | b'.' | b'%' | b';')
                );
            }
            _ => {}
        }
        previous = byte;
    }
    scan
}

fn rewrite(path: &[u8], mode: PathNormalization) -> Vec<u8> {
    let mut path = remove_dot_segments(&decode(path, mode));
    if mode.merges_slashes() {
        path.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    }
    path
}

fn decode(path: &[u8], mode: PathNormalization) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let mut byte = path[at];
        at += 1;
        if byte == b'%'
            && let Some(value) = escape(&path[at - 1..])
            && decodes(value, mode)
        {
            byte = value;
            at += 2;
        }
        decoded.push(if byte == b'\\' { b'/' } else { byte });
    }
    decoded
}

/// RFC 3986 §5.2.4, for a path that begins with a slash. Empty segments count as segments. Dots with
/// parameters behind (`..;x=1`) are dots, as for Envoy: to servlet containers they are.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(path.len());
    let mut segments = path
        .get(1..)
        .unwrap_or_default()
        .split(|b| *b == b'/')
        .peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let parameters = memchr::memchr(b';', segment).unwrap_or(segment.len());
        match &segment[..parameters] {
            dots @ (b"." | b"..") => {
                if dots.len() == 2 {
                    let parent = memchr::memrchr(b'/', &kept).unwrap_or(0);
                    kept.truncate(parent);
                }
                if is_last {
                    kept.push(b'/');
                }
            }
            _ => {
                kept.push(b'/');
                kept.extend_from_slice(segment);
            }
        }
    }
    kept
}

/// The value of the escape that the bytes begin with.
fn escape(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| {
        let digit = char::from(*bytes.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    Some(digit(1)? << 4 | digit(2)?)
}

/// RFC 3986 §2.3 unreserved characters, and slashes where the mode says so.
fn decodes(value: u8, mode: PathNormalization) -> bool {
    match value {
        b'/' | b'\\' => mode == PathNormalization::DecodeAndMergeSlashes,
        _ => value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~'),
    }
}

fn has_nul(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| escape(&path[at..]) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
    use super::*;
    use crate::random::Random;

    const MODES: [PathNormalization; 4] = [None, Base, MergeSlashes, DecodeAndMergeSlashes];

    fn normal(path: &str, mode: PathNormalization) -> Result<String, RequestError> {
        normalize(path, mode).map(Cow::into_owned)
    }

    /// Path, then what each mode makes of it in the order of `MODES`; `=` means unchanged.
    const TABLE: &[(&str, [&str; 4])] = &[
        ("/", ["=", "=", "=", "="]),
        ("/reviews/1", ["=", "=", "=", "="]),
        ("/.well-known/x", ["=", "=", "=", "="]),
        // P01 to P03: slashes.
        ("//admin", ["=", "=", "/admin", "/admin"]),
        ("/admin//", ["=", "=", "/admin/", "/admin/"]),
        ("/%2fadmin", ["=", "=", "=", "/admin"]),
        ("/%2Fadmin", ["=", "=", "=", "/admin"]),
        ("/x%2f..%2fadmin", ["=", "=", "=", "/admin"]),
        (r"/x\..\admin", ["=", "/admin", "/admin", "/admin"]),
        (r"/x%5c..%5Cadmin", ["=", "=", "=", "/admin"]),
        (r"/a\\b", ["=", "/a//b", "/a/b", "/a/b"]),
        // P04: dot segments.
        ("/x/../admin", ["=", "/admin", "/admin", "/admin"]),
        ("/x/%2e%2E/admin", ["=", "/admin", "/admin", "/admin"]),
        ("/x/.%2e/admin", ["=", "/admin", "/admin", "/admin"]),
        ("/./admin", ["=", "/admin", "/admin", "/admin"]),
        ("/%2e/admin", ["=", "/admin", "/admin", "/admin"]),
        ("/../../admin", ["=", "/admin", "/admin", "/admin"]),
        ("/a/b/..", ["=", "/a/", "/a/", "/a/"]),
        ("/a/b/.", ["=", "/a/b/", "/a/b/", "/a/b/"]),
        ("/..", ["=", "/", "/", "/"]),
        ("/.../admin", ["=", "=", "=", "="]),
        // P10: dots with parameters.
        ("/public/..;/admin", ["=", "/admin", "/admin", "/admin"]),
        ("/public/..;x=1/admin", ["=", "/admin", "/admin", "/admin"]),
        (
            "/public/.;/../admin",
            ["/public/.;/../admin", "/admin", "/admin", "/admin"],
        ),
        ("/public/%2e%2e;/admin", ["=", "/admin", "/admin", "/admin"]),
        ("/a/..;", ["=", "/", "/", "/"]),
        ("/a/.;", ["=", "/a/", "/a/", "/a/"]),
        ("/a/..%3b/b", ["=", "=", "=", "="]),
        ("/a/...;/b", ["=", "=", "=", "="]),
        ("/a;x/b;y", ["=", "=", "=", "="]),
        // P05: the order of steps.
        (
            "/app//../admin",
            ["=", "/app/admin", "/app/admin", "/app/admin"],
        ),
        ("/app//../../admin", ["=", "/admin", "/admin", "/admin"]),
        (
            "/xyz%30..//abc",
            ["=", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"],
        ),
        (
            r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc",
            [
                "=",
                "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
                "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
                "/app/admin/abc",
            ],
        ),
        ("/%c0%2fadmin", ["=", "=", "=", "/%c0/admin"]),
        // P06: decoded once.
        ("/adm%69n", ["=", "/admin", "/admin", "/admin"]),
        (
            "/%41%5a%61%7a%30%39%2d%2e%5f%7e",
            ["=", "/AZaz09-._~", "/AZaz09-._~", "/AZaz09-._~"],
        ),
        ("/%2561dmin", ["=", "=", "=", "="]),
        ("/%252e%252e/admin", ["=", "=", "=", "="]),
        // P08, P10, P11: another path, and it stays one.
        ("/admin%23x", ["=", "=", "=", "="]),
        ("/admin%3fx", ["=", "=", "=", "="]),
        ("/admin;x=1", ["=", "=", "=", "="]),
        ("/Admin", ["=", "=", "=", "="]),
        // P15: malformed and overlong.
        ("/admin%", ["=", "=", "=", "="]),
        ("/%zz", ["=", "=", "=", "="]),
        ("/%u0061dmin", ["=", "=", "=", "="]),
        ("/%c0%ae%c0%ae/admin", ["=", "=", "=", "="]),
        ("/%zz/../admin", ["=", "/admin", "/admin", "/admin"]),
        ("/ä/../ö", ["=", "/ö", "/ö", "/ö"]),
    ];

    #[test]
    fn every_mode_makes_of_a_path_what_istio_does() {
        for (path, expected) in TABLE {
            for (mode, expected) in MODES.into_iter().zip(expected) {
                let expected = if *expected == "=" { path } else { expected };
                let normal = normalize(path, mode).unwrap();
                assert_eq!(normal, *expected, "{path} in mode {mode:?}");
                assert_eq!(
                    matches!(normal, Cow::Borrowed(_)),
                    path == expected,
                    "{path} in mode {mode:?} was copied for nothing"
                );
            }
        }
    }

    #[test]
    fn every_single_escape_is_decoded_or_kept() {
        for value in 1..=0xff_u8 {
            for path in [format!("/admin%{value:02x}"), format!("/admin%{value:02X}")] {
                for mode in MODES {
                    let decoded = match value {
                        _ if mode == None => path.clone(),
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                            format!("/admin{}", char::from(value))
                        }
                        b'/' | b'\\' if mode == DecodeAndMergeSlashes => "/admin/".to_owned(),
                        _ => path.clone(),
                    };
                    assert_eq!(normal(&path, mode).unwrap(), decoded, "{path} {mode:?}");
                }
            }
        }
    }

    #[test]
    fn nul_and_hidden_escapes_are_refused() {
        for mode in MODES {
            for path in ["/admin%00", "/%00", "/a%00b/../c"] {
                assert!(normal(path, mode).is_err(), "{path} passed in {mode:?}");
            }
        }
        for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            for path in ["/%%36%31dmin", "/%6%31dmin", "/%%30%30", "/%2%65%2%65/x"] {
                assert!(normal(path, mode).is_err(), "{path} passed in {mode:?}");
            }
        }
        assert!(normal("/%2%66admin", DecodeAndMergeSlashes).is_err());
    }

    #[test]
    fn malformed_escapes_are_told_apart() {
        for path in ["/%", "/%4", "/%zz", "/%u0061", "/%41%"] {
            assert!(has_malformed_escape(path), "{path}");
        }
        for path in ["/", "/%41", "/%c0%ae", "/%2541"] {
            assert!(!has_malformed_escape(path), "{path}");
        }
    }

    #[test]
    fn normal_paths_stay_normal() {
        let parts = [
            "/", "/", "\\", ".", "..", "%", "%2", "%2e", "%2F", "%5c", "%41", "%25", "%36", "%31",
            "%c0", "a", "2", "e", "f", "5", "ä", ";", "%30",
        ];
        let mut random = Random::new(1);
        let mut refused = 0;
        for case in 0..50_000 {
            let path = format!("/{}", random.some(&parts, 12).concat());
            for mode in MODES {
                let Ok(once) = normal(&path, mode) else {
                    refused += 1;
                    continue;
                };
                assert!(once.starts_with('/'), "case {case}: {path} became {once}");
                let twice = normal(&once, mode);
                assert_eq!(twice.as_ref(), Ok(&once), "case {case}: {path} in {mode:?}");
                if mode == None {
                    assert_eq!(once, path);
                    continue;
                }
                let has_dots = once.split('/').any(|part| matches!(part, "." | ".."));
                assert!(
                    !has_dots && !once.contains('\\'),
                    "case {case}: {path} became {once}"
                );
                if mode.merges_slashes() {
                    assert!(!once.contains("//"), "case {case}: {path} became {once}");
                }
            }
        }
        assert!(refused < 60_000, "the generator makes hardly a valid path");
    }
}
