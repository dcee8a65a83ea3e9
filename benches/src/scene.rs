//! Names and addresses that generator, backend and contestants agree on.

use wayline_model::{Identity, TrustDomain};

/// The host name of the service, in every request's Host header.
pub const HOST: &str = "echo.bench.svc.cluster.local";

/// The path of every request that is measured; policies allow it by their last rule.
pub const PATH: &str = "/api/items?page=1";

/// Where 1 MiB goes to, or comes from.
pub const LARGE_PATH: &str = "/api/large";

/// The gRPC method.
pub const GRPC_PATH: &str = "/api.Echo/Say";

/// A path that no rule allows.
pub const DENIED_PATH: &str = "/nowhere";

/// The service's address and port: what a client's ztunnel puts into CONNECT.
pub const AUTHORITY: &str = "10.96.77.1:80";

/// The address and port of a service that has a plugin which does not always end.
pub const POISONED_AUTHORITY: &str = "10.96.77.2:80";

/// The path at which it does not.
pub const POISON_PATH: &str = "/x";

/// Where the captured backend takes HBONE. The port is fixed by the mesh, so the address is an
/// unusual one of the loopback network.
pub const HBONE_BACKEND: &str = "127.77.0.1:15008";

/// The captured pod and its port: what a waypoint puts into CONNECT.
pub const POD_AUTHORITY: &str = "127.77.0.1:8080";

/// Who the load generator is.
#[must_use]
pub fn client_identity() -> Identity {
    workload("client")
}

/// Who every contestant is at its HBONE entrance, and towards the backend.
#[must_use]
pub fn waypoint_identity() -> Identity {
    workload("waypoint")
}

/// Who the captured backend is.
#[must_use]
pub fn backend_identity() -> Identity {
    workload("echo")
}

#[allow(clippy::expect_used, reason = "the names are constants of this file")]
fn workload(account: &str) -> Identity {
    Identity::new(TrustDomain::default(), "bench", account).expect("a well-formed identity")
}
