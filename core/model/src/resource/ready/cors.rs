//! CORS filters as ready values.

use http::Uri;
use http::header::HeaderValue;

use super::{Problem, header_name, known_method};
use crate::resource::http_route::HttpCors;
use crate::route::{Cors, Grant, OriginMatch};

/// The Gateway API's default.
const DEFAULT_MAX_AGE: u32 = 5;

/// What a CORS filter grants.
pub(super) fn cors(written: &HttpCors) -> Result<Cors, Problem> {
    let mut origins = Vec::with_capacity(written.allow_origins.len());
    for (o, text) in written.allow_origins.iter().enumerate() {
        origins.push(origin(text).ok_or_else(|| {
            Problem::new(
                format!("allowOrigins[{o}]"),
                format!("`{text}` is not *, and not scheme://host[:port] with perhaps *. before the host"),
            )
        })?);
    }
    if origins.len() > 1 && origins.contains(&OriginMatch::Any) {
        return Err(Problem::new("allowOrigins", "* stands alone"));
    }
    let max_age = written.max_age.unwrap_or(DEFAULT_MAX_AGE);
    if max_age == 0 {
        return Err(Problem::new("maxAge", "must be at least 1"));
    }
    let names = |text: &str| header_name(text).map(drop);
    let expose = match list(&written.expose_headers, "exposeHeaders", names)? {
        Grant::Nothing => None,
        Grant::Any => Some(HeaderValue::from_static("*")),
        Grant::List(list) => Some(list),
    };
    Ok(Cors {
        origins,
        credentials: written.allow_credentials.unwrap_or_default(),
        methods: list(&written.allow_methods, "allowMethods", |text| {
            known_method(text).map(drop)
        })?,
        headers: list(&written.allow_headers, "allowHeaders", names)?,
        expose,
        max_age,
    })
}

fn list(
    written: &[String],
    field: &str,
    check: impl Fn(&str) -> Result<(), Problem>,
) -> Result<Grant, Problem> {
    match written {
        [] => return Ok(Grant::Nothing),
        [only] if only == "*" => return Ok(Grant::Any),
        _ => {}
    }
    for (i, text) in written.iter().enumerate() {
        check(text).map_err(|problem| Problem::new(format!("{field}[{i}]"), problem.reason))?;
    }
    let joined = written.join(", ");
    HeaderValue::from_str(&joined)
        .map(Grant::List)
        .map_err(|_| Problem::new(field, "no header may hold these characters"))
}

fn origin(text: &str) -> Option<OriginMatch> {
    if text == "*" {
        return Some(OriginMatch::Any);
    }
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://")?;
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let rest = rest
        .strip_suffix(default)
        .filter(|host| !host.ends_with(']') || !default.is_empty())
        .unwrap_or(rest);
    let (wild, host) = match rest.strip_prefix('*') {
        // `*`, `*:8443` and `*.host`; in `*host` the wildcard would split a label.
        Some(host) if host.is_empty() || host.starts_with(['.', ':']) => (true, host),
        Some(_) => return None,
        None => (false, rest),
    };
    let sample = if wild {
        format!("x{host}")
    } else {
        host.to_owned()
    };
    let uri: Uri = format!("{scheme}://{sample}").parse().ok()?;
    let authority = uri.authority()?;
    let whole = authority.as_str() == sample && uri.path() == "/" && uri.query().is_none();
    if !whole || sample.contains(['*', '@']) {
        return None;
    }
    Some(if wild {
        OriginMatch::Hosts {
            prefix: format!("{scheme}://").into(),
            suffix: host.into(),
        }
    } else {
        OriginMatch::Exact(format!("{scheme}://{host}").into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_strictly() {
        let exact = |text: &str| Some(OriginMatch::Exact(text.into()));
        let hosts = |prefix: &str, suffix: &str| {
            Some(OriginMatch::Hosts {
                prefix: prefix.into(),
                suffix: suffix.into(),
            })
        };
        assert_eq!(origin("*"), Some(OriginMatch::Any));
        assert_eq!(origin("https://A.example:443"), exact("https://a.example"));
        assert_eq!(
            origin("http://a.example:443"),
            exact("http://a.example:443")
        );
        assert_eq!(origin("https://[::1]:8443"), exact("https://[::1]:8443"));
        assert_eq!(
            origin("https://*.a.example"),
            hosts("https://", ".a.example")
        );
        assert_eq!(origin("https://*:8443"), hosts("https://", ":8443"));
        assert_eq!(origin("https://*"), hosts("https://", ""));
        for refused in [
            "",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://a.example?x",
            "https://u@a.example",
            "https://*a.example",
            "https://a.*.example",
            "https://*.*.example",
            "*://a.example",
        ] {
            assert_eq!(origin(refused), None, "{refused}");
        }
    }
}
