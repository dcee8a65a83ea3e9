//! `/wayline/objects`: the objects in force, as a folder for `wayline run` may hold them.
//!
//! The list names what it can not hold and which Gateways this process plays, so that whoever takes the
//! objects elsewhere can serve the same. Secrets lose their values unless they are asked for on a port
//! that only this machine reaches.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use wayline_model::snapshot::ProxyRole;

use super::Admin;
use super::server::{Answer, Asked};

/// Gateways that are played, as `namespace/name,…`.
const GATEWAYS: &str = "wayline.dev/gateways";

/// Objects that are not in the list because no version of them can be read, separated by commas.
const UNREADABLE: &str = "wayline.dev/unreadable";

/// Marks a Secret without its values.
const REDACTED: &str = "wayline.dev/redacted";

/// Where kubectl keeps a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The objects in force as a `List`.
pub(super) fn page(admin: &Admin, asked: &Asked) -> Answer {
    let Some(objects) = &admin.known.objects else {
        let text = "this process does not keep the objects it serves\n";
        return Answer::refusal(StatusCode::NOT_FOUND, text);
    };
    let with_secrets = asked.flag("secrets");
    if with_secrets && !asked.loopback {
        let text = "Secrets are shown on a loopback address only: start with --admin 127.0.0.1:15000, and forward the port\n";
        return Answer::refusal(StatusCode::FORBIDDEN, text);
    }
    let mut items = objects.all();
    if !with_secrets {
        items.iter_mut().for_each(redact);
    }
    let mut annotations = json!({GATEWAYS: played(admin).join(",")});
    let unreadable = objects.unreadable();
    if !unreadable.is_empty() {
        annotations[UNREADABLE] = unreadable.join(",").into();
    }
    Answer::json(&json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"annotations": annotations},
        "items": items,
    }))
}

/// The Gateways played, first the one whose certificate is presented: it is the first that another
/// process must be told of to present the same.
fn played(admin: &Admin) -> Vec<String> {
    let ours = admin.known.certificates.status().current;
    let snapshot = admin.snapshot();
    let mut played: Vec<_> = snapshot.proxies.iter().collect();
    played.sort_by_key(|proxy| {
        let is_ours = ours
            .as_ref()
            .is_some_and(|epoch| *epoch.identity() == proxy.identity);
        (!is_ours, proxy.role != ProxyRole::Waypoint)
    });
    let names = played.into_iter();
    names
        .map(|proxy| format!("{}/{}", proxy.namespace, proxy.name))
        .collect()
}

/// Takes the values from a Secret, wherever they stand.
fn redact(object: &mut Value) {
    if object["kind"] != "Secret" {
        return;
    }
    let replacements = [
        ("data", STANDARD.encode("redacted")),
        ("stringData", "redacted".to_owned()),
    ];
    for (field, replacement) in replacements {
        match object.get_mut(field) {
            Some(Value::Object(values)) => values
                .values_mut()
                .for_each(|value| *value = replacement.clone().into()),
            Some(other) => *other = Value::Null,
            None => {}
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if !annotations.is_object() {
            *annotations = json!({});
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.remove(LAST_APPLIED);
            annotations.insert(REDACTED.to_owned(), "true".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_keeps_its_names_and_loses_its_values() {
        let mut secret = json!({
            "kind": "Secret",
            "metadata": {"name": "s", "annotations": {LAST_APPLIED: "aGlkZGVu", "a": "b"}},
            "data": {"tls.key": "aGlkZGVu"},
            "stringData": {"password": "hidden"},
        });
        redact(&mut secret);
        let text = secret.to_string();
        assert!(
            !text.contains("aGlkZGVu") && !text.contains("hidden"),
            "{text}"
        );
        assert_eq!(secret["data"]["tls.key"], "cmVkYWN0ZWQ=");
        assert_eq!(secret["metadata"]["annotations"]["a"], "b");

        let mut odd = json!({"kind": "Secret", "data": "hidden", "metadata": {"annotations": "x"}});
        redact(&mut odd);
        assert!(!odd.to_string().contains("hidden"));

        let config = json!({"kind": "ConfigMap", "data": {"a": "b"}});
        let mut same = config.clone();
        redact(&mut same);
        assert_eq!(same, config);
    }
}
