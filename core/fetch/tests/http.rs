//! Servers that do as they please, and what is taken from them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use wayline_fetch::{AddressPolicy, Client, FetchError, Limits, Request};
use wayline_tls::PublicTls;

/// A server on loopback that hands each request's head to `answer`, with the connection to answer on.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                // A TLS handshake begins with 0x16 and has no empty line.
                while !head.ends_with(b"\r\n\r\n")
                    && head != [0x16]
                    && stream.read(&mut byte).unwrap_or(0) > 0
                {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                seen.lock().unwrap().push(head.clone());
                answer(&head, &mut stream);
            }
        });
        Self { address, heads }
    }

    /// A server that says this to everybody.
    fn saying(text: impl Into<Vec<u8>>) -> Self {
        let text = text.into();
        Self::start(move |_, stream| {
            let _ = stream.write_all(&text);
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn client() -> Client {
    let policy = AddressPolicy::allowing(["127.0.0.0/8".parse().unwrap()]);
    Client::new(policy, PublicTls::new(None).unwrap())
}

fn limits() -> Limits {
    Limits {
        body: 1000,
        ..Limits::default()
    }
}

async fn refused(url: &str, limits: &Limits) -> FetchError {
    client().get(url, limits).await.unwrap_err()
}

#[tokio::test]
async fn what_is_there_is_fetched_whole() {
    let server = Server::saying("HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello");
    let fetched = client().get(&server.url("/a?b"), &limits()).await.unwrap();
    assert_eq!(&fetched.body[..], b"hello");
    assert_eq!(fetched.headers["x-a"], "b");
    assert_eq!(fetched.url.to_string(), server.url("/a?b"));
    let head = &server.heads()[0];
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {}\r\n", server.address)),
        "{head}"
    );

    let chunked = Server::saying(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    );
    let fetched = client().get(&chunked.url("/"), &limits()).await.unwrap();
    assert_eq!(&fetched.body[..], b"hello");
}

#[tokio::test]
async fn a_status_is_an_error_of_get_and_an_answer_of_send() {
    for (status, retriable) in [
        ("404 Not Found", false),
        ("401 Unauthorized", false),
        ("500 Oops", true),
        ("501 Never", false),
        ("503 Later", true),
        ("429 Slower", true),
    ] {
        let server = Server::saying(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno"));
        let error = refused(&server.url("/"), &limits()).await;
        assert!(matches!(error, FetchError::Status { .. }), "{error}");
        assert_eq!(error.is_retriable(), retriable, "{error}");
        let request = Request::get(server.url("/").parse().unwrap());
        let fetched = client().send(request, &limits()).await.unwrap();
        assert_eq!(&fetched.body[..], b"no");
    }
}

#[tokio::test]
async fn bodies_heads_and_times_have_limits() {
    let declared = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n");
    let endless = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    });
    let redirecting = endless.url("/big");
    let behind = Server::saying(format!(
        "HTTP/1.1 302 Found\r\nlocation: {redirecting}\r\n\r\n"
    ));
    for server in [&declared, &endless, &behind] {
        let error = refused(&server.url("/"), &limits()).await;
        assert!(
            matches!(error, FetchError::TooLarge { limit: 1000, .. }),
            "{error}"
        );
        assert!(!error.is_retriable());
    }

    let talkative = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream
            .write_all(b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
            .is_ok()
        {}
    });
    let error = refused(&talkative.url("/"), &limits()).await;
    assert!(matches!(error, FetchError::Http { .. }), "{error}");

    let dripping = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n");
        while stream.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let short = Limits {
        timeout: Duration::from_millis(300),
        ..limits()
    };
    let error = refused(&dripping.url("/slow"), &short).await;
    assert!(matches!(error, FetchError::Timeout { .. }), "{error}");
    assert!(
        error.is_retriable() && error.to_string().contains("/slow"),
        "{error}"
    );
}

#[tokio::test]
async fn what_ends_early_is_not_taken() {
    for text in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "SSH-2.0-OpenSSH_9\r\n",
        "\x15\x03\x01\x00\x02\x02\x46",
    ] {
        let server = Server::saying(text);
        let error = refused(&server.url("/"), &limits()).await;
        assert!(
            matches!(error, FetchError::Http { .. }),
            "{text:?}: {error}"
        );
        assert!(
            error.to_string().contains(&server.address.to_string()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn each_hop_of_a_redirect_is_judged() {
    for (location, what) in [
        (
            "http://169.254.169.254/latest/meta-data",
            "a link-local address",
        ),
        ("http://10.0.0.1/", "a private address"),
        ("http://[::ffff:169.254.169.254]/", "a link-local address"),
        ("//[fd00:ec2::254]/", "a unique local address"),
    ] {
        let server = Server::saying(format!("HTTP/1.1 307 Go\r\nlocation: {location}\r\n\r\n"));
        let error = refused(&server.url("/"), &limits()).await;
        assert!(matches!(error, FetchError::Dial(_)), "{error}");
        assert!(
            !error.is_retriable() && error.to_string().contains(what),
            "{error}"
        );
    }
    let files = Server::saying("HTTP/1.1 302 Go\r\nlocation: file:///etc/passwd\r\n\r\n");
    let error = refused(&files.url("/"), &limits()).await;
    assert!(matches!(error, FetchError::Url { .. }), "{error}");

    let looping =
        Server::saying("HTTP/1.1 302 Go\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n");
    let error = refused(&looping.url("/"), &limits()).await;
    assert!(
        matches!(error, FetchError::Redirects { limit: 5, .. }),
        "{error}"
    );
    assert_eq!(looping.heads().len(), 6);
}

#[tokio::test]
async fn credentials_stay_with_the_server_they_are_for() {
    let elsewhere = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let away = elsewhere.url("/blob");
    let server = Server::start(move |head, stream| {
        let location = if head.starts_with("GET /first") {
            "/second"
        } else {
            &away
        };
        let answer =
            format!("HTTP/1.1 307 Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    let request = Request::get(server.url("/first").parse().unwrap())
        .header(AUTHORIZATION, HeaderValue::from_static("Basic c2VjcmV0"));
    client().send(request, &limits()).await.unwrap();
    let heads = server.heads();
    assert_eq!(heads.len(), 2);
    assert!(
        heads.iter().all(|head| head.contains("c2VjcmV0")),
        "{heads:?}"
    );
    assert!(
        !elsewhere.heads()[0].contains("authorization"),
        "{:?}",
        elsewhere.heads()
    );
}

#[tokio::test]
async fn a_server_without_tls_is_no_https_server() {
    let server = Server::saying("HTTP/1.1 400 Bad Request\r\n\r\n");
    let url = server.url("/").replace("http:", "https:");
    let error = refused(&url, &limits()).await;
    assert!(error.is_no_tls(), "{error}");
    assert!(
        error.to_string().contains(&server.address.to_string()),
        "{error}"
    );
}
