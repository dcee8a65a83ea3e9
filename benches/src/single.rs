//! One core of Wayline, its client and its backend on one event loop: what can be counted exactly.
//!
//! Everybody takes turns on one thread, over real loopback connections, so that two runs execute the
//! same instructions and make the same allocations; the kernel's share of a connection is not counted
//! by whoever counts here. Counts include the client's and the backend's share, which
//! [`Single::direct`] tells.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderMap;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use wayline_hbone::{Client, TunnelAuthority, TunnelStream};
use wayline_model::resource::parse;
use wayline_model::snapshot::Entrance;
use wayline_model::{Identity, Resources, Snapshot, Translator};
use wayline_proxy::{Inputs, Settings, SingleCore};
use wayline_telemetry::{MetricsHub, MetricsSettings};
use wayline_tls::{CertificateStore, DEFAULT_LIFETIME, DevCa};

use crate::backend::Backend;
use crate::exchange::{BODY, Connection, Request};
use crate::manifests::manifests;
use crate::scene::{AUTHORITY, PATH, backend_identity, client_identity, waypoint_identity};
use crate::setup::Setup;

/// Why nothing was counted.
pub type Failure = Box<dyn std::error::Error>;

/// A core with a configuration, and a backend.
pub struct Single {
    runtime: LocalRuntime,
    core: SingleCore,
    entrance: Option<Arc<Entrance>>,
    backend: SocketAddr,
    client: CertificateStore,
    // The core ends without them.
    _snapshots: watch::Sender<Arc<Snapshot>>,
    _findings: watch::Sender<Arc<Vec<wayline_model::Finding>>>,
    _ca: TempDir,
}

/// A tunnel's connection, on which streams can be opened.
pub struct Tunnels {
    client: Client,
    authority: TunnelAuthority,
}

impl Single {
    /// Starts core and backend for a configuration.
    pub fn start(setup: &Setup) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let ca = DevCa::open_or_create(dir.path())?;
        let certified = |identity: &Identity| -> Result<CertificateStore, Failure> {
            let store = CertificateStore::new();
            store.replace(ca.issue(identity, DEFAULT_LIFETIME)?.bundle())?;
            Ok(store)
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        let _inside = runtime.enter();
        let backend = runtime.block_on(Backend::open_plain(certified(&backend_identity())?))?;
        let backend_address = backend.plain_address()?;
        let snapshot = snapshot(setup, backend_address)?;
        let entrance = snapshot.entrances.first().cloned();

        let (snapshots, _) = watch::channel(snapshot);
        let (findings, _) = watch::channel(Arc::default());
        let inputs = Inputs {
            snapshots: snapshots.subscribe(),
            findings: findings.subscribe(),
            certificates: certified(&waypoint_identity())?,
            filters: wayline_filters::native_sources(wayline_filters::RemoteKeys::none()),
            hub: Arc::new(MetricsHub::new("bench", MetricsSettings::default())?),
            log_levels: None,
            objects: None,
        };
        let (core, life) = SingleCore::start(&Settings::default(), inputs);
        runtime.spawn_local(life);
        runtime.spawn_local(async {
            if let Err(error) = backend.serve().await {
                eprintln!("the backend: {error}");
            }
        });
        Ok(Self {
            core,
            entrance,
            backend: backend_address,
            client: certified(&client_identity())?,
            _snapshots: snapshots,
            _findings: findings,
            _ca: dir,
            runtime,
        })
    }

