//! `wayline curl`: a request into the mesh as a workload, the way ztunnel would carry it: mutual TLS
//! to the waypoint, CONNECT to the service, the request inside.

pub(crate) mod caller;
pub(crate) mod target;

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use wayline_model::Identity;
use wayline_tls::DevCa;

use crate::cli::CurlArgs;
use crate::failure::Failure;
use crate::{FAILED, OK, output};
use caller::Caller;
use target::Target;

/// Sends the request and prints the response. As with curl, a response of any status is a success.
pub(crate) fn run(args: CurlArgs) -> Result<u8, Failure> {
    let silent = args.silent;
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)
        .and_then(|runtime| runtime.block_on(exchange(args)));
    match outcome {
        Ok(()) => Ok(OK),
        Err(_) if silent => Ok(FAILED),
        Err(failure) => Err(failure),
    }
}

async fn exchange(args: CurlArgs) -> Result<(), Failure> {
    let target = Target::parse(&args.url, &args.from.namespace)?;
    let request = request(&args, &target)?;
    let identity = Identity::new(
        args.trust_domain.clone(),
        &args.from.namespace,
        &args.from.name,
    )
    .map_err(|error| Failure::new(error).remedy("name it as --from NAMESPACE/SERVICE-ACCOUNT"))?;
    let caller = Caller::new(&DevCa::open_or_create(&args.dev_ca)?, identity)?;
    let tunnel = caller
        .open(&caller.connect(args.via).await?, &target)
        .await?;
    let (mut sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(tunnel))
        .await
        .map_err(|error| cut_off(&error))?;
    let driver = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| cut_off(&error))?;
    print(&args, response).await?;
    driver.abort();
    Ok(())
}

/// A connection that broke while a request was on it.
pub(crate) fn cut_off(error: &hyper::Error) -> Failure {
    Failure::new(format!("the connection ended before the response: {error}"))
        .remedy("look at the waypoint's log")
}

fn request(args: &CurlArgs, target: &Target) -> Result<Request<Full<Bytes>>, Failure> {
    let body = body(&args.data)?;
    let method = match (&args.request, &body) {
        (Some(method), _) => method.clone(),
        (None, Some(_)) => Method::POST,
        (None, None) => Method::GET,
    };
    let mut request = Request::new(Full::new(body.clone().unwrap_or_default()));
    *request.method_mut() = method;
    *request.uri_mut() = target.path().clone();
    let headers = request.headers_mut();
    headers.insert(HOST, target.host_header()?);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("wayline/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    if body.is_some() {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
    }
    let mut named = HeaderMap::new();
    for line in &args.headers {
        match header(line)? {
            (name, Some(value)) => {
                named.append(name, value);
            }
            (name, None) => {
                headers.remove(name);
            }
        }
    }
    // What is named replaces what would be sent by default; named twice, it is sent twice.
    for name in named.keys() {
        headers.remove(name);
    }
    headers.extend(named);
    Ok(request)
}

/// `Name: value`; `Name;` for an empty value; `Name:` for none at all.
pub(crate) fn header(line: &str) -> Result<(HeaderName, Option<HeaderValue>), Failure> {
    let refused =
        || Failure::new(format!("`{line}` is not a header")).remedy("write it as -H 'Name: value'");
    let (name, value) = match (line.split_once(':'), line.strip_suffix(';')) {
        (Some((name, value)), _) if value.trim().is_empty() => (name, None),
        (Some((name, value)), _) => (name, Some(value.trim())),
        (None, Some(name)) => (name, Some("")),
        (None, None) => return Err(refused()),
    };
    let name = HeaderName::try_from(name.trim()).map_err(|_| refused())?;
    let value = value
        .map(HeaderValue::try_from)
        .transpose()
        .map_err(|_| refused())?;
    Ok((name, value))
}

/// All `-d` joined by `&`; files without their line breaks, as curl sends them.
fn body(data: &[String]) -> Result<Option<Bytes>, Failure> {
    if data.is_empty() {
        return Ok(None);
    }
    let mut body = Vec::new();
    for (index, part) in data.iter().enumerate() {
        if index > 0 {
            body.push(b'&');
        }
        let Some(file) = part.strip_prefix('@') else {
            body.extend_from_slice(part.as_bytes());
            continue;
        };
        let mut content = Vec::new();
        let read = match file {
            "-" => io::stdin().lock().read_to_end(&mut content),
            _ => File::open(file).and_then(|mut file| file.read_to_end(&mut content)),
        };
        read.map_err(|error| {
            Failure::new(format!("cannot read {file}: {error}")).remedy("name a file after -d @")
        })?;
        body.extend(content.into_iter().filter(|byte| !b"\r\n".contains(byte)));
    }
    Ok(Some(body.into()))
}

async fn print(args: &CurlArgs, response: Response<Incoming>) -> Result<(), Failure> {
    let (head, mut body) = response.into_parts();
    let mut sink = Sink::open(args)?;
    if args.include {
        let mut text = format!("{:?} {}\r\n", head.version, head.status).into_bytes();
        for (name, value) in &head.headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        if !sink.write(&text)? {
            return Ok(());
        }
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(format!("the response was cut off: {error}"))
                .remedy("look at the waypoint's log")
        })?;
        if let Ok(data) = frame.into_data()
            && !sink.write(&data)?
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Where the response goes.
enum Sink {
    Stdout,
    File(File, String),
}

impl Sink {
    fn open(args: &CurlArgs) -> Result<Self, Failure> {
        let Some(path) = &args.output else {
            return Ok(Self::Stdout);
        };
        let shown = path.display().to_string();
        let file = File::create(path).map_err(|error| cannot_write(&shown, &error))?;
        Ok(Self::File(file, shown))
    }

    /// Writes; false when nobody reads any more.
    fn write(&mut self, data: &[u8]) -> Result<bool, Failure> {
        match self {
            Self::File(file, shown) => file
                .write_all(data)
                .map(|()| true)
                .map_err(|error| cannot_write(shown, &error)),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                let outcome = out.write_all(data).and_then(|()| out.flush());
                let is_open = outcome.is_ok();
                output::forgive(outcome).map(|()| is_open)
            }
        }
    }
}

fn cannot_write(path: &str, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write {path}: {error}")).remedy("name a writable file with -o")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_curl_reads_them() {
        let (name, value) = header("X-A:  b ").unwrap();
        assert_eq!(
            (name.as_str(), value.unwrap().as_bytes()),
            ("x-a", &b"b"[..])
        );
        assert_eq!(header("X-A:").unwrap().1, None);
        assert_eq!(header("X-A;").unwrap().1.unwrap().as_bytes(), b"");
        assert!(header("X A: b").is_err());
        assert!(header("nothing").is_err());
    }

    #[test]
    fn data_is_joined() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "c=3\r\nd=4\n").unwrap();
        let from_file = format!("@{}", file.path().display());
        let body = body(&["a=1".to_owned(), from_file]).unwrap().unwrap();
        assert_eq!(body, &b"a=1&c=3d=4"[..]);
    }
}
