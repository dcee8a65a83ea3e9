//! What gateways listen on: HTTP listeners merged by port, with the routes of each host.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::memo::Memo;
use super::proxies::{Proxies, ProxyEntry, admits};
use super::routes::{self, AttachedRoute, RouteIndex};
use crate::finding::Finding;
use crate::names::{Hostname, ObjectRef};
use crate::resource::GATEWAY_GROUP;
use crate::resource::gateway::{Gateway, Listener, RouteGroupKind};
use crate::resource::ready::is_hostname;
use crate::route::Routes;
use crate::snapshot::HostTable;
use crate::status::reason;
use crate::store::Resources;

/// A host as listeners and routes name it. Ordered so that the most specific comes first.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum HostPattern {
    Exact(Arc<str>),
    /// The suffix with its leading dot.
    Wildcard(Arc<str>),
    Any,
}

impl HostPattern {
    fn parse(text: Option<&str>) -> Self {
        let text = text.unwrap_or_default().to_ascii_lowercase();
        let text = text.strip_suffix('.').unwrap_or(&text);
        match text {
            "" | "*" => Self::Any,
            _ => match text.strip_prefix('*') {
                Some(suffix) => Self::Wildcard(suffix.into()),
                None => Self::Exact(text.into()),
            },
        }
    }

    /// Whether every host of the other is also one of this.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Wildcard(suffix), Self::Wildcard(other)) => other.ends_with(&**suffix),
            (Self::Wildcard(suffix), Self::Exact(host)) => {
                host.len() > suffix.len() && host.ends_with(&**suffix)
            }
            (Self::Exact(host), Self::Exact(other)) => host == other,
            _ => false,
        }
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            return Some(other.clone());
        }
        other.covers(self).then(|| self.clone())
    }
}

/// One port of one gateway.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) hosts: Arc<HostTable>,
}

/// All doors.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) all: Vec<Door>,
    /// What became of the listeners of each gateway, by namespace and name.
    pub(super) gateways: HashMap<(Arc<str>, Arc<str>), GatewayOutcome>,
    /// How far each route came at each of its parents, by its place in `parentRefs`.
    pub(super) reached: HashMap<(ObjectRef, usize), Miss>,
    pub(super) findings: Vec<Finding>,
}

