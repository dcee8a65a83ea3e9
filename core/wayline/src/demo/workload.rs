//! A workload of the demo: whatever it sends passes the waypoint, as ztunnel would have it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use wayline_hbone::Client;
use wayline_model::{Identity, TrustDomain};
use wayline_tls::DevCa;

use crate::curl::caller::Caller;
use crate::curl::cut_off;
use crate::curl::target::Target;
use crate::failure::Failure;

/// Headers an application passes on, so that traces hang together.
const PASSED_ON: [&str; 9] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// Somebody in the mesh, in the namespace `default`.
pub(crate) struct Workload {
    /// Its service account.
    pub(crate) account: &'static str,
    ca: Arc<DevCa>,
    via: SocketAddr,
    /// One connection carries all tunnels.
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Connection {
    caller: Caller,
    client: Client,
}

/// A response, whole.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Status.
    pub(crate) status: StatusCode,
    /// Body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A kept-alive connection to one service.
pub(crate) struct Conversation {
    host: HeaderValue,
    sender: SendRequest<Empty<Bytes>>,
}

impl Workload {
    /// A workload that runs as `default/<account>`.
    pub(crate) fn new(account: &'static str, ca: &Arc<DevCa>, via: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            account,
            ca: Arc::clone(ca),
            via,
            connection: Mutex::default(),
        })
    }

    /// Sends one request, on a tunnel of its own.
    pub(crate) async fn ask(&self, method: Method, url: &str) -> Result<Reply, Failure> {
        self.ask_on_behalf(method, url, &HeaderMap::new()).await
    }

    /// Sends one request that another one gave rise to.
    pub(crate) async fn ask_on_behalf(
        &self,
        method: Method,
        url: &str,
        incoming: &HeaderMap,
    ) -> Result<Reply, Failure> {
        let mut conversation = self.talk_to(url).await?;
        let path = Target::parse(url, "default")?.path().clone();
        conversation
            .ask(
                method,
                path.path_and_query().map_or("/", |it| it.as_str()),
                incoming,
            )
            .await
    }

    /// Opens a tunnel to the service that a URL names.
    pub(crate) async fn talk_to(&self, url: &str) -> Result<Conversation, Failure> {
        let target = Target::parse(url, "default")?;
        let connection = self.connection().await?;
        let tunnel = connection.caller.open(&connection.client, &target).await?;
        Conversation::start(tunnel, target.host_header()?).await
    }

    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held
            && connection.client.is_usable()
        {
            return Ok(Arc::clone(connection));
        }
        // A certificate of its own for each connection: none outlives its certificate for long.
        let identity =
            Identity::new(TrustDomain::default(), "default", self.account).map_err(Failure::new)?;
        let caller = Caller::new(&self.ca, identity)?;
        let client = caller.connect(self.via).await?;
        let connection = Arc::new(Connection { caller, client });
        *held = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

impl Conversation {
    /// Talks plain HTTP to an address, as a browser would.
    pub(crate) async fn outside(address: SocketAddr) -> Result<Self, Failure> {
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|error| Failure::new(format!("cannot reach {address}: {error}")))?;
        let _ = tcp.set_nodelay(true);
        let host = HeaderValue::try_from(address.to_string()).map_err(Failure::new)?;
        Self::start(tcp, host).await
    }

    async fn start<IO>(io: IO, host: HeaderValue) -> Result<Self, Failure>
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| cut_off(&error))?;
        // How it ends shows in the answers.
        tokio::spawn(connection);
        Ok(Self { host, sender })
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        incoming: &HeaderMap,
    ) -> Result<Reply, Failure> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(Failure::new)?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("wayline-demo"));
        for name in PASSED_ON {
            if let Some(value) = incoming.get(name) {
                headers.insert(name, value.clone());
            }
        }
        self.sender.ready().await.map_err(|error| cut_off(&error))?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|error| cut_off(&error))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| cut_off(&error))?
            .to_bytes();
        Ok(Reply { status, body })
    }

    /// GET, for nobody but us.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Reply, Failure> {
        self.ask(Method::GET, path, &HeaderMap::new()).await
    }
}
