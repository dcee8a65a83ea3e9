//! A [`Snapshot`]: everything that is served, at one moment, as immutable data.
//!
//! Parts that did not change between two snapshots are the same `Arc`, so that a core can tell what
//! it must bind anew by comparing pointers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::authentication::{Authentication, JwksLocation};
use crate::authorization::Authorization;
use crate::identity::Identity;
use crate::mesh::MeshSettings;
use crate::names::Hostname;
use crate::plugin::AttachedPlugin;
use crate::request::CanonicalRequest;
use crate::route::{RouteRule, Routes};
use crate::service::{AppProtocol, Cluster, ClusterId, Service};
use crate::status::Statuses;
use crate::workload::Workload;

/// Everything that is served.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts published snapshots, from 1.
    pub generation: u64,
    /// Settings of the mesh.
    pub mesh: Arc<MeshSettings>,
    /// The waypoints and gateways this process plays, in the order of their names.
    pub proxies: Vec<Arc<Proxy>>,
    /// What tunnels may lead to.
    pub tunnels: Tunnels,
    /// What gateways listen on.
    pub entrances: Vec<Arc<Entrance>>,
    /// Clusters by number.
    pub clusters: HashMap<ClusterId, Arc<Cluster>>,
    /// Workloads, to tell who a peer is.
    pub workloads: Arc<Workloads>,
    /// What is said about the objects that all this was made from.
    pub statuses: Arc<Statuses>,
    /// Every plugin that a target wants or still has in force, by object; of one that is being replaced
    /// both versions.
    pub plugins: Arc<[AttachedPlugin]>,
    /// Whether some of them never had a verdict since the process began. False for good once all of
    /// them had one at the same time: what is added later is no reason not to be ready.
    pub plugins_awaited: bool,
    /// Keys of token issuers that have to be fetched, each once.
    pub jwks: Arc<[JwksLocation]>,
}

impl Snapshot {
    /// Whether a waypoint of this process takes tunnels itself.
    #[must_use]
    pub fn takes_hbone(&self) -> bool {
        let mut proxies = self.proxies.iter();
        proxies.any(|it| it.role == ProxyRole::Waypoint && it.proxy_protocol.is_none())
    }
}

/// One Gateway that this process plays.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Gateway name.
    pub name: Arc<str>,
    /// Gateway namespace.
    pub namespace: Arc<str>,
    /// GatewayClass.
    pub class: Arc<str>,
    /// Waypoint or gateway.
    pub role: ProxyRole,
    /// The identity of its ServiceAccount.
    pub identity: Identity,
    /// The port at which a ztunnel in front of a waypoint hands over what it took out of tunnels, each
    /// connection behind a header of the PROXY protocol; `None` where HBONE comes in
    /// (`ambient.istio.io/waypoint-inbound-binding`).
    pub proxy_protocol: Option<u16>,
}

/// What a Gateway is to its traffic; decides the `reporter` label.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProxyRole {
    /// Takes HBONE for enrolled services and workloads.
    Waypoint,
    /// Takes HTTP on its listeners.
    Gateway,
}

/// What a CONNECT authority may name. What is not in here is refused.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// By network, address and port.
    pub by_address: HashMap<(Arc<str>, IpAddr, u16), Arc<Target>>,
    /// By host and port.
    pub by_host: HashMap<Hostname, Vec<(u16, Arc<Target>)>>,
    /// Services and workloads known but not behind a waypoint of this process: why they are refused.
    pub unserved: HashMap<IpAddr, Arc<str>>,
}

impl Tunnels {
    /// The target at an address of a network.
    #[must_use]
    pub fn address(&self, network: &Arc<str>, ip: IpAddr, port: u16) -> Option<&Arc<Target>> {
        self.by_address
            .get(&(Arc::clone(network), ip.to_canonical(), port))
    }

    /// The target at a host, which must be in lower case without a trailing dot.
    #[must_use]
    pub fn host(&self, host: &str, port: u16) -> Option<&Arc<Target>> {
        self.by_host
            .get(host)?
            .iter()
            .find(|(candidate, _)| *candidate == port)
            .map(|(_, target)| target)
    }
}

/// What one tunnel leads to: a port of a service, or of a workload addressed directly.
#[derive(Clone, Debug)]
pub struct Target {
    /// The waypoint whose policies apply.
    pub proxy: Arc<Proxy>,
    /// The service; `None` when a workload is addressed.
    pub service: Option<Arc<Service>>,
    /// The workload, when addressed directly.
    pub workload: Option<Arc<Workload>>,
    /// The service port (or the workload's), as policies' `ports` mean it.
    pub port: u16,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// Where requests go; its last resort is the service itself.
    pub routes: Arc<Routes>,
    /// Who may do what.
    pub authorization: Arc<Authorization>,
    /// The plugins in force, in the order in which they meet a request.
    pub plugins: Arc<[AttachedPlugin]>,
    /// Whose tokens are taken.
    pub authentication: Arc<Authentication>,
    /// Where opaque bytes go.
    pub cluster: ClusterId,
}

