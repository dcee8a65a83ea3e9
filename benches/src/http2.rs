//! The backend's side of HTTP/2: GET, POST and unary gRPC.

use std::io;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::task::spawn_local;

use crate::exchange::{BODY, LARGE, grpc_message};
use crate::scene::LARGE_PATH;

const WINDOW: u32 = 4 << 20;

/// Serves a connection of which the first bytes were read already, until the peer closes it.
pub(crate) async fn respond(
    first: &[u8],
    io: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let (read, write) = tokio::io::split(io);
    let io = tokio::io::join(io::Cursor::new(first.to_vec()).chain(read), write);
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(io::Error::other)?;
    let large = Bytes::from(vec![b'x'; LARGE]);
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream.map_err(io::Error::other)?;
        let large = large.clone();
        spawn_local(async move {
            // A stream that fails is noticed by whoever waits for its answer.
            let _reset = answer(request, respond, large).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    large: Bytes,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    while let Some(chunk) = body.data().await {
        body.flow_control().release_capacity(chunk?.len())?;
    }
    let is_grpc = head
        .headers
        .get("content-type")
        .is_some_and(|it| it == "application/grpc");
    let mut response = Response::new(());
    if is_grpc {
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", content_type);
        let mut send = respond.send_response(response, false)?;
        send.send_data(grpc_message(), false)?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        return send.send_trailers(trailers);
    }
    let body = if head.method == Method::GET && head.uri.path() == LARGE_PATH {
        large
    } else {
        Bytes::from_static(BODY)
    };
    let length = HeaderValue::from(body.len());
    response.headers_mut().insert("content-length", length);
    let mut send = respond.send_response(response, false)?;
    send.send_data(body, true)
}
