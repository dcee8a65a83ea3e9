//! The load: a fixed number of connections, each sending its next request when the last one was
//! answered (a closed loop), for a time; and what it cost the process at the other end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wayline_hbone::{Settings, TunnelAuthority};
use wayline_tls::CertificateStore;

use crate::accounting::{AccountingError, core_time, cpu_time, resident_kib};
use crate::exchange::{BODY, Connection, ExchangeError, Request};
use crate::histogram::Histogram;
use crate::scene::{AUTHORITY, waypoint_identity};

/// How long all connections together may take to be made.
const SETUP_TIMEOUT: Duration = Duration::from_secs(15);

/// What to do to which process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    /// The process whose CPU time is read.
    pub pid: u32,
    /// The cores of contestant and generator; they should have nothing else to do.
    pub cores: Vec<usize>,
    /// Where it listens.
    pub target: SocketAddr,
    /// How requests get in.
    pub entrance: Entrance,
    /// The path of every request, which must be answered 200 with the backend's body.
    pub path: String,
    /// A path that must be answered 403, where the contestant enforces a policy.
    pub denied_path: Option<String>,
    /// Load before anything is measured, in seconds.
    pub warmup: f64,
    /// How long to measure, in seconds.
    pub seconds: f64,
}

/// How requests get into the contestant, and on how many connections.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Entrance {
    /// HTTP/1.1 over TCP.
    Plain {
        /// Kept-alive connections.
        connections: usize,
    },
    /// HTTP/1.1 in CONNECT streams over mutual TLS.
    Hbone {
        /// TLS connections.
        tunnels: usize,
        /// CONNECT streams on each, each a kept-alive HTTP/1.1 connection.
        streams: usize,
    },
}

/// What was measured.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Measurement {
    /// Requests answered while measuring.
    pub requests: u64,
    /// Wall time of measuring, in seconds.
    pub seconds: f64,
    /// CPU time of the contestant meanwhile, in seconds.
    pub cpu: f64,
    /// CPU time of generator and backend meanwhile, in seconds.
    pub own_cpu: f64,
    /// CPU time of all other processes on these cores meanwhile, in seconds.
    pub others_cpu: f64,
    /// Median latency, in microseconds.
    pub p50: f64,
    /// 99th percentile of latency, in microseconds.
    pub p99: f64,
    /// Resident memory of the contestant at the end, in KiB.
    pub resident_kib: u64,
}

impl Measurement {
    /// CPU time of the contestant per request, in microseconds.
    #[must_use]
    pub fn cpu_micros(&self) -> f64 {
        self.cpu * 1e6 / self.requests as f64
    }

