//! The codec against written answers, in pieces and whole, and connections against a backend of bytes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream as StdTcpStream};

use bytes::BufMut as _;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Version};
use hyper::ext::ReasonPhrase;
use tokio::net::TcpStream;

use super::decode::{Malformed, Next, head};
use super::*;
use crate::http::body::{ClientBody, ClientSource};
use crate::http::trailers::Trailers;

/// What a codec makes of an answer: status, version, body, trailers, whether the connection is kept.
#[derive(Debug, PartialEq)]
struct Read {
    status: u16,
    http11: bool,
    body: String,
    trailers: Vec<String>,
    complete: bool,
    kept: bool,
    behind: usize,
}

/// Reads an answer that arrives in pieces of `step` bytes, and then the end of the connection.
fn read(answer: &[u8], step: usize, bodiless: bool) -> Result<Read, Malformed> {
    let mut arrived = BytesMut::new();
    let mut pieces = answer.chunks(step);
    let mut searched = 0;
    let found = loop {
        if let Some(found) = head(&mut arrived, searched, bodiless, &mut HeaderMap::new())? {
            if found.response.status().as_u16() / 100 > 1 {
                break found;
            }
            searched = 0;
            continue;
        }
        searched = arrived.len();
        arrived.put_slice(pieces.next().ok_or(Malformed)?);
    };
    let mut body = found.body;
    let mut read = Read {
        status: found.response.status().as_u16(),
        http11: found.response.version() == Version::HTTP_11,
        body: String::new(),
        trailers: Vec::new(),
        complete: true,
        kept: found.keep_alive,
        behind: 0,
    };
    loop {
        match body.next(&mut arrived)? {
            Next::End => break,
            Next::More => match pieces.next() {
                Some(piece) => arrived.put_slice(piece),
                None => {
                    read.complete = matches!(body, decode::Body::UntilClose);
                    break;
                }
            },
            Next::Frame(frame) => match frame.into_data() {
                Ok(data) => read.body += std::str::from_utf8(&data).unwrap(),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    read.trailers = trailers.keys().map(|name| name.to_string()).collect();
                }
            },
        }
    }
    read.behind = arrived.len() + pieces.map(<[u8]>::len).sum::<usize>();
    Ok(read)
}

fn whole(status: u16, body: &str) -> Read {
    Read {
        status,
        http11: true,
        body: body.to_owned(),
        trailers: Vec::new(),
        complete: true,
        kept: true,
        behind: 0,
    }
}

#[test]
fn answers_are_read_the_same_however_they_arrive() {
    let until_close = |status, body: &str| Read {
        kept: false,
        ..whole(status, body)
    };
    let old = |body: &str| Read {
        http11: false,
        ..until_close(200, body)
    };
    let cases: Vec<(&str, Read)> = vec![
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            whole(200, "hello"),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            whole(200, ""),
        ),
        (
            "HTTP/1.1 200\r\ncontent-length: 2, 2\r\ncontent-length: 2\r\n\r\nok",
            whole(200, "ok"),
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", whole(204, "")),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
            whole(304, ""),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n02\r\nde\r\n0\r\n\r\n",
            whole(200, "abcde"),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\nx-b: 2\r\n\r\n",
            Read {
                trailers: vec!["x-sum".into(), "x-b".into()],
                ..whole(200, "a")
            },
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nto the end",
            until_close(200, "to the end"),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nz",
            until_close(200, "z"),
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\na",
            until_close(200, "a"),
        ),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na",
            old("a"),
        ),
        ("HTTP/1.0 200 OK\r\n\r\nold", old("old")),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\na",
            whole(201, "a"),
        ),
        ("HTTP/1.1 200 OK\ncontent-length: 2\n\nok", whole(200, "ok")),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nabc",
            Read {
                behind: 2,
                ..whole(200, "a")
            },
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            Read {
                complete: false,
                ..whole(200, "abc")
            },
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            Read {
                complete: false,
                ..whole(200, "abc")
            },
        ),
    ];
    for (answer, expected) in cases {
        for step in [1, 2, 7, 64, 4096] {
            let found = read(answer.as_bytes(), step, false).unwrap();
            assert_eq!(found, expected, "{answer:?} in steps of {step}");
        }
    }
    let to_head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(read(to_head.as_bytes(), 9, true).unwrap(), whole(200, ""));
}

