//! Label sets of what the snapshot names.

use wayline_chain::Connection;
use wayline_model::Snapshot;
use wayline_model::service::Service;
use wayline_model::workload::Workload;
use wayline_telemetry::{DestinationLabels, PeerLabels, WorkloadLabels};

/// The service behind a cluster.
pub(crate) fn destination(service: Option<&Service>) -> DestinationLabels {
    service.map_or_else(DestinationLabels::unknown, DestinationLabels::of)
}

/// The workload behind an endpoint.
pub(crate) fn workload(snapshot: &Snapshot, workload: Option<&Workload>) -> WorkloadLabels {
    workload.map_or_else(
        || WorkloadLabels::unknown(&snapshot.mesh.cluster_id),
        WorkloadLabels::of,
    )
}

/// Whoever opened a connection.
pub(crate) fn peer(snapshot: &Snapshot, connection: &Connection) -> PeerLabels {
    let cluster = &snapshot.mesh.cluster_id;
    match (&connection.workload, &connection.identity) {
        (Some(workload), _) => WorkloadLabels::of(workload),
        (None, Some(identity)) => WorkloadLabels::of_identity(identity, cluster),
        (None, None) => WorkloadLabels::unknown(cluster),
    }
}