/// What became of a gateway's listeners.
#[derive(Debug, Default)]
pub(super) struct GatewayOutcome {
    /// What is wrong with its addresses: a reason of the Gateway API and a text.
    pub(super) address: Option<(&'static str, String)>,
    /// In the order of the listeners.
    pub(super) listeners: Vec<ListenerOutcome>,
}

/// What became of a listener.
#[derive(Debug, Default)]
pub(super) struct ListenerOutcome {
    /// Why it is not served: a reason of the Gateway API and a text.
    pub(super) refused: Option<(&'static str, String)>,
    /// The routes that attached, by serial number.
    pub(super) attached: BTreeSet<u64>,
}

/// What was remembered about hosts.
#[derive(Debug, Default)]
pub(super) struct HostMemo {
    /// By the hosts and the routes of each.
    tables: Memo<Vec<(HostPattern, Vec<u64>)>, HostTable>,
    /// The routes of one host.
    routes: Memo<Vec<u64>, Routes>,
}

/// A listener that is served, with its hosts.
struct Open<'a> {
    index: usize,
    listener: &'a Listener,
    pattern: HostPattern,
}

pub(super) fn collect(
    resources: &Resources,
    proxies: &Proxies,
    routes: &RouteIndex,
    memo: &mut HostMemo,
) -> Doors {
    let mut doors = Doors::default();
    // Who came first keeps a port: the older Gateway, then the first by name.
    let mut gateways: Vec<&ProxyEntry> = proxies
        .played
        .iter()
        .filter(|entry| !entry.is_waypoint())
        .collect();
    gateways.sort_by_key(|entry| {
        (
            entry.gateway.metadata.creation_timestamp.clone(),
            Arc::clone(&entry.proxy.namespace),
            Arc::clone(&entry.proxy.name),
        )
    });
    // Waypoints behind a ztunnel have theirs first.
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut taken: HashMap<(IpAddr, u16), ObjectRef> = proxies
        .played
        .iter()
        .filter_map(|entry| Some(((loopback, entry.proxy.proxy_protocol?), entry.object())))
        .collect();
    for entry in gateways {
        let mut outcome = GatewayOutcome::default();
        let address = bind_address(entry, &mut doors.findings, &mut outcome);
        let mut by_port: BTreeMap<u16, Vec<Open<'_>>> = BTreeMap::new();
        for (index, listener) in entry.gateway.spec.listeners.iter().enumerate() {
            outcome.listeners.push(ListenerOutcome::default());
            match open(entry, index, listener, &mut doors.findings) {
                Ok(open) => by_port.entry(listener.port).or_default().push(open),
                Err(refusal) => refusal.tell(entry, index, &mut doors.findings, &mut outcome),
            }
        }
        let key = (
            Arc::clone(&entry.proxy.namespace),
            Arc::clone(&entry.proxy.name),
        );
        let attached = routes.gateways.get(&key).map_or(&[][..], Vec::as_slice);
        let mut reached = vec![Miss::NoListener; attached.len()];
        for (port, mut listeners) in by_port {
            drop_twins(entry, &mut listeners, &mut doors.findings, &mut outcome);
            let rival = taken
                .iter()
                .find(|((other, p), _)| *p == port && overlaps(*other, address))
                .map(|(_, object)| object.clone());
            if let Some(rival) = rival {
                let text = format!(
                    "port {port} of {address} already belongs to {rival}; it is not served here"
                );
                doors.findings.push(
                    Finding::error(text.clone())
                        .on(entry.object())
                        .field(format!("spec.listeners[{}].port", listeners[0].index))
                        .remedy("use another port, or name different spec.addresses"),
                );
                for open in &listeners {
                    outcome.listeners[open.index].refused =
                        Some((reason::PORT_UNAVAILABLE, text.clone()));
                }
                continue;
            }
            taken.insert((address, port), entry.object());
            let by_host = by_host(
                resources,
                entry,
                &listeners,
                attached,
                &mut reached,
                &mut outcome,
            );
            let key = by_host
                .iter()
                .map(|(host, routes)| (host.clone(), routes::serials(routes)))
                .collect();
            let HostMemo {
                tables,
                routes: of_host,
            } = &mut *memo;
            doors.all.push(Door {
                namespace: Arc::clone(&entry.proxy.namespace),
                name: Arc::clone(&entry.proxy.name),
                address,
                port,
                hosts: tables.get(key, |_| host_table(&by_host, of_host)),
            });
        }
        for (route, miss) in attached.iter().zip(reached) {
            doors.findings.extend(miss.finding(route, entry));
            let parent = (route.object.clone(), route.parent);
            doors.reached.insert(parent, miss);
        }
        doors.gateways.insert(key, outcome);
    }
    memo.tables.end_round();
    memo.routes.end_round();
    judge_parents(resources, proxies, routes, &mut doors.findings);
    doors
}

fn bind_address(
    entry: &ProxyEntry,
    findings: &mut Vec<Finding>,
    outcome: &mut GatewayOutcome,
) -> IpAddr {
    let mut chosen = None;
    for (a, address) in entry.gateway.spec.addresses.iter().enumerate() {
        let at = format!("spec.addresses[{a}]");
        let parsed = match address.kind.as_str() {
            "IPAddress" => address.value.parse::<IpAddr>().ok(),
            _ => None,
        };
        let problem = match parsed {
            Some(ip) if chosen.is_none() => {
                chosen = Some(ip);
                continue;
            }
            Some(_) => (
                reason::ADDRESS_NOT_USABLE,
                "only the first address is bound".to_owned(),
            ),
            None => (
                reason::UNSUPPORTED_ADDRESS,
                format!(
                    "`{}` of type {} is no address that can be bound; it is ignored",
                    address.value, address.kind
                ),
            ),
        };
        findings.push(
            Finding::error(problem.1.clone())
                .on(entry.object())
                .field(at),
        );
        outcome.address.get_or_insert(problem);
    }
    chosen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Whether two binds would collide: equal addresses, or one that stands for all.
fn overlaps(one: IpAddr, other: IpAddr) -> bool {
    let all = |ip: IpAddr| ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let all_v4 = |ip: IpAddr| ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    one == other
        || all(one)
        || all(other)
        || (all_v4(one) && other.is_ipv4())
        || (all_v4(other) && one.is_ipv4())
}

/// Why a listener is not served.
struct Refusal {
    /// A reason of the Gateway API.
    reason: &'static str,
    text: String,
    /// The field within the listener; empty for all of it.
    field: &'static str,
}

impl Refusal {
    fn tell(
        self,
        entry: &ProxyEntry,
        index: usize,
        findings: &mut Vec<Finding>,
        outcome: &mut GatewayOutcome,
    ) {
        findings.push(
            Finding::error(self.text.clone())
                .on(entry.object())
                .field(format!("spec.listeners[{index}]{}", self.field)),
        );
        outcome.listeners[index].refused = Some((self.reason, self.text));
    }
}

fn open<'a>(
    entry: &ProxyEntry,
    index: usize,
    listener: &'a Listener,
    findings: &mut Vec<Finding>,
) -> Result<Open<'a>, Refusal> {
    if listener.protocol != "HTTP" {
        return Err(Refusal {
            reason: reason::UNSUPPORTED_PROTOCOL,
            text: format!(
                "a listener of protocol {} is not yet supported; nothing listens for it",
                listener.protocol
            ),
            field: ".protocol",
        });
    }
    if let Some(hostname) = listener.hostname.as_deref()
        && !hostname.is_empty()
        && !is_hostname(hostname)
    {
        return Err(Refusal {
            reason: reason::UNSUPPORTED_VALUE,
            text: format!(
                "`{hostname}` is not a host name, with or without a leading `*.`; nothing is served for it"
            ),
            field: ".hostname",
        });
    }
    if !takes_http_routes(listener) {
        findings.push(
            Finding::error("only HTTPRoute is supported as yet; no route attaches")
                .on(entry.object())
                .field(format!("spec.listeners[{index}].allowedRoutes.kinds")),
        );
    }
    Ok(Open {
        index,
        listener,
        pattern: HostPattern::parse(listener.hostname.as_deref()),
    })
}