#[test]
fn what_is_not_http_is_refused() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(300 * 1024));
    for answer in [
        "SSH-2.0-OpenSSH_9\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
        &many,
        &long,
    ] {
        for step in [3, 1 << 20] {
            let found = read(answer.as_bytes(), step, false);
            assert!(found.is_err(), "{:.60?}: {found:?}", answer);
        }
    }
}

#[test]
fn a_reason_that_is_not_the_usual_one_is_kept() {
    let reason = |line: &str| {
        let mut arrived = BytesMut::from(line);
        let found = head(&mut arrived, 0, false, &mut HeaderMap::new())
            .unwrap()
            .unwrap();
        found.response.extensions().get::<ReasonPhrase>().cloned()
    };
    assert_eq!(reason("HTTP/1.1 404 Not Found\r\n\r\n"), None);
    let odd = reason("HTTP/1.1 404 Gone Fishing\r\n\r\n").unwrap();
    assert_eq!(odd.as_bytes(), b"Gone Fishing");
}

fn request(method: Method, headers: &[(&'static str, &'static str)]) -> UpstreamRequest {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    UpstreamRequest {
        method,
        path: PathAndQuery::from_static("/a?b"),
        authority: HeaderValue::from_static("shop:80"),
        headers: map,
        body: None,
        http2: false,
        upgrade: None,
    }
}

fn body(data: &'static [u8], trailers: Option<HeaderMap>) -> RequestBody {
    let made = ClientSource::Made(Some(Bytes::from_static(data)), trailers);
    ClientBody::new(made, Trailers::ours()).attempt()
}

/// What is written of a request.
async fn written(request: &UpstreamRequest, body: RequestBody) -> Result<String, ()> {
    let mut out = Outgoing::default();
    out.begin(request, body);
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    let sent = poll_fn(|cx| out.poll_send(&mut near, cx)).await;
    drop(near);
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    sent.map(|()| text).map_err(|_| ())
}

#[tokio::test]
async fn requests_are_framed_as_their_bodies_are() {
    let get = request(Method::GET, &[("accept", "*/*"), ("host", "not this")]);
    assert_eq!(
        written(&get, RequestBody::Empty).await.unwrap(),
        "GET /a?b HTTP/1.1\r\nhost: shop:80\r\naccept: */*\r\n\r\n"
    );
    let mut upgrade = request(Method::GET, &[]);
    upgrade.upgrade = Some(HeaderValue::from_static("websocket"));
    assert_eq!(
        written(&upgrade, RequestBody::Empty).await.unwrap(),
        "GET /a?b HTTP/1.1\r\nhost: shop:80\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    // Of two lengths, the body's is told.
    for told in [["5", "7"], ["5", "5"]] {
        let twice = told.map(|length| ("content-length", length));
        assert_eq!(
            written(&request(Method::POST, &twice), body(b"hello", None))
                .await
                .unwrap(),
            "POST /a?b HTTP/1.1\r\nhost: shop:80\r\ncontent-length: 5\r\n\r\nhello"
        );
    }
    // No length is told that nothing follows.
    for (length, rest) in [("0", "content-length: 0\r\n"), ("7", "")] {
        let empty = request(Method::POST, &[("content-length", length)]);
        assert_eq!(
            written(&empty, RequestBody::Empty).await.unwrap(),
            format!("POST /a?b HTTP/1.1\r\nhost: shop:80\r\n{rest}\r\n")
        );
    }
    let known = request(Method::POST, &[]);
    assert_eq!(
        written(&known, body(b"hello", None)).await.unwrap(),
        "POST /a?b HTTP/1.1\r\nhost: shop:80\r\ncontent-length: 5\r\n\r\nhello"
    );
    let told = request(Method::POST, &[("content-length", "5")]);
    assert_eq!(
        written(&told, body(b"hello", None)).await.unwrap(),
        "POST /a?b HTTP/1.1\r\nhost: shop:80\r\ncontent-length: 5\r\n\r\nhello"
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    trailers.insert("x-other", HeaderValue::from_static("2"));
    let chunked = request(Method::POST, &[("trailer", "X-Sum")]);
    assert_eq!(
        written(&chunked, body(b"hello", Some(trailers)))
            .await
            .unwrap(),
        "POST /a?b HTTP/1.1\r\nhost: shop:80\r\ntrailer: X-Sum\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    );
}

#[tokio::test]
async fn a_body_is_as_long_as_its_head_said_or_fails() {
    let told = |length| request(Method::POST, &[("content-length", length)]);
    assert!(written(&told("9"), body(b"hello", None)).await.is_err());
    assert!(written(&told("3"), body(b"hello", None)).await.is_err());
    let large = Bytes::from(vec![b'x'; 300_000]);
    let made = ClientSource::Made(Some(large), Some(HeaderMap::new()));
    let large = ClientBody::new(made, Trailers::ours()).attempt();
    let sent = written(&request(Method::POST, &[]), large).await.unwrap();
    let (_, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with("493e0\r\nxxx") && body.ends_with("xxx\r\n0\r\n\r\n"));
    assert_eq!(body.len(), 7 + 300_000 + 2 + 5);
}

/// A connection, and its other end.
async fn pair() -> (Box<H1Connection>, StdTcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (far, _) = listener.accept().unwrap();
    (H1Connection::new(Io::Tcp(near)), far)
}

/// Sends a request as far as that goes without waiting.
fn ask(connection: &mut H1Connection, request: &UpstreamRequest, body: RequestBody) {
    connection.begin(request, body);
    let mut now = Context::from_waker(Waker::noop());
    assert!(connection.poll_answer(&mut now).is_pending());
}

async fn answer(connection: &mut H1Connection) -> Result<(u16, String), H1Error> {
    let response = poll_fn(|cx| connection.poll_answer(cx)).await?;
    let mut body = Vec::new();
    while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx)).await {
        let frame = frame.map_err(|_| H1Error::Broken)?;
        body.put_slice(&frame.into_data().unwrap_or_default());
    }
    Ok((response.status().as_u16(), String::from_utf8(body).unwrap()))
}

#[tokio::test]
async fn a_connection_is_used_again_unless_something_came_behind_its_answer() {
    let (mut connection, mut far) = pair().await;
    for _ in 0..3 {
        assert!(connection.is_usable());
        ask(
            &mut connection,
            &request(Method::GET, &[]),
            RequestBody::Empty,
        );
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
        assert_eq!(answer(&mut connection).await, Ok((200, "ok".into())));
    }
    assert!(connection.is_usable());
    far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!connection.is_usable());

    let (mut connection, mut far) = pair().await;
    ask(
        &mut connection,
        &request(Method::GET, &[]),
        RequestBody::Empty,
    );
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more")
        .unwrap();
    assert_eq!(answer(&mut connection).await, Ok((200, "ok".into())));
    assert!(!connection.is_clean());
}

