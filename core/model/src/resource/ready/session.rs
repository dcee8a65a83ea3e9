//! Session persistence of a rule as a ready value.

use http::HeaderName;

use super::Problem;
use super::reliability::duration;
use crate::resource::http_route::{
    CookieLifetime, HttpRouteRule, HttpSessionPersistence, PathMatchType, SessionCarrier,
};
use crate::route::{Carrier, SessionPersistence};

/// How a rule keeps its sessions; `route` makes a name where it gives none.
pub(crate) fn session(
    rule: &HttpRouteRule,
    route: &str,
) -> Result<Option<SessionPersistence>, Problem> {
    let Some(written) = &rule.session_persistence else {
        return Ok(None);
    };
    read(written, rule, route)
        .map(Some)
        .map_err(|problem| problem.below("sessionPersistence"))
}

fn read(
    written: &HttpSessionPersistence,
    rule: &HttpRouteRule,
    route: &str,
) -> Result<SessionPersistence, Problem> {
    let limit = |text: &Option<String>, at: &str| match text {
        Some(text) => duration(text, at).map(Some),
        None => Ok(None),
    };
    let absolute = limit(&written.absolute_timeout, "absoluteTimeout")?;
    let idle = limit(&written.idle_timeout, "idleTimeout")?;
    let made;
    let name = match written.session_name.as_deref() {
        Some(name) if !name.is_empty() => name,
        _ => {
            made = format!("wayline-session-{}", route.replace(['.', '/'], "-"));
            &made
        }
    };
    // The names of cookies and those of headers are tokens alike.
    let header = HeaderName::from_bytes(name.as_bytes()).ok();
    let Some(header) = header.filter(|_| name.len() <= MAX_NAME) else {
        return Err(Problem::new(
            "sessionName",
            format!("`{name}` is no name of a cookie or header"),
        ));
    };
    let carrier = match written.kind {
        SessionCarrier::Header => Carrier::Header(header),
        SessionCarrier::Cookie => Carrier::Cookie {
            name: name.into(),
            path: cookie_path(rule).into(),
            max_age: match (written.cookie_config.lifetime_type, absolute) {
                (CookieLifetime::Session, _) => None,
                (CookieLifetime::Permanent, Some(absolute)) => Some(absolute),
                (CookieLifetime::Permanent, None) => {
                    return Err(Problem::new(
                        "absoluteTimeout",
                        "a permanent cookie needs one",
                    ));
                }
            },
        },
    };
    Ok(SessionPersistence {
        carrier,
        absolute: absolute.filter(|limit| !limit.is_zero()),
        idle: idle.filter(|limit| !limit.is_zero()),
    })
}

/// The Gateway API's limit.
const MAX_NAME: usize = 128;

/// The path of the only match, where it is one that a cookie can name (GEP-1619).
fn cookie_path(rule: &HttpRouteRule) -> &str {
    let [only] = &rule.matches[..] else {
        return "/";
    };
    match &only.path {
        Some(path)
            if path.kind != PathMatchType::RegularExpression
                && path
                    .value
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b';') =>
        {
            &path.value
        }
        _ => "/",
    }
}
