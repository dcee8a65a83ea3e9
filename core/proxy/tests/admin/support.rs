//! A data path with hand-made knowledge, and a client that shows what came byte by byte.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use wayline_chain::FilterSource;
use wayline_model::authorization::{AttachedPolicy, Authorization};
use wayline_model::mesh::MeshSettings;
use wayline_model::route::{
    Forward, HeaderEdits, HeaderMatch, PathMatch, RetryPolicy, RouteAction, RouteEntry, RouteMatch,
    RouteOrder, RouteRule, RouteTable, Routes, Timeouts, ValueMatch, WeightedBackend,
};
use wayline_model::service::{
    AppProtocol, Cluster, ClusterId, Endpoint, Service, ServicePort, Transport,
};
use wayline_model::snapshot::{Entrance, HostTable, Proxy, ProxyRole, Target};
use wayline_model::{Finding, Hostname, Identity, ObjectRef, Snapshot};
use wayline_proxy::{Inputs, LiveObjects, LogLevels, Running, Settings, StartError};
use wayline_telemetry::{MetricsHub, MetricsSettings};
use wayline_tls::{CertificateStore, DEFAULT_LIFETIME, DevCa, IssuedCertificate};

/// A test that waits for something fails after this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The value of a header edit that must not be shown.
pub(crate) const CREDENTIAL: &str = "Bearer dont-show-this";

/// A data path at work.
pub(crate) struct Bench {
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) findings: watch::Sender<Arc<Vec<Finding>>>,
    pub(crate) certificates: CertificateStore,
    pub(crate) running: Running,
    _dir: TempDir,
    ca: DevCa,
}

/// What a bench starts with.
#[derive(Default)]
pub(crate) struct Beginning {
    pub(crate) snapshot: Snapshot,
    pub(crate) filters: Vec<Arc<dyn FilterSource>>,
    pub(crate) log_levels: Option<Arc<dyn LogLevels>>,
    pub(crate) objects: Option<Arc<dyn LiveObjects>>,
    /// Where tunnels come in; any free port by default.
    pub(crate) hbone: Option<SocketAddr>,
}

impl From<Snapshot> for Beginning {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            ..Self::default()
        }
    }
}

impl Bench {
    pub(crate) fn start(beginning: impl Into<Beginning>) -> Self {
        Self::try_start(beginning).unwrap()
    }

    pub(crate) fn try_start(beginning: impl Into<Beginning>) -> Result<Self, StartError> {
        let beginning = beginning.into();
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
        let (snapshots, _) = watch::channel(Arc::new(beginning.snapshot));
        let (findings, _) = watch::channel(Arc::default());
        let certificates = CertificateStore::new();
        let inputs = Inputs {
            snapshots: snapshots.subscribe(),
            findings: findings.subscribe(),
            certificates: certificates.clone(),
            filters: beginning.filters,
            hub: Arc::new(MetricsHub::new("test", MetricsSettings::default()).unwrap()),
            log_levels: beginning.log_levels,
            objects: beginning.objects,
        };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = Settings {
            workers: 1,
            hbone: beginning.hbone.unwrap_or(any),
            admin: any,
            status: any,
            metrics: any,
            drain_timeout: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
            timeouts: wayline_proxy::Timeouts::default(),
            locality: wayline_model::service::Locality::default(),
            limits: wayline_proxy::Limits::default(),
        };
        let running = wayline_proxy::start(&settings, inputs)?;
        Ok(Self {
            snapshots,
            findings,
            certificates,
            running,
            _dir: dir,
            ca,
        })
    }

    /// Gives the data path a certificate.
    pub(crate) fn certify(&self) -> IssuedCertificate {
        let identity = identity("waypoint");
        let issued = self.ca.issue(&identity, DEFAULT_LIFETIME).unwrap();
        self.certificates.replace(issued.bundle()).unwrap();
        issued
    }

    pub(crate) fn port(&self, name: &str) -> SocketAddr {
        self.running.listeners().bound(name).unwrap()
    }

    pub(crate) fn ask(&self, port: &str, method: &str, path: &str) -> Reply {
        Request::new(method, path).send(self.port(port))
    }