    /// Opens so many connections to the waypoint that then do nothing. Their clients live on a thread of
    /// their own, so that whoever counts on this one counts the core's ends.
    pub fn idle(&self, count: usize) -> Result<Idle, Failure> {
        let mut near = Vec::new();
        for _ in 0..count {
            let (client, far, source) = self.runtime.block_on(pair())?;
            self.core.tunnel(far, source);
            near.push(client.into_std()?);
        }
        let (opened, all_open) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let store = self.client.clone();
        let clients = std::thread::spawn(move || -> Result<(), String> {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let mut open = Vec::new();
                for tcp in near {
                    let tcp = TcpStream::from_std(tcp).map_err(|error| error.to_string())?;
                    open.push(
                        client(&store, tcp)
                            .await
                            .map_err(|error| error.to_string())?,
                    );
                }
                // Settings and windows are still to be acknowledged.
                tokio::time::sleep(Duration::from_millis(200)).await;
                // Whoever does not wait any more does not need to know.
                let _told = opened.send(());
                let _end = ended.await;
                Ok(())
            })
        });
        let idle = Idle {
            _end: end,
            clients: Some(clients),
        };
        match self.runtime.block_on(all_open) {
            Ok(()) => Ok(idle),
            Err(_) => Err(idle.failure().into()),
        }
    }

    /// Runs a piece of client work.
    pub fn run<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.runtime.block_on(work)
    }

    /// A client's connection to the backend itself.
    pub async fn direct(&self) -> Result<Connection<TcpStream>, Failure> {
        let tcp = TcpStream::connect(self.backend).await?;
        tcp.set_nodelay(true)?;
        Ok(Connection::new(tcp))
    }

    /// A client's connection to the gateway.
    pub async fn plain(&self) -> Result<Connection<TcpStream>, Failure> {
        let entrance = self.entrance.as_ref().ok_or("there is no gateway")?;
        let (near, far, source) = pair().await?;
        self.core.plain(far, source, entrance);
        Ok(Connection::new(near))
    }

    /// A client's connection to the waypoint.
    pub async fn tunnels(&self) -> Result<Tunnels, Failure> {
        let (near, far, source) = pair().await?;
        self.core.tunnel(far, source);
        Ok(Tunnels {
            client: client(&self.client, near).await?,
            authority: TunnelAuthority::parse(AUTHORITY)?,
        })
    }
}

/// Connections that do nothing until this is dropped.
pub struct Idle {
    _end: oneshot::Sender<()>,
    clients: Option<JoinHandle<Result<(), String>>>,
}

impl Idle {
    fn failure(mut self) -> String {
        match self.clients.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => "the clients' thread ended".to_owned(),
        }
    }
}

impl Tunnels {
    /// A stream to the service, accepted by the waypoint.
    pub async fn open(&self) -> Result<TunnelStream, Failure> {
        Ok(self.client.open(&self.authority, HeaderMap::new()).await?)
    }
}

/// Sends so many requests one after the other; each must be answered by the backend.
pub async fn requests<IO>(connection: &mut Connection<IO>, count: usize) -> Result<(), Failure>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let request = Request::get(PATH);
    for _ in 0..count {
        let reply = connection.exchange(&request).await?;
        if reply.status != 200 || reply.body != BODY {
            let body = String::from_utf8_lossy(reply.body);
            return Err(format!("answered {}: {body}", reply.status).into());
        }
    }
    Ok(())
}

/// The client's end of a tunnel's connection.
async fn client(store: &CertificateStore, tcp: TcpStream) -> Result<Client, Failure> {
    let epoch = store.current()?;
    let tls = wayline_tls::connect(&epoch, tcp, &[waypoint_identity()]).await?;
    let settings = wayline_hbone::Settings::default();
    let (client, driver) = wayline_hbone::connect(tls, &settings).await?;
    spawn_local(async {
        // Its end is seen by the streams it carries.
        let _ended = driver.await;
    });
    Ok(client)
}

/// What the manifests of a setup translate to; a finding is an error.
pub fn snapshot(setup: &Setup, backend: SocketAddr) -> Result<Arc<Snapshot>, Failure> {
    // Nobody listens there: connections are handed over.
    const PORT: u16 = 80;
    let yaml = |text: &str| serde_json::from_str(text).map_err(|error| error.to_string());
    let mut resources = Resources::new();
    for document in manifests(setup, PORT, backend) {
        resources.upsert(parse(&document, &yaml));
    }
    let verdicts = HashMap::new();
    let translation = Translator::default().translate(&resources, &verdicts);
    match translation.findings.first() {
        Some(finding) => Err(finding.to_string().into()),
        None => Ok(translation.snapshot),
    }
}

/// Both ends of a loopback connection, and the address of the first.
async fn pair() -> Result<(TcpStream, std::net::TcpStream, SocketAddr), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    near.set_nodelay(true)?;
    let (far, source) = listener.accept().await?;
    Ok((near, far.into_std()?, source))
}
