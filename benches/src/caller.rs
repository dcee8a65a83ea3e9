//! One request at a time, in either version of HTTP, with every reply looked at.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderName, HeaderValue, Method, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::exchange::{BODY, Connection, ExchangeError, LARGE, Request, grpc_message};
use crate::job::{Call, LoadError};
use crate::scene::{GRPC_PATH, HOST, LARGE_PATH, PATH};

/// A connection, or a share in one.
pub(crate) enum Caller<IO> {
    Http1(Connection<IO>, Request),
    Http2(SendRequest<Bytes>, Box<http::Request<()>>, Bytes),
}

impl Call {
    /// The path of the request.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Get => PATH,
            Self::Download | Self::Upload => LARGE_PATH,
            Self::Grpc => GRPC_PATH,
        }
    }

    /// How many body bytes must come back.
    fn answer(self) -> usize {
        match self {
            Self::Get | Self::Upload => BODY.len(),
            Self::Download => LARGE,
            Self::Grpc => grpc_message().len(),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Caller<IO> {
    pub(crate) fn http1(io: IO, call: Call, header: Option<&(String, String)>) -> Self {
        let request = match call {
            Call::Upload => Request::post(call.path(), LARGE),
            Call::Get | Call::Download | Call::Grpc => Request::get(call.path()),
        };
        let request = match header {
            Some((name, value)) => request.with_header(name, value),
            None => request,
        };
        Self::Http1(Connection::new(io), request)
    }

    pub(crate) fn http2(
        sender: SendRequest<Bytes>,
        call: Call,
        header: Option<&(String, String)>,
    ) -> Result<Self, http::Error> {
        let uri: Uri = format!("http://{HOST}{}", call.path())
            .parse()
            .map_err(http::Error::from)?;
        let mut request = http::Request::builder()
            .uri(uri)
            .header("user-agent", "bench-load")
            .header("accept", "*/*");
        let mut body = Bytes::new();
        match call {
            Call::Get | Call::Download => {}
            Call::Upload => {
                request = request.method(Method::POST);
                body = vec![b'x'; LARGE].into();
            }
            Call::Grpc => {
                request = request
                    .method(Method::POST)
                    .header("content-type", "application/grpc")
                    .header("te", "trailers");
                body = grpc_message();
            }
        }
        let mut request = request.body(())?;
        if let Some((name, value)) = header {
            let name: HeaderName = name.parse()?;
            let value: HeaderValue = value.parse()?;
            request.headers_mut().insert(name, value);
        }
        Ok(Self::Http2(sender, Box::new(request), body))
    }

    /// One exchange, which must be answered as the backend answers it.
    pub(crate) async fn call(&mut self, call: Call) -> Result<(), LoadError> {
        let path = call.path();
        let failed = |source| LoadError::Exchange {
            path: path.to_owned(),
            source,
        };
        match self {
            Self::Http1(connection, request) => {
                let reply = connection.exchange(request).await.map_err(failed)?;
                let right = reply.length == call.answer()
                    && (reply.length != BODY.len() || reply.body == BODY);
                if reply.status != 200 || reply.closes || !right {
                    return Err(LoadError::Answer {
                        path: path.to_owned(),
                        status: reply.status,
                        closes: reply.closes,
                        body: shown(reply.body),
                        expected: "200 with the backend's body, kept alive,",
                    });
                }
                Ok(())
            }
            Self::Http2(sender, request, body) => {
                let answer = http2(sender, request, body).await;
                let answer = answer.map_err(|error| failed(ExchangeError::Http2(error)))?;
                let wants_status = matches!(call, Call::Grpc).then_some(0);
                if answer.status != 200
                    || answer.length != call.answer()
                    || answer.grpc_status != wants_status
                {
                    return Err(LoadError::Answer {
                        path: path.to_owned(),
                        status: answer.status,
                        closes: false,
                        body: format!(
                            "{} bytes, grpc-status {:?}",
                            answer.length, answer.grpc_status
                        ),
                        expected: "200 with the backend's body and trailers",
                    });
                }
                Ok(())
            }
        }
    }
}

struct Http2Answer {
    status: u16,
    length: usize,
    grpc_status: Option<u32>,
}

async fn http2(
    sender: &SendRequest<Bytes>,
    request: &http::Request<()>,
    body: &Bytes,
) -> Result<Http2Answer, h2::Error> {
    let mut ready = sender.clone().ready().await?;
    let (response, mut send) = ready.send_request(request.clone(), body.is_empty())?;
    if !body.is_empty() {
        // Queued as a whole: the backend reads it all before it answers.
        send.send_data(body.clone(), true)?;
    }
    let response = response.await?;
    let status = response.status().as_u16();
    let mut incoming = response.into_body();
    let mut length = 0;
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk?;
        length += chunk.len();
        incoming.flow_control().release_capacity(chunk.len())?;
    }
    let trailers = incoming.trailers().await?;
    let grpc_status = trailers
        .as_ref()
        .and_then(|trailers| trailers.get("grpc-status")?.to_str().ok()?.parse().ok());
    Ok(Http2Answer {
        status,
        length,
        grpc_status,
    })
}

pub(crate) fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}
