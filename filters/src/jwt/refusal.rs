//! Why a token is refused, and the answer to it, as Envoy words both.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use wayline_chain::LocalReply;
use wayline_model::CanonicalRequest;

/// Longest address that a challenge repeats.
const MAX_REALM: usize = 256;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a token is refused.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(super) enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// The body of the answer.
            pub(super) fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

refusals! {
    Form => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    HeaderBase64 => "Jwt header is an invalid Base64url encoded",
    HeaderJson => "Jwt header is an invalid JSON",
    HeaderAlg => "Jwt header [alg] field is required and must be a string",
    HeaderAlgUnknown => "Jwt header [alg] is not supported",
    HeaderKid => "Jwt header [kid] field is not a string",
    /// Envoy takes no notice of `crit`.
    HeaderCrit => "Jwt header [crit] names an extension that is not known",
    PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
    PayloadJson => "Jwt payload is an invalid JSON",
    Iss => "Jwt payload [iss] field is not a string",
    Sub => "Jwt payload [sub] field is not a string",
    Jti => "Jwt payload [jti] field is not a string",
    Iat => "Jwt payload [iat] field is not an integer",
    IatRange => "Jwt payload [iat] field is not a positive 64 bit integer",
    Nbf => "Jwt payload [nbf] field is not an integer",
    NbfRange => "Jwt payload [nbf] field is not a positive 64 bit integer",
    Exp => "Jwt payload [exp] field is not an integer",
    ExpRange => "Jwt payload [exp] field is not a positive 64 bit integer",
    Aud => "Jwt payload [aud] field is not a string or string list",
    SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
    Issuer => "Jwt issuer is not configured",
    NotYetValid => "Jwt not yet valid",
    Expired => "Jwt is expired",
    Audience => "Audiences in Jwt are not allowed",
    /// The issuer's keys could not be fetched.
    NoKeys => "Jwks remote fetch is failed",
    NoValidKeys => "Jwks doesn't have any valid public key",
    UnknownKey => "Jwks doesn't have key to match kid or alg from Jwt",
    Signature => "Jwt verification fails",
    /// Envoy takes the first one it finds.
    Several => "Jwt is given more than once",
}

impl Refusal {
    /// The answer. The challenge names the address that was asked for, as Envoy's does.
    pub(super) fn reply(self, request: &CanonicalRequest) -> LocalReply {
        let status = match self {
            Self::Audience => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let realm = realm(request);
        let challenge = format!("Bearer realm=\"{realm}\", error=\"invalid_token\"");
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        LocalReply {
            status,
            headers,
            body: Bytes::from_static(self.text().as_bytes()),
            details: format!(
                "jwt_authn_access_denied{{{}}}",
                self.text().replace(' ', "_")
            )
            .into(),
        }
    }
}

/// Without the query, which may hold the token itself.
fn realm(request: &CanonicalRequest) -> String {
    let scheme = request.headers.get("x-forwarded-proto");
    let scheme = match scheme.and_then(|scheme| scheme.to_str().ok()) {
        Some("https") => "https",
        _ => "http",
    };
    let text = format!(
        "{scheme}://{}{}",
        request.authority.as_str(),
        request.path()
    );
    let quotable = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    text.chars().filter(quotable).take(MAX_REALM).collect()
}