#[tokio::test]
async fn what_comes_before_the_request_is_no_answer_to_it() {
    let (mut connection, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    connection.begin(&request(Method::GET, &[]), RequestBody::Empty);
    let answered = answer(&mut connection).await;
    assert_eq!(answered, Err(H1Error::Broken));
}

#[tokio::test]
async fn an_answer_that_breaks_off_fails() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\nconte",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let (mut connection, mut far) = pair().await;
        ask(
            &mut connection,
            &request(Method::GET, &[]),
            RequestBody::Empty,
        );
        far.write_all(text.as_bytes()).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            answer(&mut connection).await,
            Err(H1Error::Broken),
            "{text:?}"
        );
        assert!(connection.failed() && !connection.is_clean(), "{text:?}");
    }
}

#[tokio::test]
async fn the_rest_of_a_request_is_sent_while_its_answer_waits() {
    let local = tokio::task::LocalSet::new();
    let (mut connection, mut far) = pair().await;
    let size = 8 << 20;
    let made = ClientSource::Made(Some(Bytes::from(vec![b'x'; size])), None);
    let body = ClientBody::new(made, Trailers::ours()).attempt();
    ask(&mut connection, &request(Method::POST, &[]), body);
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        .unwrap();
    let response = poll_fn(|cx| connection.poll_answer(cx)).await.unwrap();
    assert_eq!(response.status(), 200);
    let taking = std::thread::spawn(move || {
        let mut taken = 0;
        let mut space = vec![0; 1 << 16];
        while taken < size {
            taken += far.read(&mut space).unwrap();
        }
        far.write_all(b"ok").unwrap();
        far
    });
    let reading = local.run_until(async {
        let detached = connection.detach();
        poll_fn(|cx| detached.poll_frame(cx)).await
    });
    let first = reading.await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "ok");
    drop(taking.join().unwrap());
}

#[tokio::test]
async fn what_came_of_a_body_that_breaks_off_is_sent_and_no_more() {
    let told = request(Method::POST, &[("content-length", "9")]);
    let mut out = Outgoing::default();
    out.begin(&told, body(b"hello", None));
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    assert!(poll_fn(|cx| out.poll_send(&mut near, cx)).await.is_err());
    assert!(out.is_under_way());
    drop(near);
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("\r\n\r\nhello"), "{text}");
}
