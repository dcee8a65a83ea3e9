//! What providers tell of a request beside their verdict (Envoy's dynamic metadata).

use serde_json::{Map, Value};
use wayline_chain::RequestContext;
use wayline_model::ext_authz::METADATA_NAMESPACE;

use super::verdict::Said;

/// What a provider said, and what it told of the request beside.
pub(super) type Told = (Said, Map<String, Value>);

/// Keeps what a provider told, beside what others told before.
pub(super) fn keep(told: Map<String, Value>, context: &mut RequestContext) {
    if told.is_empty() {
        return;
    }
    let all = context.metadata.get_or_insert_default();
    let own = all
        .entry(METADATA_NAMESPACE)
        .or_insert_with(|| Map::new().into());
    if let Value::Object(own) = own {
        own.extend(told);
    }
}