    /// Requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// Why a job was given up. Any one failing request is enough.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A connection could not be made, or CONNECT was refused.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Where to.
        target: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The connections were not made in time.
    #[error("connecting took longer than {SETUP_TIMEOUT:?}")]
    SetupTimeout,
    /// A request failed.
    #[error("{path}: {source}")]
    Exchange {
        /// The request's path.
        path: String,
        /// What happened.
        #[source]
        source: ExchangeError,
    },
    /// A request was answered otherwise than it must be.
    #[error("{path}: answered {status}{} with {body:?}; {expected} was expected", if *closes { " and close" } else { "" })]
    Answer {
        /// The request's path.
        path: String,
        /// The status received.
        status: u16,
        /// Whether the connection was to be closed.
        closes: bool,
        /// The beginning of the body received.
        body: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// The contestant's accounting could not be read.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
    /// Nothing was answered while measuring.
    #[error("no request was answered within {0} s")]
    Stalled(f64),
}

/// Runs the job as the identity in `store`. Must be called on a tokio `LocalRuntime`.
pub async fn run(job: &Job, store: &CertificateStore) -> Result<Measurement, LoadError> {
    match job.entrance {
        Entrance::Plain { connections } => {
            let made = connect_plain(job, connections);
            let streams = in_time(made).await?;
            measure(job, streams).await
        }
        Entrance::Hbone { tunnels, streams } => {
            let mut drivers = JoinSet::new();
            let made = connect_hbone(job, tunnels, streams, store, &mut drivers);
            let streams = in_time(made).await?;
            measure(job, streams).await
        }
    }
}

async fn in_time<T>(made: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    tokio::time::timeout(SETUP_TIMEOUT, made)
        .await
        .map_err(|_| LoadError::SetupTimeout)?
}

/// One stream for each connection, and one more for the check before.
async fn connect_plain(job: &Job, connections: usize) -> Result<Vec<TcpStream>, LoadError> {
    let mut streams = Vec::with_capacity(connections + 1);
    for _ in 0..=connections {
        streams.push(tcp(job.target).await?);
    }
    Ok(streams)
}

async fn connect_hbone(
    job: &Job,
    tunnels: usize,
    streams_each: usize,
    store: &CertificateStore,
    drivers: &mut JoinSet<()>,
) -> Result<Vec<wayline_hbone::TunnelStream>, LoadError> {
    let failed = |reason: &dyn std::fmt::Display| LoadError::Connect {
        target: job.target,
        reason: reason.to_string(),
    };
    let authority = TunnelAuthority::parse(AUTHORITY).map_err(|e| failed(&e))?;
    let epoch = store.current().map_err(|e| failed(&e))?;
    let mut streams = Vec::with_capacity(tunnels * streams_each + 1);
    for tunnel in 0..tunnels {
        let tcp = tcp(job.target).await?;
        let tls = wayline_tls::connect(&epoch, tcp, &[waypoint_identity()])
            .await
            .map_err(|e| failed(&e))?;
        let (client, driver) = wayline_hbone::connect(tls, &Settings::default())
            .await
            .map_err(|e| failed(&e))?;
        drivers.spawn_local(async {
            // Its end is seen by the streams it carries.
            let _ended = driver.await;
        });
        for _ in 0..streams_each + usize::from(tunnel == 0) {
            let stream = client
                .open(&authority, HeaderMap::new())
                .await
                .map_err(|e| failed(&e))?;
            streams.push(stream);
        }
    }
    Ok(streams)
}

async fn tcp(target: SocketAddr) -> Result<TcpStream, LoadError> {
    let connected = async {
        let tcp = TcpStream::connect(target).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    connected
        .await
        .map_err(|error: std::io::Error| LoadError::Connect {
            target,
            reason: error.to_string(),
        })
}

#[derive(Default)]
struct Book {
    latencies: RefCell<Histogram>,
    failure: Cell<Option<LoadError>>,
    failed: Notify,
}

async fn measure<IO>(job: &Job, mut streams: Vec<IO>) -> Result<Measurement, LoadError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    if let Some(spare) = streams.pop() {
        check_policy(job, spare).await?;
    }
    let book = Rc::new(Book::default());
    let mut workers = JoinSet::new();
    for stream in streams {
        workers.spawn_local(work(stream, job.path.clone(), Rc::clone(&book)));
    }

    wait(job.warmup, &book).await?;
    book.latencies.borrow_mut().clear();
    let own = std::process::id();
    let start = Instant::now();
    let (cpu, own_cpu, all) = (cpu_time(job.pid)?, cpu_time(own)?, cores_time(job)?);
    wait(job.seconds, &book).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_time(job.pid)?.saturating_sub(cpu);
    let own_cpu = cpu_time(own)?.saturating_sub(own_cpu);
    let all = cores_time(job)?.saturating_sub(all);

    let latencies = book.latencies.borrow();
    if latencies.is_empty() {
        return Err(LoadError::Stalled(job.seconds));
    }
    let micros = |quantile| latencies.quantile(quantile).as_secs_f64() * 1e6;
    Ok(Measurement {
        requests: latencies.len(),
        seconds,
        cpu: cpu.as_secs_f64(),
        own_cpu: own_cpu.as_secs_f64(),
        others_cpu: all.saturating_sub(cpu + own_cpu).as_secs_f64(),
        p50: micros(0.5),
        p99: micros(0.99),
        resident_kib: resident_kib(job.pid)?,
    })
}

fn cores_time(job: &Job) -> Result<Duration, AccountingError> {
    job.cores.iter().map(|core| core_time(*core)).sum()
}

/// A contestant that does not enforce the policy it is measured with is not in the race.
async fn check_policy<IO>(job: &Job, stream: IO) -> Result<(), LoadError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Some(path) = &job.denied_path else {
        return Ok(());
    };
    let mut connection = Connection::new(stream);
    let request = Request::get(path);
    let exchange = tokio::time::timeout(SETUP_TIMEOUT, connection.exchange(&request))
        .await
        .map_err(|_| LoadError::Stalled(SETUP_TIMEOUT.as_secs_f64()))?;
    let reply = exchange.map_err(|source| LoadError::Exchange {
        path: path.clone(),
        source,
    })?;
    if reply.status != 403 {
        return Err(LoadError::Answer {
            path: path.clone(),
            status: reply.status,
            closes: reply.closes,
            body: shown(reply.body),
            expected: "403",
        });
    }
    Ok(())
}

