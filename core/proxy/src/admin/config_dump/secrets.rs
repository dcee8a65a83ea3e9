//! Our certificate and the roots (envoy.extensions.transport_sockets.tls.v3), as Istio names them.
//!
//! The private key is not read here, and could not be: an epoch shows certificates only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::typed;
use crate::admin::Admin;

/// What Envoy shows in place of a key.
const REDACTED: &str = "[redacted]";

/// SecretsConfigDump. Without a certificate its secret is shown as one still waited for.
pub(super) fn section(admin: &Admin) -> Value {
    let status = admin.known.certificates.status();
    let Some(epoch) = status.current else {
        let reason = status.failure.map(|failure| failure.to_string());
        return json!({
            "dynamic_warming_secrets": [{
                "name": "default",
                "secret": secret("default", json!({})),
                "error_state": {"details": reason},
            }],
        });
    };
    let version = epoch.id().to_string();
    let active = |name: &str, content| json!({"name": name, "version_info": &version, "secret": secret(name, content)});
    json!({
        "dynamic_active_secrets": [
            active("default", json!({
                "tls_certificate": {
                    "certificate_chain": inline(epoch.chain_pem()),
                    "private_key": inline(REDACTED),
                },
            })),
            active("ROOTCA", json!({
                "validation_context": {"trusted_ca": inline(epoch.roots_pem())},
            })),
        ],
    })
}

fn secret(name: &str, mut content: Value) -> Value {
    content["name"] = name.into();
    typed(
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        content,
    )
}

/// envoy.config.core.v3.DataSource; protobuf writes bytes as base64.
fn inline(content: &str) -> Value {
    json!({"inline_bytes": STANDARD.encode(content)})
}
