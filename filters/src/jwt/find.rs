//! Where the token of a request is, and taking it away.
//!
//! Whoever sends two tokens hopes that we judge one and the backend reads the other: more than one, in
//! whatever places, is refused.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue};
use wayline_chain::RequestContext;
use wayline_model::CanonicalRequest;
use wayline_model::authentication::TokenLocation;
use wayline_model::defence::stands;

/// The scheme of RFC 6750, which is compared without regard to case.
const BEARER: &str = "Bearer ";

/// A token and where it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    /// The token as sent.
    pub(super) token: String,
    /// The index of its place.
    pub(super) place: usize,
}

/// What the places hold.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Search {
    /// No token.
    None,
    /// Exactly one.
    One(Found),
    /// More than one.
    Several,
}

/// Looks at all places.
pub(super) fn search(places: &[TokenLocation], request: &CanonicalRequest) -> Search {
    let mut found: Option<Found> = None;
    for (place, location) in places.iter().enumerate() {
        let Some(tokens) = tokens(location, request) else {
            return Search::Several;
        };
        for token in tokens {
            if found.is_some() && stands("one-token") {
                return Search::Several;
            }
            found = Some(Found { token, place });
        }
    }
    found.map_or(Search::None, Search::One)
}

/// Takes the token away from its place.
pub(super) fn remove(location: &TokenLocation, context: &mut RequestContext) {
    match location {
        TokenLocation::Header(name, _) => {
            context.headers_mut().remove(name);
        }
        TokenLocation::Param(name) => {
            let Some(query) = context.request().query() else {
                return;
            };
            let rest: Vec<&str> = query
                .split('&')
                .filter(|pair| !is_param(pair, name))
                .collect();
            let rest = rest.join("&");
            context.set_query(Some(&*rest).filter(|rest| !rest.is_empty()));
        }
        TokenLocation::Cookie(name) => remove_cookie(context.headers_mut(), name),
    }
}

/// The tokens of one place; `None` where it is not clear which of several lines counts.
fn tokens(location: &TokenLocation, request: &CanonicalRequest) -> Option<Vec<String>> {
    match location {
        TokenLocation::Header(name, prefix) => of_header(&request.headers, name, prefix),
        TokenLocation::Param(name) => Some(params(request.query(), name).collect()),
        TokenLocation::Cookie(name) => {
            let cookies = cookies(&request.headers).filter(|(key, _)| **key == **name);
            Some(cookies.map(|(_, value)| value.to_owned()).collect())
        }
    }
}

fn of_header(headers: &HeaderMap, name: &HeaderName, prefix: &str) -> Option<Vec<String>> {
    let mut lines = 0;
    let mut found = Vec::new();
    for line in headers.get_all(name) {
        lines += 1;
        // What is not text is no token; the other lines still count.
        let Ok(line) = line.to_str() else { continue };
        found.extend(in_line(line.trim(), prefix));
    }
    if lines > 1 && !found.is_empty() && stands("one-token") {
        return None;
    }
    Some(found)
}

/// The token in one header line.
fn in_line(line: &str, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return (!line.is_empty()).then(|| line.to_owned());
    }
    if prefix == BEARER {
        let scheme = line.get(..BEARER.len() - 1)?;
        let rest = line.get(BEARER.len() - 1..)?;
        let is_bearer =
            scheme.eq_ignore_ascii_case(BEARER.trim_end()) && rest.starts_with([' ', '\t']);
        return is_bearer.then(|| rest.trim().to_owned());
    }
    // As Envoy finds it: anywhere in the value.
    let rest = line.get(line.find(prefix)? + prefix.len()..)?.trim();
    (!rest.is_empty()).then(|| rest.to_owned())
}

fn params<'a>(query: Option<&'a str>, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter(move |pair| is_param(pair, name)).map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        decoded(value).into_owned()
    })
}

fn is_param(pair: &str, name: &str) -> bool {
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    *decoded(key) == *name
}

