//! Tokens and the keys that verify them.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use serde_json::json;
use wayline_chain::{Callout, Chain, Connection, NoCallout, RequestContext, Scope, Started};
use wayline_filters::{RemoteKeys, native_sources};
use wayline_model::authentication::{AttachedAuthentication, Authentication, Jwks};
use wayline_model::request::PathNormalization;
use wayline_model::snapshot::{Proxy, ProxyRole, Ways};
use wayline_model::{CanonicalRequest, ObjectRef, Snapshot};

/// The public keys of RFC 7515, A.2 and A.3: what is signed with them, there, has expired.
const KEYS: &str = r#"{"keys":[
{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvK-DK-NsQQ2rtj_DmpWlnJmJ5jxlgGTPpp_3qZQJz3Zm8BCQHyQ3pFQg3nVsdA5uFw"}]}"#;

/// A token in each of the places where one may be: nobody has the private keys, so none is verified.
pub fn token(data: &[u8]) {
    thread_local! {
        static CHAIN: Rc<Chain> = chain();
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    let place = data.first().map_or(0, |byte| byte % 3);
    let target = match place {
        0 => {
            let Ok(value) = HeaderValue::from_str(&format!("Bearer {text}")) else {
                return;
            };
            headers.insert(http::header::AUTHORIZATION, value);
            "/".to_owned()
        }
        1 => {
            let Ok(value) = HeaderValue::from_str(text) else {
                return;
            };
            headers.insert(http::header::COOKIE, value);
            "/".to_owned()
        }
        _ => format!("/?{text}"),
    };
    headers.insert(http::header::HOST, HeaderValue::from_static("a"));
    let Ok(uri) = target.parse::<Uri>() else {
        return;
    };
    let request = CanonicalRequest::new(
        Method::GET,
        &uri,
        Version::HTTP_11,
        headers,
        PathNormalization::Base,
    );
    let Ok(request) = request else {
        return;
    };
    let mut context = RequestContext::new(connection(), request, true);
    let started = CHAIN.with(|chain| chain.begin(&mut context));
    assert!(context.token.is_none(), "nobody can have signed this");
    if let Started::Reply(reply) = started {
        assert_eq!(reply.status, http::StatusCode::UNAUTHORIZED);
    } else if place == 0 && !text.trim().is_empty() {
        panic!("what is no token was taken for none");
    }
}

fn connection() -> Rc<Connection> {
    wayline_chain::bench::Request::get("/")
        .context()
        .connection
        .clone()
}

fn chain() -> Rc<Chain> {
    let rules = json!({"jwtRules": [{
        "issuer": "joe", "jwks": KEYS,
        "fromHeaders": [{"name": "authorization", "prefix": "Bearer "}],
        "fromCookies": ["session"], "fromParams": ["t"],
    }]});
    let attached = AttachedAuthentication {
        object: ObjectRef::new("RequestAuthentication", "default", "jwt"),
        spec: Arc::new(serde_json::from_value(rules).unwrap()),
    };
    let (authentication, findings) = Authentication::compile(&[attached]);
    assert!(findings.is_empty(), "{findings:?}");
    let proxy = Arc::new(Proxy {
        name: "waypoint".into(),
        namespace: "default".into(),
        class: "wayline-waypoint".into(),
        role: ProxyRole::Waypoint,
        proxy_protocol: None,
        identity: "spiffe://cluster.local/ns/default/sa/waypoint"
            .parse()
            .unwrap(),
    });
    let callout: Rc<dyn Callout> = Rc::new(NoCallout);
    let scope = Scope {
        callout: &callout,
        snapshot: &Snapshot::default(),
        proxy: &proxy,
        service: None,
        port: 80,
        authorization: &Arc::default(),
        authentication: &Arc::new(authentication),
        plugins: &Arc::default(),
        ways: &Ways::default(),
    };
    let filters = native_sources(RemoteKeys::none())
        .iter()
        .flat_map(|source| source.filters(&scope))
        .collect();
    Rc::new(Chain::new(filters))
}

/// A key set as an issuer serves it.
pub fn jwks(data: &[u8]) {
    let Ok(_) = Jwks::parse(data) else {
        return;
    };
    assert!(data.len() <= 256 * 1024, "it was read, however long");
    assert!(serde_json::from_slice::<serde_json::Value>(data).is_ok());
}