/// Whether HTTPRoutes may attach to a listener, as far as their kind goes.
pub(super) fn takes_http_routes(listener: &Listener) -> bool {
    let kinds = &listener.allowed_routes.kinds;
    kinds.is_empty() || kinds.iter().any(is_http_route)
}

/// Whether this is the kind of routes that is served.
pub(super) fn is_http_route(kind: &RouteGroupKind) -> bool {
    kind.kind == "HTTPRoute" && kind.group == GATEWAY_GROUP
}

/// Of two listeners for the same host on the same port, the first counts.
fn drop_twins(
    entry: &ProxyEntry,
    listeners: &mut Vec<Open<'_>>,
    findings: &mut Vec<Finding>,
    outcome: &mut GatewayOutcome,
) {
    let mut seen: Vec<HostPattern> = Vec::new();
    listeners.retain(|open| {
        let is_new = !seen.contains(&open.pattern);
        if is_new {
            seen.push(open.pattern.clone());
        } else {
            let refusal = Refusal {
                reason: reason::HOSTNAME_CONFLICT,
                text: format!(
                    "an earlier listener has the same port and hostname; the listener `{}` is not served",
                    open.listener.name
                ),
                field: "",
            };
            refusal.tell(entry, open.index, findings, outcome);
        }
        is_new
    });
}

/// How far a route came towards a listener.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Miss {
    NoListener,
    NotAllowed,
    NoHost,
    Attached,
}

impl Miss {
    /// A reason of the Gateway API and a text; `None` where it attached.
    pub(super) fn explain(self, gateway: &ObjectRef) -> Option<(&'static str, String)> {
        match self {
            Self::Attached => None,
            Self::NoListener => Some((
                reason::NO_MATCHING_PARENT,
                format!("{gateway} serves no listener of this name and port"),
            )),
            Self::NotAllowed => Some((
                reason::NOT_ALLOWED_BY_LISTENERS,
                format!("the listeners of {gateway} do not allow HTTPRoutes of this namespace"),
            )),
            Self::NoHost => Some((
                reason::NO_MATCHING_LISTENER_HOSTNAME,
                format!("the listeners of {gateway} have no hostname in common with the route"),
            )),
        }
    }

