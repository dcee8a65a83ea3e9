//! RequestAuthentication `spec`, as written (security.istio.io v1 and v1beta1 have the same fields).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::authorization::spec::{PolicyTargetReference, WorkloadSelector};

/// RequestAuthentication `spec`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    /// Workloads by label; has no effect at waypoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// What it is attached to; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The older form of one target; counts only when `targetRefs` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// Whose tokens are taken. The rules of all objects at one target are pooled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jwt_rules: Vec<JwtRuleSpec>,
}

impl RequestAuthenticationSpec {
    /// The targets in force: `targetRefs`, else `targetRef`.
    #[must_use]
    pub fn targets(&self) -> &[PolicyTargetReference] {
        if self.target_refs.is_empty() {
            self.target_ref.as_slice()
        } else {
            &self.target_refs
        }
    }
}

/// One of `jwtRules`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtRuleSpec {
    /// The claim `iss` of the tokens, compared as it is.
    pub issuer: Arc<str>,
    /// The claim `aud` must name one of them; none means any audience.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<Arc<str>>,
    /// Where the issuer publishes its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<Arc<str>>,
    /// The issuer's keys; counts before `jwksUri`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Arc<str>>,
    /// Headers that may hold the token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_headers: Vec<JwtHeaderSpec>,
    /// Query parameters that may hold the token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_params: Vec<Arc<str>>,
    /// Cookies that may hold the token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_cookies: Vec<Arc<str>>,
    /// Header that gets the verified payload, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_payload_to_header: Option<Arc<str>>,
    /// Whether the token goes on to the backend; default false.
    pub forward_original_token: bool,
    /// Headers that get verified claims.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_claim_to_headers: Vec<ClaimToHeaderSpec>,
    /// How long a request may wait for the issuer's keys, as a protobuf duration; default 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Arc<str>>,
    /// Claims besides `scope` and `permission` that hold several values separated by spaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub space_delimited_claims: Vec<Arc<str>>,
}

/// One of `fromHeaders`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtHeaderSpec {
    /// The header.
    pub name: Arc<str>,
    /// What stands before the token, e.g. `Bearer `.
    pub prefix: Arc<str>,
}

/// One of `outputClaimToHeaders`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimToHeaderSpec {
    /// The header.
    pub header: Arc<str>,
    /// The claim; of a nested one its path, joined by dots.
    pub claim: Arc<str>,
}