async fn wait(seconds: f64, book: &Book) -> Result<(), LoadError> {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
        () = book.failed.notified() => {}
    }
    book.failure.take().map_or(Ok(()), Err)
}

async fn work<IO>(stream: IO, path: String, book: Rc<Book>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let failure = exchanges(stream, &path, &book).await;
    book.failure.set(Some(failure));
    book.failed.notify_one();
}

/// Sends one request after the other until one fails.
async fn exchanges<IO>(stream: IO, path: &str, book: &Book) -> LoadError
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(path);
    let mut connection = Connection::new(stream);
    let mut begin = Instant::now();
    loop {
        let reply = match connection.exchange(&request).await {
            Ok(reply) => reply,
            Err(source) => {
                return LoadError::Exchange {
                    path: path.to_owned(),
                    source,
                };
            }
        };
        if reply.status != 200 || reply.closes || reply.body != BODY {
            return LoadError::Answer {
                path: path.to_owned(),
                status: reply.status,
                closes: reply.closes,
                body: shown(reply.body),
                expected: "200 with the backend's body, kept alive,",
            };
        }
        let end = Instant::now();
        book.latencies.borrow_mut().record(end - begin);
        begin = end;
    }
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::spawn_local;

    use super::*;
    use crate::exchange::respond;

    /// Runs a short job against our own process, which serves each connection by `serve`.
    fn run_against<S, F>(denied_path: Option<&str>, serve: S) -> Result<Measurement, LoadError>
    where
        S: Fn(TcpStream) -> F + 'static,
        F: Future<Output = std::io::Result<()>> + 'static,
    {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let job = Job {
                pid: std::process::id(),
                cores: vec![0],
                target: listener.local_addr().unwrap(),
                entrance: Entrance::Plain { connections: 3 },
                path: "/api/items".to_owned(),
                denied_path: denied_path.map(str::to_owned),
                warmup: 0.01,
                seconds: 0.05,
            };
            spawn_local(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    spawn_local(serve(tcp));
                }
            });
            run(&job, &CertificateStore::new()).await
        })
    }

    /// Answers every request so.
    async fn always(mut tcp: TcpStream, reply: &'static str) -> std::io::Result<()> {
        let mut request = [0; 1024];
        while tcp.read(&mut request).await? > 0 {
            tcp.write_all(reply.as_bytes()).await?;
        }
        Ok(())
    }

    #[test]
    fn counts_what_was_answered() {
        let measured = run_against(None, respond).unwrap();
        assert!(measured.requests > 0);
        assert!(measured.p50 > 0.0 && measured.p50 <= measured.p99);
        assert!(measured.seconds >= 0.05);
    }

    #[test]
    fn one_wrong_answer_is_the_end() {
        for reply in [
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nelse",
        ] {
            let outcome = run_against(None, move |tcp| always(tcp, reply));
            assert!(matches!(outcome, Err(LoadError::Answer { .. })), "{reply}");
        }
        let hung_up = run_against(None, async |tcp| {
            drop(tcp);
            Ok(())
        });
        assert!(matches!(hung_up, Err(LoadError::Exchange { .. })));
    }

    #[test]
    fn a_policy_that_is_not_enforced_is_the_end() {
        let outcome = run_against(Some("/nowhere"), respond);
        let expected = "403";
        assert!(
            matches!(outcome, Err(LoadError::Answer { status: 200, expected: e, .. }) if e == expected)
        );
    }

    #[test]
    fn silence_is_the_end() {
        let outcome = run_against(None, async |mut tcp| {
            tcp.read_to_end(&mut Vec::new()).await.map(drop)
        });
        assert!(matches!(outcome, Err(LoadError::Stalled(_))));
    }
}