/// One port a gateway listens on: its listeners merged.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// The gateway.
    pub proxy: Arc<Proxy>,
    /// Address to bind; the unspecified address unless the Gateway's `spec.addresses` names one.
    pub address: IpAddr,
    /// Port to bind.
    pub port: u16,
    /// Routes by the listener and hostname that matched, most specific first.
    pub hosts: Arc<HostTable>,
    /// Policies of the gateway: judged before the route is looked up.
    pub authorization: Arc<Authorization>,
    /// The plugins in force, in the order in which they meet a request.
    pub plugins: Arc<[AttachedPlugin]>,
    /// Whose tokens the gateway takes.
    pub authentication: Arc<Authentication>,
}

/// Routes by host. Look-up takes the most specific listener hostname, then the most specific route
/// hostname within it (Gateway API, Listener.hostname and HTTPRoute.hostnames).
#[derive(Clone, Debug, Default)]
pub struct HostTable {
    /// Exact hosts.
    pub exact: HashMap<Hostname, Arc<Routes>>,
    /// Wildcards, longest first: the suffix with its leading dot, e.g. `.example.com`.
    pub wildcards: Vec<(Arc<str>, Arc<Routes>)>,
    /// For any host.
    pub any: Option<Arc<Routes>>,
}

impl HostTable {
    /// The routes for a host as a request writes it.
    #[must_use]
    pub fn written(&self, host: &str) -> Option<&Arc<Routes>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            return self.lookup(&host.to_ascii_lowercase());
        }
        self.lookup(host)
    }

    /// The routes for a host in lower case without port or trailing dot.
    #[must_use]
    pub fn lookup(&self, host: &str) -> Option<&Arc<Routes>> {
        self.exact
            .get(host)
            .or_else(|| {
                self.wildcards
                    .iter()
                    .find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix))
                    .map(|(_, routes)| routes)
            })
            .or(self.any.as_ref())
    }
}

/// The routes of a place where requests come in.
#[derive(Clone, Debug)]
pub enum Ways {
    /// Of a tunnel's target.
    Target(Arc<Routes>),
    /// Of a gateway's port, by host.
    Entrance(Arc<HostTable>),
}

impl Default for Ways {
    /// None at all.
    fn default() -> Self {
        Self::Target(Arc::default())
    }
}

impl Ways {
    /// The rule that a request takes, with callers of this namespace.
    #[must_use]
    pub fn rule(
        &self,
        caller: Option<&str>,
        request: &CanonicalRequest,
    ) -> Option<&Arc<RouteRule>> {
        let routes = match self {
            Self::Target(routes) => routes,
            Self::Entrance(hosts) => hosts.written(request.authority.host())?,
        };
        routes.table_for(caller).lookup(request)
    }

    /// Whether some rule asks a server whether requests may pass.
    #[must_use]
    pub fn ask_externally(&self) -> bool {
        match self {
            Self::Target(routes) => routes.ask_externally(),
            Self::Entrance(hosts) => {
                let wildcards = hosts.wildcards.iter().map(|(_, routes)| routes);
                let mut routes = hosts.exact.values().chain(wildcards).chain(&hosts.any);
                routes.any(|routes| routes.ask_externally())
            }
        }
    }
}

/// Workloads by what a connection shows of them.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    /// By network and address.
    pub by_address: HashMap<(Arc<str>, IpAddr), Arc<Workload>>,
    /// By identity.
    pub by_identity: HashMap<Identity, Vec<Arc<Workload>>>,
    /// The zones of nodes, as Node objects say.
    pub zones: HashMap<Arc<str>, Arc<str>>,
}

impl Workloads {
    /// Who a peer is: the workload at its address if it runs as that identity, else the only
    /// workload with that identity (all of one `workload_name` count as one).
    #[must_use]
    pub fn peer(
        &self,
        network: &Arc<str>,
        address: IpAddr,
        identity: &Identity,
    ) -> Option<&Arc<Workload>> {
        let there = self
            .by_address
            .get(&(Arc::clone(network), address.to_canonical()));
        if let Some(workload) = there
            && workload.identity == *identity
        {
            return there;
        }
        let known = self.by_identity.get(identity)?;
        let first = known.first()?;
        known
            .iter()
            .all(|other| {
                other.workload_name == first.workload_name && other.version == first.version
            })
            .then_some(first)
    }
}
