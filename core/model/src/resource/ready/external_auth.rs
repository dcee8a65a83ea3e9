//! ExternalAuth filters as ready values (Gateway API, GEP-1494).

use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;

use super::Problem;
use crate::ext_authz::{AuthSettings, CheckBody, CheckProtocol, GrpcCheck, HttpCheck, NameSet};
use crate::resource::http_route::{ExternalAuthProtocol, HttpExternalAuth};

/// How long a check may take. The Gateway API does not say; Istio's 600 s would outlive any client.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that describe the body of the server's answer: said of the request they would be lies.
const OF_THE_ANSWER: &str = "content-";

pub(super) fn settings(written: &HttpExternalAuth) -> Result<AuthSettings, Problem> {
    let is_http = written.protocol == ExternalAuthProtocol::Http;
    if written.grpc.is_some() && is_http {
        return Err(Problem::new(
            "grpc",
            "it says how gRPC is spoken, and the protocol is HTTP",
        ));
    }
    if written.http.is_some() && !is_http {
        return Err(Problem::new(
            "http",
            "it says how HTTP is spoken, and the protocol is GRPC",
        ));
    }
    let max_size = written.forward_body.map_or(0, |body| body.max_size);
    let body = CheckBody {
        max_bytes: max_size.into(),
        allow_partial: false,
        as_bytes: false,
    };
    Ok(AuthSettings {
        protocol: match is_http {
            true => CheckProtocol::Http(Box::new(http(written)?)),
            false => CheckProtocol::Grpc(grpc(written)?),
        },
        timeout: TIMEOUT,
        // "This filter MUST fail closed."
        fail_open: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: (max_size > 0).then_some(body),
    })
}

fn grpc(written: &HttpExternalAuth) -> Result<GrpcCheck, Problem> {
    let config = written.grpc.clone().unwrap_or_default();
    let names = names(&config.allowed_headers, "grpc.allowedHeaders")?;
    Ok(GrpcCheck {
        request_headers: (!config.allowed_headers.is_empty()).then_some(names),
    })
}

fn http(written: &HttpExternalAuth) -> Result<HttpCheck, Problem> {
    let config = written.http.clone().unwrap_or_default();
    let path = config.path.as_str();
    let is_path = path.is_empty()
        || (path.starts_with('/')
            && !path.contains(['?', '#'])
            && !path.contains("//")
            && !path.split('/').any(|it| matches!(it, "." | ".."))
            && path.parse::<http::uri::PathAndQuery>().is_ok());
    if !is_path {
        return Err(Problem::new(
            "http.path",
            "it must be a path that begins with a slash",
        ));
    }
    let to_upstream = match config.allowed_response_headers.is_empty() {
        true => NameSet::all_but(OF_THE_ANSWER),
        false => names(
            &config.allowed_response_headers,
            "http.allowedResponseHeaders",
        )?,
    };
    Ok(HttpCheck {
        path_prefix: path.trim_end_matches('/').into(),
        request_headers: names(&config.allowed_headers, "http.allowedHeaders")?,
        to_upstream_on_allow: to_upstream,
        ..HttpCheck::default()
    })
}

/// Names as they stand: there are no patterns here.
fn names(written: &[String], at: &str) -> Result<NameSet, Problem> {
    for (n, name) in written.iter().enumerate() {
        if HeaderName::from_bytes(name.as_bytes()).is_err() || name.contains('*') {
            let reason = format!("`{name}` is not a header name");
            return Err(Problem::new(format!("{at}[{n}]"), reason));
        }
    }
    Ok(NameSet::new(written))
}