    pub(crate) fn get(&self, port: &str, path: &str) -> Reply {
        self.ask(port, "GET", path)
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let reply = self.get("admin", path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        serde_json::from_str(&reply.body).unwrap()
    }

    /// Asks until the answer is as wanted.
    pub(crate) fn eventually(
        &self,
        port: &str,
        path: &str,
        fits: impl Fn(&Reply) -> bool,
    ) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = self.get(port, path);
            if fits(&reply) {
                return reply;
            }
            assert!(Instant::now() < deadline, "{path} stays {reply:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A request as it is sent.
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: vec!["Host: localhost".to_owned()],
            body: Vec::new(),
        }
    }

    /// Without the header lines sent otherwise.
    pub(crate) fn bare(mut self) -> Self {
        self.headers.clear();
        self
    }

    pub(crate) fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn send(self, to: SocketAddr) -> Reply {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sent = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for line in &self.headers {
            sent.push_str(line);
            sent.push_str("\r\n");
        }
        let length = self.body.len();
        sent.push_str(&format!(
            "Content-Length: {length}\r\nConnection: close\r\n\r\n"
        ));
        stream.write_all(sent.as_bytes()).unwrap();
        // A server that refuses early may close before it has read everything.
        let _refused = stream.write_all(&self.body);
        let mut received = Vec::new();
        let _reset = stream.read_to_end(&mut received);
        Reply::parse(&String::from_utf8(received).unwrap())
    }
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    fn parse(received: &str) -> Self {
        let (head, body) = received.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        Self {
            status: status.parse().unwrap(),
            headers: lines
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A log filter that accepts what does not contain `bad`.
#[derive(Default)]
pub(crate) struct FakeLevels(pub(crate) Mutex<String>);

impl LogLevels for FakeLevels {
    fn current(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        if filter.contains("bad") {
            return Err("no such module".to_owned());
        }
        *self.0.lock().unwrap() = filter.to_owned();
        Ok(())
    }
}

pub(crate) fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

/// Nothing but a generation.
pub(crate) fn empty(generation: u64) -> Snapshot {
    Snapshot {
        generation,
        ..Snapshot::default()
    }
}

/// A gateway with the entrances given, all on 127.0.0.1.
pub(crate) fn gateway(ports: &[u16]) -> Snapshot {
    let proxy = proxy("shop", ProxyRole::Gateway);
    Snapshot {
        proxies: vec![Arc::clone(&proxy)],
        entrances: ports
            .iter()
            .map(|port| {
                Arc::new(Entrance {
                    proxy: Arc::clone(&proxy),
                    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    port: *port,
                    hosts: Arc::new(HostTable {
                        wildcards: vec![(".example.com".into(), Arc::new(split()))],
                        ..HostTable::default()
                    }),
                    authorization: Arc::default(),
                    plugins: Arc::default(),
                    authentication: Arc::default(),
                })
            })
            .collect(),
        clusters: clusters(),
        ..empty(1)
    }
}

/// A waypoint for `reviews`: port 9080 is HTTP with a split, 9000 is TCP.
pub(crate) fn waypoint() -> Snapshot {
    let proxy = proxy("waypoint", ProxyRole::Waypoint);
    let mut snapshot = Snapshot {
        proxies: vec![Arc::clone(&proxy)],
        clusters: clusters(),
        ..empty(1)
    };
    let policy = AttachedPolicy {
        namespace: "default".into(),
        name: "no-admin".into(),
        spec: serde_json::from_value(serde_json::json!({
            "action": "DENY",
            "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}],
        }))
        .map(Arc::new)
        .unwrap(),
        dry_run: false,
        creation: None,
    };
    let (authorization, _) = Authorization::compile(&[policy], &MeshSettings::default());
    let authorization = Arc::new(authorization);
    for (port, protocol, id) in [(9080, AppProtocol::Http, 1), (9000, AppProtocol::Tcp, 2)] {
        let target = Arc::new(Target {
            proxy: Arc::clone(&proxy),
            service: Some(reviews()),
            workload: None,
            port,
            protocol,
            routes: Arc::new(split()),
            authorization: Arc::clone(&authorization),
            plugins: Arc::default(),
            authentication: Arc::default(),
            cluster: ClusterId(id),
        });
        let address = ("".into(), IpAddr::from([10, 96, 0, 7]), port);
        snapshot
            .tunnels
            .by_address
            .insert(address, Arc::clone(&target));
        let hosts = &mut snapshot.tunnels.by_host;
        hosts
            .entry(reviews().hostname.clone())
            .or_default()
            .push((port, target));
    }
    snapshot
}

fn proxy(name: &str, role: ProxyRole) -> Arc<Proxy> {
    Arc::new(Proxy {
        name: name.into(),
        namespace: "default".into(),
        class: "wayline".into(),
        role,
        proxy_protocol: None,
        identity: identity(name),
    })
}

fn reviews() -> Arc<Service> {
    let port = |name: &str, port, protocol| ServicePort {
        name: name.into(),
        port,
        protocol,
    };
    Arc::new(Service {
        name: "reviews".into(),
        namespace: "default".into(),
        hostname: Hostname::new("reviews.default.svc.cluster.local"),
        addresses: vec![IpAddr::from([10, 96, 0, 7])],
        network: "".into(),
        ports: vec![
            port("http", 9080, AppProtocol::Http),
            port("tcp", 9000, AppProtocol::Tcp),
        ],
    })
}

fn clusters() -> HashMap<ClusterId, Arc<Cluster>> {
    let cluster = |id, port, protocol| {
        let endpoint = |last: u8, transport| {
            Arc::new(Endpoint {
                address: SocketAddr::from(([127, 0, 0, last], port)),
                transport,
                workload: None,
                zone: "zone-a".into(),
                node: "".into(),
                for_zones: Arc::default(),
                for_nodes: Arc::default(),
            })
        };
        let tunnel = Transport::Hbone {
            gateway: SocketAddr::from(([127, 0, 0, 2], 15008)),
            identity: identity("reviews"),
        };
        let cluster = Cluster {
            id: ClusterId(id),
            name: format!("outbound|{port}||reviews.default.svc.cluster.local").into(),
            service: Some(reviews()),
            port,
            protocol,
            endpoints: vec![endpoint(1, Transport::Plain), endpoint(2, tunnel)],
            connect_timeout_ms: 10_000,
            prefers: wayline_model::service::Preference::Any,
        };
        (ClusterId(id), Arc::new(cluster))
    };
    HashMap::from([
        cluster(1, 9080, AppProtocol::Http),
        cluster(2, 9000, AppProtocol::Tcp),
    ])
}

/// GET /api with `end-user: jason` is split 90/10 with a backend that is missing; the rest goes to
/// reviews.
fn split() -> Routes {
    let backend = |weight, cluster| WeightedBackend {
        weight,
        cluster,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        mirrors: Vec::new(),
        cors: None,
    };
    let rule = |name: &str, backends: Vec<WeightedBackend>| {
        Arc::new(RouteRule {
            name: name.into(),
            route: Some(ObjectRef::new("HTTPRoute", "default", "reviews")),
            action: RouteAction::Forward(Forward {
                total_weight: backends.iter().map(|backend| backend.weight).sum(),
                backends,
                mirrors: Vec::new(),
                rewrite: None,
                retry: RetryPolicy::default(),
                timeouts: Timeouts {
                    request: Some(Duration::from_millis(1_500)),
                    backend_request: None,
                },
                session: None,
            }),
            request_headers: HeaderEdits {
                set: vec![
                    (
                        "authorization".parse().unwrap(),
                        CREDENTIAL.parse().unwrap(),
                    ),
                    ("x-shown".parse().unwrap(), "yes".parse().unwrap()),
                ],
                ..HeaderEdits::default()
            },
            response_headers: HeaderEdits::default(),
            cors: None,
            external_auth: None,
        })
    };
    let entry = |matches, rule| RouteEntry {
        matches,
        rule,
        order: RouteOrder::default(),
    };
    let table = RouteTable::build(vec![
        entry(
            RouteMatch::default(),
            rule("rest", vec![backend(1, Ok(ClusterId(1)))]),
        ),
        entry(
            RouteMatch {
                path: PathMatch::Prefix("/api".into()),
                headers: vec![HeaderMatch {
                    name: "end-user".parse().unwrap(),
                    value: ValueMatch::Exact("jason".into()),
                }],
                method: Some("GET".parse().unwrap()),
                ..RouteMatch::default()
            },
            rule(
                "split",
                vec![
                    backend(90, Ok(ClusterId(1))),
                    backend(10, Err("Service default/gone does not exist".into())),
                ],
            ),
        ),
    ]);
    Routes {
        producer: Arc::new(table),
        consumers: Vec::new(),
    }
}
