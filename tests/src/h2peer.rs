//! HTTP/2 with prior knowledge, on both sides, for what only HTTP/2 can say.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::PATIENCE;

/// A message with all its parts.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Status of a response, 0 in a request.
    pub status: u16,
    /// Path of a request.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: HeaderMap,
}

/// Headers from texts.
///
/// # Panics
/// When they are none.
#[must_use]
pub fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            name.parse::<HeaderName>().unwrap(),
            value.parse::<HeaderValue>().unwrap(),
        );
    }
    map
}

/// Sends a POST and reads the whole answer.
///
/// # Errors
/// How HTTP/2 failed.
pub fn post(
    to: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    trailers: &[(&str, &str)],
) -> Result<Message, h2::Error> {
    let mut request = Request::post(format!("http://test{path}"))
        .body(())
        .unwrap();
    *request.headers_mut() = headers(fields);
    let exchange = async {
        let tcp = TcpStream::connect(to).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let mut client = client.ready().await?;
        let (response, mut send) = client.send_request(request, false)?;
        let sent = Bytes::copy_from_slice(body);
        send.send_data(sent, trailers.is_empty())?;
        if !trailers.is_empty() {
            send.send_trailers(headers(trailers))?;
        }
        let (head, body) = response.await?.into_parts();
        let mut answer = read(body).await?;
        answer.status = head.status.as_u16();
        answer.headers = head.headers;
        Ok(answer)
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async {
        tokio::time::timeout(PATIENCE, exchange).await.unwrap()
    })
}

/// An HTTP/2 server that records requests and answers all alike. Ends when dropped.
pub struct Server {
    requests: Arc<Mutex<Vec<Message>>>,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Starts it.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(ip: IpAddr, port: u16, answer: Message) -> Self {
        let listener = std::net::TcpListener::bind((ip, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let requests: Arc<Mutex<Vec<Message>>> = Arc::default();
        let recorded = Arc::clone(&requests);
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime(), async move {
                let accepting = async {
                    let listener = TcpListener::from_std(listener).unwrap();
                    while let Ok((tcp, _)) = listener.accept().await {
                        let (answer, recorded) = (answer.clone(), Arc::clone(&recorded));
                        tokio::task::spawn_local(async move {
                            let _ = connection(tcp, answer, recorded).await;
                        });
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            requests,
            _stop: stop,
        }
    }

    /// The last request.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn last(&self) -> Message {
        self.requests.lock().unwrap().last().unwrap().clone()
    }
}

async fn connection(
    tcp: TcpStream,
    answer: Message,
    recorded: Arc<Mutex<Vec<Message>>>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(tcp).await?;
    while let Some(stream) = connection.accept().await {
        let (request, mut respond) = stream?;
        let (answer, recorded) = (answer.clone(), Arc::clone(&recorded));
        tokio::task::spawn_local(async move {
            let (head, body) = request.into_parts();
            let mut message = read(body).await?;
            message.path = head.uri.path().to_owned();
            message.headers = head.headers;
            recorded.lock().unwrap().push(message);
            let mut response = Response::new(());
            *response.status_mut() = answer.status.try_into().unwrap();
            *response.headers_mut() = answer.headers.clone();
            let mut send = respond.send_response(response, false)?;
            send.send_data(answer.body.clone().into(), answer.trailers.is_empty())?;
            if !answer.trailers.is_empty() {
                send.send_trailers(answer.trailers.clone())?;
            }
            Ok::<_, h2::Error>(())
        });
    }
    poll_fn(|cx| connection.poll_closed(cx)).await
}

async fn read(mut body: RecvStream) -> Result<Message, h2::Error> {
    let mut message = Message::default();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.body.extend_from_slice(&data);
    }
    message.trailers = body.trailers().await?.unwrap_or_default();
    Ok(message)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
