//! Whether the servers that MeshConfig names for external authorization can be asked: a server that can
//! not be is no reason to let anybody pass, and its author should not learn of it by refusals.

use super::clusters::Clusters;
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::service::AppProtocol;

/// What is said about each provider.
pub(super) fn findings(mesh: &MeshSettings, clusters: &Clusters) -> Vec<Finding> {
    let known = mesh.ext_authz.values().filter_map(|it| it.as_ref().ok());
    let tls = known.filter(|provider| {
        let mut clusters = clusters.by_id.values();
        let cluster = clusters.find(|cluster| cluster.name == provider.backend);
        cluster.is_some_and(|cluster| cluster.protocol == AppProtocol::Tls)
    });
    let said = tls.map(|provider| {
        Finding::error(format!(
            "the provider {} is asked in plain text, and {} speaks TLS: it will fail, and what its \
             policies match is refused unless it fails open",
            provider.name, provider.authority
        ))
        .on(ObjectRef::new("ConfigMap", "istio-system", "istio"))
        .field("extensionProviders")
        .remedy("name a port of it that speaks plain text; inside the mesh HBONE encrypts it")
    });
    said.collect()
}
