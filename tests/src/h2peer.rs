//! HTTP/2 with prior knowledge, on both sides, for what only HTTP/2 can say.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::PATIENCE;
use crate::backend::{Handler, Recorded, Reply};

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
    send(to, "POST", path, fields, body, trailers)
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// How HTTP/2 failed.
pub fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    trailers: &[(&str, &str)],
) -> Result<Message, h2::Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://test{path}"))
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
        let nothing = body.is_empty() && trailers.is_empty();
        let (response, mut send) = client.send_request(request, nothing)?;
        if !nothing {
            let sent = Bytes::copy_from_slice(body);
            send.send_data(sent, trailers.is_empty())?;
        }
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

/// Makes calls in gRPC's manner on one connection, some of one message and one of many that go to and
/// fro, until the connection takes no more; `done` counts. Every call must come to its good end.
///
/// # Errors
/// Which call did not, and how.
///
/// # Panics
/// When the connection is none.
pub fn calls_until_goaway(on: std::net::TcpStream, done: &AtomicUsize) -> Result<(), String> {
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async {
        on.set_nonblocking(true).unwrap();
        let tcp = TcpStream::from_std(on).unwrap();
        let handshake = h2::client::handshake(tcp).await;
        let (client, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        loop {
            let mut calls = Vec::new();
            for messages in [1, 1, 1, 20] {
                let Ok(ready) = client.clone().ready().await else {
                    return join(calls).await;
                };
                let number = done.fetch_add(1, Ordering::Relaxed);
                let call = call(ready, number, messages);
                calls.push(tokio::task::spawn_local(async move {
                    let outcome = tokio::time::timeout(PATIENCE, call).await;
                    let outcome = outcome.map_err(|late| late.to_string()).flatten();
                    outcome.map_err(|error| format!("call {number}: {error}"))
                }));
            }
            join(calls).await?;
        }
    })
}

async fn join(calls: Vec<tokio::task::JoinHandle<Result<(), String>>>) -> Result<(), String> {
    for call in calls {
        call.await.unwrap()?;
    }
    Ok(())
}

/// One call whose messages are sent one by one, each behind the echo of the last.
async fn call(
    mut client: h2::client::SendRequest<Bytes>,
    number: usize,
    messages: usize,
) -> Result<(), String> {
    let text = |error: h2::Error| error.to_string();
    let mut request = Request::post(format!("http://test/call/{number}"))
        .body(())
        .unwrap();
    *request.headers_mut() = headers(&[("content-type", "application/grpc"), ("te", "trailers")]);
    let (response, mut send) = match client.send_request(request, false) {
        Ok(sent) => sent,
        // It was never sent: the client goes elsewhere with it.
        Err(error) if error.is_go_away() => return Ok(()),
        Err(error) => return Err(text(error)),
    };
    let message = Bytes::from(format!("message of call {number:08}"));
    send.send_data(message.clone(), false).map_err(text)?;
    let response = response.await.map_err(text)?;
    if response.status() != 200 {
        return Err(format!("{response:?}"));
    }
    let mut body = response.into_body();
    for sent in 1..=messages {
        let mut echoed = 0;
        while echoed < message.len() {
            let data = body.data().await.ok_or("no echo")?.map_err(text)?;
            body.flow_control()
                .release_capacity(data.len())
                .map_err(text)?;
            echoed += data.len();
        }
        if sent < messages {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            send.send_data(message.clone(), false).map_err(text)?;
        }
    }
    send.send_data(Bytes::new(), true).map_err(text)?;
    let rest = read(body).await.map_err(text)?;
    match rest.trailers.get("grpc-status") {
        Some(status) if status == "0" && rest.body.is_empty() => Ok(()),
        other => Err(format!("ended with {other:?} and {:?}", rest.body)),
    }
}

/// An HTTP/2 server. Ends when dropped.
pub struct Server {
    requests: Arc<Mutex<Vec<Message>>>,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Records requests and answers all alike.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(ip: IpAddr, port: u16, answer: Message) -> Self {
        Self::serve(ip, port, Some(answer))
    }

    /// Sends every piece of a body back as it comes, and ends as a gRPC call that went well.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn echoing(ip: IpAddr, port: u16) -> Self {
        Self::serve(ip, port, None)
    }

    fn serve(ip: IpAddr, port: u16, answer: Option<Message>) -> Self {
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

/// Serves one connection, each request answered when it has come in whole; one to a path that ends in
/// `/early` as soon as its head has.
pub(crate) fn answer_all(
    number: usize,
    stream: std::net::TcpStream,
    handler: &Arc<Handler>,
    recorded: &Arc<Mutex<Vec<Recorded>>>,
) {
    stream.set_nonblocking(true).unwrap();
    let local = tokio::task::LocalSet::new();
    let _ended = local.block_on(&runtime(), async {
        let tcp = TcpStream::from_std(stream).unwrap();
        let mut connection = h2::server::handshake(tcp).await?;
        while let Some(stream) = connection.accept().await {
            let (request, respond) = stream?;
            let (handler, recorded) = (Arc::clone(handler), Arc::clone(recorded));
            tokio::task::spawn_local(async move {
                let (mut head, body) = request.into_parts();
                let (mut message, _unread) = if head.uri.path().ends_with("/early") {
                    (Message::default(), Some(body))
                } else {
                    (read(body).await?, None)
                };
                message.headers = std::mem::take(&mut head.headers);
                let request = Recorded {
                    connection: number,
                    http2: true,
                    method: head.method.to_string(),
                    target: head.uri.path().to_owned(),
                    headers: texts(&message.headers),
                    body: message.body,
                    trailers: texts(&message.trailers),
                };
                recorded.lock().unwrap().push(request.clone());
                answer(&request, handler(&request), respond)
            });
        }
        Ok::<_, h2::Error>(())
    });
}

fn answer(
    request: &Recorded,
    reply: Reply,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let Reply {
        status,
        headers: fields,
        body,
        chunked,
        ..
    } = reply;
    let pairs = |fields: &[(String, String)]| {
        let pairs: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        headers(&pairs)
    };
    let mut response = Response::new(());
    *response.status_mut() = status.try_into().unwrap();
    *response.headers_mut() = pairs(&fields);
    if chunked.is_none() && !matches!(status, 204 | 304) {
        response
            .headers_mut()
            .insert(http::header::CONTENT_LENGTH, body.len().into());
    }
    let bodiless = request.method == "HEAD" || matches!(status, 204 | 304);
    let mut send = respond.send_response(response, bodiless)?;
    if bodiless {
        return Ok(());
    }
    let trailers = chunked.unwrap_or_default();
    send.send_data(body.into(), trailers.is_empty())?;
    if !trailers.is_empty() {
        send.send_trailers(pairs(&trailers))?;
    }
    Ok(())
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

async fn connection(
    tcp: TcpStream,
    answer: Option<Message>,
    recorded: Arc<Mutex<Vec<Message>>>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(tcp).await?;
    while let Some(stream) = connection.accept().await {
        let (request, mut respond) = stream?;
        let (answer, recorded) = (answer.clone(), Arc::clone(&recorded));
        tokio::task::spawn_local(async move {
            let (head, body) = request.into_parts();
            let Some(answer) = answer else {
                return echo(body, respond).await;
            };
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

async fn echo(
    mut body: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.headers_mut() = headers(&[("content-type", "application/grpc")]);
    let mut send = respond.send_response(response, false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        send.send_data(data, false)?;
    }
    send.send_trailers(headers(&[("grpc-status", "0")]))
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
