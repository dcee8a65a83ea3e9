//! Which trailers pass (RFC 9110 §6.5.1).
//!
//! Nobody judged them, and some backends merge them into the headers that were judged. So a request's
//! pass by name; an answer's too, except in gRPC, whose answers carry their metadata there.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use wayline_model::defence::stands;
use wayline_model::mesh::MeshSettings;
use wayline_telemetry::RequestProtocol;

/// What always passes, beside `grpc-*`: what can only be known when the body has gone by.
const ALWAYS: [&str; 4] = ["content-digest", "digest", "repr-digest", "server-timing"];

/// What never does: framing, routing, authentication, and whatever was judged already.
const NEVER: [&str; 24] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-forwarded-client-cert",
    "x-forwarded-for",
];

/// Which trailers pass in this mesh.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trailers {
    /// Named by the mesh, where it names any.
    named: Option<Arc<[HeaderName]>>,
    /// Whether all pass that do not have to stay behind, as in Istio.
    lax: bool,
}

impl Trailers {
    /// What the mesh says.
    pub(crate) fn of(mesh: &MeshSettings) -> Self {
        Self {
            named: (!mesh.trailers.is_empty()).then(|| Arc::clone(&mesh.trailers)),
            lax: mesh.istio_compat,
        }
    }

    /// All that do not have to stay behind: for messages that are not a client's.
    pub(crate) fn ours() -> Self {
        Self {
            named: None,
            lax: true,
        }
    }

    /// Whether an answer with these headers carries metadata in its trailers.
    pub(crate) fn of_answer(mut self, headers: &HeaderMap) -> Self {
        let protocol = RequestProtocol::of_content_type(headers.get(CONTENT_TYPE));
        self.lax |= protocol == RequestProtocol::Grpc;
        self
    }

    /// Those that pass.
    pub(crate) fn pass(&self, trailers: HeaderMap) -> HeaderMap {
        let passes = |name: &HeaderName| {
            let text = name.as_str();
            let banned = NEVER.contains(&text) || text.starts_with("x-envoy-");
            let always = text.starts_with("grpc-") || ALWAYS.contains(&text);
            !banned && (self.lax || always || self.names(name))
        };
        if trailers.keys().all(passes) || !stands("trailers") {
            return trailers;
        }
        let mut passing = HeaderMap::new();
        for name in trailers.keys().filter(|name| passes(name)) {
            for value in trailers.get_all(name) {
                passing.append(name.clone(), value.clone());
            }
        }
        passing
    }

    fn names(&self, name: &HeaderName) -> bool {
        self.named
            .as_ref()
            .is_some_and(|named| named.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn passing(trailers: &Trailers) -> Vec<String> {
        let mut sent = HeaderMap::new();
        for name in [
            "grpc-status",
            "x-sum",
            "x-role",
            "host",
            "x-envoy-internal",
            "digest",
        ] {
            sent.append(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let passing = trailers.pass(sent);
        passing
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect()
    }

    #[test]
    fn trailers_pass_by_name() {
        let strict = Trailers::default();
        assert_eq!(passing(&strict), ["grpc-status", "digest"]);
        let named = Trailers {
            named: Some(
                [
                    HeaderName::from_static("x-sum"),
                    HeaderName::from_static("host"),
                ]
                .into(),
            ),
            lax: false,
        };
        assert_eq!(passing(&named), ["grpc-status", "x-sum", "digest"]);
        let mut grpc = HeaderMap::new();
        grpc.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/grpc+proto"),
        );
        let grpc = strict.of_answer(&grpc);
        assert_eq!(passing(&grpc), ["grpc-status", "x-sum", "x-role", "digest"]);
    }
}
