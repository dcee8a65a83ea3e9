//! The question: one request, and who sends it where.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Request};
use wayline_chain::Connection;
use wayline_hbone::TunnelAuthority;
use wayline_model::{Identity, Snapshot};

use super::ExplainArgs;
use crate::curl;
use crate::curl::target::Target;
use crate::failure::Failure;

/// The namespace whose short names a URL is read with when nobody is named.
const DEFAULT_NAMESPACE: &str = "default";

/// One hypothetical request.
#[derive(Debug)]
pub(super) struct Question {
    /// Where it enters.
    pub(super) entry: Entry,
    /// Namespace and service account of the caller.
    from: Option<(String, String)>,
    source_ip: Option<IpAddr>,
    head: Request<()>,
}

/// Where a request enters.
#[derive(Debug)]
pub(super) enum Entry {
    /// At a waypoint, through a tunnel.
    Tunnel(TunnelAuthority),
    /// At a gateway's port.
    Gateway {
        /// The gateway's namespace.
        namespace: String,
        /// The gateway's name.
        name: String,
        /// The port.
        port: u16,
    },
}

/// Who sends it.
pub(super) struct Caller {
    /// The identity its tunnel shows; `None` at gateways, which take plain text.
    pub(super) identity: Option<Identity>,
    /// Where it connects from.
    pub(super) source_ip: IpAddr,
    /// Whether nobody said so.
    pub(super) is_assumed: bool,
}

impl Question {
    pub(super) fn read(args: &ExplainArgs) -> Result<Self, Failure> {
        let namespace = args.from.as_ref().map(|from| from.namespace.as_str());
        let target = Target::parse(&args.url, namespace.unwrap_or(DEFAULT_NAMESPACE))?;
        let mut head = Request::new(());
        *head.method_mut() = args.request.clone();
        *head.uri_mut() = target.path().clone();
        *head.headers_mut() = headers(args, &target)?;
        let entry = match &args.gateway {
            None => Entry::Tunnel(target.authority().clone()),
            Some(gateway) => Entry::Gateway {
                namespace: gateway.namespace.clone(),
                name: gateway.name.clone(),
                port: target.authority().port(),
            },
        };
        Ok(Self {
            entry,
            from: args.from.clone().map(Into::into),
            source_ip: args.source_ip,
            head,
        })
    }

    /// The request as a codec would have parsed it.
    pub(super) fn head(&self) -> Parts {
        self.head.clone().into_parts().0
    }

    /// The caller, as far as the mesh tells what was not said.
    pub(super) fn caller(&self, snapshot: &Snapshot) -> Result<Caller, Failure> {
        let identity = self
            .from
            .as_ref()
            .map(|(namespace, account)| {
                Identity::new(snapshot.mesh.trust_domain.clone(), namespace, account)
            })
            .transpose()
            .map_err(|error| {
                Failure::new(error).remedy("name it as --from NAMESPACE/SERVICE-ACCOUNT")
            })?;
        let of_workload = identity
            .as_ref()
            .and_then(|identity| snapshot.workloads.by_identity.get(identity)?.first())
            .and_then(|workload| workload.addresses.first().copied());
        let source_ip = self
            .source_ip
            .or(of_workload)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Caller {
            identity: identity.filter(|_| matches!(self.entry, Entry::Tunnel(_))),
            source_ip,
            is_assumed: self.source_ip.is_none(),
        })
    }

    /// The connection or tunnel stream that the request would come on.
    pub(super) fn connection(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        destination_ip: Option<IpAddr>,
        destination_port: u16,
    ) -> Connection {
        let source = SocketAddr::new(caller.source_ip, 0);
        let workload = caller.identity.as_ref().and_then(|identity| {
            let network = &snapshot.mesh.network;
            snapshot.workloads.peer(network, caller.source_ip, identity)
        });
        Connection {
            identity: caller.identity.clone(),
            workload: workload.cloned(),
            source,
            local: SocketAddr::from(([0, 0, 0, 0], 0)),
            destination_ip,
            destination_port,
            sni: None,
            mutual_tls: caller.identity.is_some(),
            certificate: None,
            id: Connection::next_id(),
        }
    }
}

fn headers(args: &ExplainArgs, target: &Target) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for line in &args.headers {
        if let (name, Some(value)) = curl::header(line)? {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, target.host_header()?);
    }
    Ok(headers)
}
