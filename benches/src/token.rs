//! A token that every contestant of the scene `jwt` has to verify, and the key it is verified by.
//!
//! Made once, RS256 with 2,048 bits; its private key was thrown away. It is valid until 2100.

/// Who issued the token.
pub const ISSUER: &str = "https://issuer.bench";

/// The issuer's keys.
pub const JWKS: &str = r#"{"keys":[{"kty":"RSA","alg":"RS256","kid":"bench","e":"AQAB","n":"waV9vmFusBVxDJ6zApDOr8UbnaRZVmoFu_QNDls1KYMMEGyWVAvFBqpf8P0Hhm2mws5-l97IezGalBwsqEjop6GXJYg3M4OQa3y9Ox9UUPQocWUogAtGLjeWHLnyLBc4zLZcGA4oya5CUigVqT72uwqNFOd5L1HOi17LoDYc1Jgg3Itmo-QXhXAgsujb0pubU_03xYSXSWOGODOmnVq4jVC_lXgQUZ4gzR6EA2MH6pAIuoDp_94uBB619gnqoJnFFYpNXPbvnqDyXtruSMMzlFOWbQ0tJ1tZQJcYluzij23VsklmFlu9SabJW_EwB8gtopqc7ixSLDzkU4dv-aR46Q"}]}"#;

/// The token.
pub const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJlbmNoIiwidHlwIjoiSldUIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5iZW5jaCIsInN1YiI6ImNsaWVudCIsImF1ZCI6ImJlbmNoIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjQxMDI0NDQ4MDB9.jgBNtzZoNx4dncuPdNaC3K_1KWhU7rjKOQUZAbX7bula7PvKFE5JYR3R8fxIv36efOr3XhFgYEONjdlClMgm-dY2ZaesxeuY15NYXdswXJp9mlw3WKdubUgWKEVRzvGY93kw0zIglACK2eTIQ4w4kpoxuJhKhamfBbjWf6iiX-QUKQFeJJH0AlWzztd8Q1i3s0sCnyc9uZYg88eveNiMMbtAu_rfNjcOlvv5rw6NSGKQ-rupLIlPc0bwPgK4IBwDNqSIe38R2StwyQSTlTH6JzYo-aT8C5jwrELb9E0lq5wL1fH3GKXE_EZjYeK2YBbe0FSFXLPZjxvZIacWBPpp4A";

/// The header that carries it.
#[must_use]
pub fn header() -> (String, String) {
    ("authorization".to_owned(), format!("Bearer {TOKEN}"))
}

/// The same with a signature of somebody else.
#[must_use]
pub fn forged_header() -> (String, String) {
    let (name, value) = header();
    let (signed, signature) = value.rsplit_once('.').unwrap_or_default();
    let signature: String = signature.chars().rev().collect();
    (name, format!("{signed}.{signature}"))
}