    fn finding(self, route: &AttachedRoute, entry: &ProxyEntry) -> Option<Finding> {
        let (_, reason) = self.explain(&entry.object())?;
        Some(
            Finding::error(format!("{reason}; the route does not attach to it"))
                .on(&route.object)
                .field(format!("spec.parentRefs[{}]", route.parent)),
        )
    }
}

/// The routes of every host that something is said about. A listener's own host is always among
/// them, so that a host which it claims never falls through to a less specific listener.
fn by_host<'r>(
    resources: &Resources,
    entry: &ProxyEntry,
    listeners: &[Open<'_>],
    attached: &'r [AttachedRoute],
    reached: &mut [Miss],
    outcome: &mut GatewayOutcome,
) -> BTreeMap<HostPattern, Vec<&'r AttachedRoute>> {
    let mut by_host: BTreeMap<HostPattern, Vec<&AttachedRoute>> = listeners
        .iter()
        .map(|open| (open.pattern.clone(), Vec::new()))
        .collect();
    for open in listeners {
        for (route, reached) in attached.iter().zip(reached.iter_mut()) {
            let listener = open.listener;
            let named = route
                .section
                .as_deref()
                .is_none_or(|name| name == listener.name)
                && route.port.is_none_or(|port| port == listener.port);
            if !named {
                continue;
            }
            if !takes_http_routes(listener)
                || !admits(
                    &listener.allowed_routes,
                    &entry.proxy.namespace,
                    &route.object.namespace,
                    resources,
                )
            {
                *reached = (*reached).max(Miss::NotAllowed);
                continue;
            }
            *reached = (*reached).max(Miss::NoHost);
            let hosts: Vec<HostPattern> = if route.hostnames.is_empty() {
                vec![HostPattern::Any]
            } else {
                let hosts = route.hostnames.iter();
                hosts.map(|host| HostPattern::parse(Some(host))).collect()
            };
            for host in hosts {
                let Some(host) = open.pattern.intersection(&host) else {
                    continue;
                };
                *reached = Miss::Attached;
                let attached = &mut outcome.listeners[open.index].attached;
                attached.insert(route.route.serial);
                // A more specific listener that has this whole host to itself takes it.
                let taken = listeners.iter().any(|other| {
                    other.pattern != open.pattern
                        && open.pattern.covers(&other.pattern)
                        && other.pattern.covers(&host)
                });
                if !taken {
                    by_host.entry(host).or_default().push(route);
                }
            }
        }
    }
    by_host
}

fn host_table(
    by_host: &BTreeMap<HostPattern, Vec<&AttachedRoute>>,
    memo: &mut Memo<Vec<u64>, Routes>,
) -> HostTable {
    let mut table = HostTable::default();
    for (host, routes) in by_host {
        let routes = memo.get(routes::serials(routes), |_| Routes {
            producer: Arc::new(routes::build(routes)),
            consumers: Vec::new(),
        });
        match host {
            HostPattern::Exact(host) => {
                table.exact.insert(Hostname::new(host), routes);
            }
            HostPattern::Wildcard(suffix) => table.wildcards.push((Arc::clone(suffix), routes)),
            HostPattern::Any => table.any = Some(routes),
        }
    }
    table
        .wildcards
        .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
    table
}

/// Routes whose Gateway does not exist, or takes no routes.
fn judge_parents(
    resources: &Resources,
    proxies: &Proxies,
    routes: &RouteIndex,
    findings: &mut Vec<Finding>,
) {
    for ((namespace, name), attached) in &routes.gateways {
        let gateway: Option<&Arc<Gateway>> = resources
            .gateways
            .get(namespace, name)
            .map(|entry| &entry.object);
        let reason = match (gateway, proxies.find(namespace, name)) {
            (None, _) => format!("the Gateway {namespace}/{name} does not exist"),
            (Some(_), Some(entry)) if entry.is_waypoint() => format!(
                "the Gateway {namespace}/{name} is a waypoint, where routes attach to Services"
            ),
            _ => continue,
        };
        for route in attached {
            findings.push(
                Finding::error(format!("{reason}; the route does not attach to it"))
                    .on(&route.object)
                    .field(format!("spec.parentRefs[{}]", route.parent)),
            );
        }
    }
}
