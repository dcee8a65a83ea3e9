//! The objects of a live proxy, from its admin port.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use wayline_model::ObjectRef;

use crate::failure::Failure;

/// How long the whole answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of an answer.
const MAX_BYTES: usize = 1 << 30;

/// What a live proxy serves.
#[derive(Debug)]
pub(crate) struct Live {
    /// Its objects.
    pub(crate) objects: Vec<Value>,
    /// Objects that it knows of and could never read.
    pub(crate) unreadable: Vec<ObjectRef>,
    /// The Gateways it plays, by namespace and name.
    pub(crate) gateways: Vec<(String, String)>,
}

/// Asks for the objects.
pub(crate) fn fetch(admin: SocketAddr, with_secrets: bool) -> Result<Live, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    let answer = runtime.block_on(async {
        let asked = tokio::time::timeout(TIMEOUT, ask(admin, with_secrets)).await;
        asked.map_err(|_| {
            Failure::new(format!(
                "the admin port at {admin} did not answer within {TIMEOUT:?}"
            ))
            .remedy("check that --admin names the admin port of a Wayline process")
        })?
    })?;
    let list: Value = serde_json::from_slice(&answer).map_err(|error| stranger(admin, error))?;
    read(list).ok_or_else(|| stranger(admin, "the answer is no list of objects"))
}

async fn ask(admin: SocketAddr, with_secrets: bool) -> Result<Bytes, Failure> {
    let tcp = TcpStream::connect(admin).await.map_err(|error| {
        Failure::new(format!("cannot reach the admin port at {admin}: {error}"))
            .remedy("name the address that `wayline run --admin` was given")
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|error| stranger(admin, error))?;
    let driver = tokio::spawn(connection);
    let path = if with_secrets {
        "/wayline/objects?secrets=1"
    } else {
        "/wayline/objects"
    };
    let request = Request::get(path)
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(Failure::new)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| stranger(admin, error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|error| stranger(admin, error))?
        .to_bytes();
    driver.abort();
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::FORBIDDEN => {
            let said = String::from_utf8_lossy(&body).trim().to_owned();
            Err(
                Failure::new(format!("the proxy at {admin} refuses: {said}"))
                    .remedy("ask on the proxy's own machine, or leave out --with-secrets"),
            )
        }
        status => Err(stranger(admin, format_args!("it answered {status}"))),
    }
}

fn stranger(admin: SocketAddr, error: impl std::fmt::Display) -> Failure {
    Failure::new(format!(
        "no objects from the admin port at {admin}: {error}"
    ))
    .remedy("check that --admin names the admin port of a Wayline process of this version")
}

fn read(mut list: Value) -> Option<Live> {
    let annotation = |name: &str| {
        let text = list["metadata"]["annotations"][name].as_str();
        let parts = text.unwrap_or_default().split(',');
        let parts = parts.filter(|it| !it.is_empty());
        parts.map(str::to_owned).collect::<Vec<String>>()
    };
    let gateways = annotation("wayline.dev/gateways");
    let unreadable = annotation("wayline.dev/unreadable");
    let Value::Array(objects) = list["items"].take() else {
        return None;
    };
    let pair = |text: &String| {
        let (namespace, name) = text.split_once('/')?;
        Some((namespace.to_owned(), name.to_owned()))
    };
    Some(Live {
        objects,
        unreadable: unreadable.iter().filter_map(|it| object(it)).collect(),
        gateways: gateways.iter().filter_map(pair).collect(),
    })
}

/// `Kind namespace/name`, or `Kind name`.
fn object(text: &str) -> Option<ObjectRef> {
    let (kind, name) = text.split_once(' ')?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(ObjectRef::new(kind, namespace, name))
}
