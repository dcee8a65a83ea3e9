//! Where a filter stands: what the module may ask about the target of its chain.

use std::sync::Arc;

use wayline_chain::Scope;
use wayline_model::snapshot::Proxy;

/// The facts of a scope, kept beyond the snapshot they came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) cluster_id: Option<Arc<str>>,
}

impl Place {
    pub(crate) fn of(scope: &Scope<'_>) -> Self {
        Self {
            proxy: Some(Arc::clone(scope.proxy)),
            cluster_id: Some(Arc::clone(&scope.snapshot.mesh.cluster_id)),
        }
    }
}