/// What a form-decoding backend reads.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let escape = (*first == b'%').then(|| behind.get(..2)).flatten();
        let escape = escape.and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim(), value.trim().trim_matches('"')))
        })
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let Ok(text) = line.to_str() else {
            headers.append(COOKIE, line);
            continue;
        };
        let is_other = |pair: &&str| {
            let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
            key.trim() != name
        };
        let rest: Vec<&str> = text.split(';').filter(is_other).map(str::trim).collect();
        if let Ok(rest) = HeaderValue::from_str(&rest.join("; "))
            && !rest.is_empty()
        {
            headers.append(COOKIE, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::AUTHORIZATION;
    use wayline_chain::bench::Request;

    fn default_places() -> Vec<TokenLocation> {
        vec![
            TokenLocation::Header(AUTHORIZATION, BEARER.into()),
            TokenLocation::Param("access_token".into()),
        ]
    }

    fn one(token: &str, place: usize) -> Search {
        Search::One(Found {
            token: token.to_owned(),
            place,
        })
    }

    fn in_headers(values: &[&str]) -> Search {
        let mut request = Request::get("/");
        for value in values {
            request = request.header("authorization", value);
        }
        search(&default_places(), request.context().request())
    }

    #[test]
    fn the_default_places_are_the_bearer_scheme_and_access_token() {
        for (values, expected) in [
            (&["Bearer a.b.c"][..], one("a.b.c", 0)),
            (&["bearer a.b.c"], one("a.b.c", 0)),
            (&["BEARER\ta.b.c"], one("a.b.c", 0)),
            (&["Bearer   a.b.c"], one("a.b.c", 0)),
            (&["Bearer a, Bearer b"], one("a, Bearer b", 0)),
            (&["Bearer a", "Bearer b"], Search::Several),
            (&["Basic x", "Bearer b"], Search::Several),
            (&["Basic x"], Search::None),
            (&["Bearer"], Search::None),
            (&["Bearera.b.c"], Search::None),
            (&[""], Search::None),
            (&[], Search::None),
        ] {
            assert_eq!(in_headers(values), expected, "{values:?}");
        }
        for (path, expected) in [
            ("/?access_token=a.b.c", one("a.b.c", 1)),
            ("/?x=1&access_token=a%2Eb.c&y", one("a.b.c", 1)),
            ("/?access%5Ftoken=a", one("a", 1)),
            ("/?access_token=a&access_token=a", Search::Several),
            ("/?access_token=", one("", 1)),
            ("/?Access_Token=a", Search::None),
            ("/access_token=a", Search::None),
        ] {
            let context = Request::get(path).context();
            assert_eq!(
                search(&default_places(), context.request()),
                expected,
                "{path}"
            );
        }
        let both = Request::get("/?access_token=a").header("authorization", "Bearer a");
        let both = search(&default_places(), both.context().request());
        assert_eq!(both, Search::Several);
    }

    #[test]
    fn prefixes_and_cookies_are_found_where_they_stand() {
        let places = [
            TokenLocation::Header(HeaderName::from_static("x-jwt"), "jwt=".into()),
            TokenLocation::Header(HeaderName::from_static("x-raw"), "".into()),
            TokenLocation::Cookie("session".into()),
        ];
        for (name, value, expected) in [
            ("x-jwt", "jwt=a.b.c", one("a.b.c", 0)),
            ("x-jwt", "id=1; jwt=a.b.c", one("a.b.c", 0)),
            ("x-jwt", "jwt=a.b.c; z", one("a.b.c; z", 0)),
            ("x-jwt", "a.b.c", Search::None),
            ("x-raw", "a b", one("a b", 1)),
            ("cookie", "a=b; session=t.o.k; c=d", one("t.o.k", 2)),
            ("cookie", "session=t; session=u", Search::Several),
            ("cookie", "sessions=t", Search::None),
        ] {
            let request = Request::get("/").header(name, value);
            let found = search(&places, request.context().request());
            assert_eq!(found, expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_token_is_taken_from_its_place_and_the_rest_stays() {
        let mut context = Request::get("/a?x=1&access_token=t&y=2")
            .header("authorization", "Bearer t")
            .header("cookie", "a=b; session=t; c=d")
            .context();
        for place in default_places() {
            remove(&place, &mut context);
        }
        remove(&TokenLocation::Cookie("session".into()), &mut context);
        let request = context.request();
        assert_eq!(request.path.as_str(), "/a?x=1&y=2");
        assert!(!request.headers.contains_key("authorization"));
        assert_eq!(request.headers["cookie"], "a=b; c=d");
        assert!(!context.take_rewritten());

        let mut alone = Request::get("/a?access_token=t")
            .header("cookie", "session=t")
            .context();
        remove(&TokenLocation::Param("access_token".into()), &mut alone);
        remove(&TokenLocation::Cookie("session".into()), &mut alone);
        assert_eq!(alone.request().path.as_str(), "/a");
        assert!(!alone.request().headers.contains_key("cookie"));
    }
}
