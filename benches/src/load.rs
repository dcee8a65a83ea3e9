//! The load: a fixed number of connections, first in a closed loop (each sends its next request when
//! the last one was answered), then in an open one (requests are due at a fixed rate); and what the
//! former cost the process at the other end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wayline_hbone::{Client, Settings, TunnelAuthority, TunnelStream};
use wayline_tls::CertificateStore;

use crate::accounting::{AccountingError, core_time, cpu_time, resident_kib};
use crate::caller::{Caller, shown};
use crate::exchange::{Connection, Request};
use crate::histogram::Histogram;
use crate::job::{Beside, Call, Entrance, Job, LoadError, Measurement, OpenLoop, SETUP_TIMEOUT};
use crate::scene::{AUTHORITY, PATH, waypoint_identity};
use crate::schedule::Schedule;

/// Windows as wide as those of a busy client.
const WINDOW: u32 = 4 << 20;

/// TLS connections made at a time.
const HANDSHAKES: usize = 8;

/// How long connections are left alone before their memory is looked at.
const SETTLING: Duration = Duration::from_secs(2);

/// Runs the job as the identity in `store`. Must be called on a tokio `LocalRuntime`.
pub async fn run(job: &Job, store: &CertificateStore) -> Result<Measurement, LoadError> {
    let before = resident_kib(job.pid)?;
    let mut drivers = JoinSet::new();
    let outcome = match job.entrance {
        Entrance::Plain { connections } => {
            let callers = in_time(connect_plain(job, connections)).await?;
            measure(job, callers, None).await
        }
        Entrance::Http2 {
            connections,
            streams,
        } => {
            let made = connect_http2(job, connections, streams, &mut drivers);
            let callers = in_time(made).await?;
            measure(job, callers, None).await
        }
        Entrance::Hbone { tunnels, streams } => {
            let made = connect_hbone(job, tunnels, streams, store, &mut drivers);
            let callers = in_time(made).await?;
            let beside = match &job.beside {
                Some(beside) => Some(ask_beside(job, beside, store, &mut drivers).await?),
                None => None,
            };
            measure(job, callers, beside).await
        }
        Entrance::Idle { tunnels } => {
            let clients = in_time(connect_tunnels(job, tunnels, store, &mut drivers)).await?;
            tokio::time::sleep(SETTLING).await;
            let outcome = idle(job);
            drop(clients);
            outcome
        }
    };
    outcome.map(|measurement| Measurement {
        resident_before_kib: before,
        ..measurement
    })
}

async fn in_time<T>(made: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    tokio::time::timeout(SETUP_TIMEOUT, made)
        .await
        .map_err(|_| LoadError::SetupTimeout)?
}

async fn connect_plain(job: &Job, connections: usize) -> Result<Vec<Caller<TcpStream>>, LoadError> {
    if let Some(path) = &job.denied_path {
        check_policy(path, tcp(job).await?).await?;
    }
    if let Some((name, value)) = &job.refused_header {
        let forged = Request::get(PATH).with_header(name, value);
        answers(PATH, &forged, (401, "401"), tcp(job).await?).await?;
    }
    let mut callers = Vec::with_capacity(connections);
    for _ in 0..connections {
        let tcp = tcp(job).await?;
        callers.push(Caller::http1(tcp, job.call, job.header.as_ref()));
    }
    Ok(callers)
}

async fn connect_http2(
    job: &Job,
    connections: usize,
    streams: usize,
    drivers: &mut JoinSet<()>,
) -> Result<Vec<Caller<TcpStream>>, LoadError> {
    let mut callers = Vec::with_capacity(connections * streams);
    for _ in 0..connections {
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake::<_, Bytes>(tcp(job).await?)
            .await
            .map_err(|error| failed(job, &error))?;
        drivers.spawn_local(async {
            // Its end is seen by the streams it carries.
            let _ended = connection.await;
        });
        for _ in 0..streams {
            let caller = Caller::http2(sender.clone(), job.call, job.header.as_ref());
            callers.push(caller.map_err(|error| failed(job, &error))?);
        }
    }
    Ok(callers)
}

async fn connect_hbone(
    job: &Job,
    tunnels: usize,
    streams: usize,
    store: &CertificateStore,
    drivers: &mut JoinSet<()>,
) -> Result<Vec<Caller<TunnelStream>>, LoadError> {
    let authority = TunnelAuthority::parse(AUTHORITY).map_err(|e| failed(job, &e))?;
    let clients = connect_tunnels(job, tunnels, store, drivers).await?;
    let open = async |client: &Client| {
        let opened = client.open(&authority, HeaderMap::new()).await;
        opened.map_err(|error| failed(job, &error))
    };
    if let (Some(path), Some(first)) = (&job.denied_path, clients.first()) {
        check_policy(path, open(first).await?).await?;
    }
    let mut callers = Vec::with_capacity(tunnels * streams);
    for client in &clients {
        for _ in 0..streams {
            let stream = open(client).await?;
            callers.push(Caller::http1(stream, job.call, job.header.as_ref()));
        }
    }
    Ok(callers)
}

async fn connect_tunnels(
    job: &Job,
    count: usize,
    store: &CertificateStore,
    drivers: &mut JoinSet<()>,
) -> Result<Vec<Client>, LoadError> {
    let epoch = store.current().map_err(|e| failed(job, &e))?;
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let batch = (count - clients.len()).min(HANDSHAKES);
        let connecting = (0..batch).map(async |_| {
            let tls = wayline_tls::connect(&epoch, tcp(job).await?, &[waypoint_identity()])
                .await
                .map_err(|e| failed(job, &e))?;
            wayline_hbone::connect(tls, &Settings::default())
                .await
                .map_err(|e| failed(job, &e))
        });
        for (client, driver) in futures_util::future::try_join_all(connecting).await? {
            drivers.spawn_local(async {
                // Its end is seen by the streams it carries.
                let _ended = driver.await;
            });
            clients.push(client);
        }
    }
    Ok(clients)
}

async fn tcp(job: &Job) -> Result<TcpStream, LoadError> {
    let connected = async {
        let tcp = TcpStream::connect(job.target).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    connected
        .await
        .map_err(|error: std::io::Error| failed(job, &error))
}

fn failed(job: &Job, reason: &dyn std::fmt::Display) -> LoadError {
    LoadError::Connect {
        target: job.target,
        reason: reason.to_string(),
    }
}

#[derive(Default)]
struct Book {
    schedule: Schedule,
    latencies: RefCell<Histogram>,
    failure: Cell<Option<LoadError>>,
    failed: Notify,
}

async fn measure<IO>(
    job: &Job,
    callers: Vec<Caller<IO>>,
    beside: Option<Asking>,
) -> Result<Measurement, LoadError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let book = Rc::new(Book::default());
    let mut workers = JoinSet::new();
    for caller in callers {
        workers.spawn_local(work(caller, job.call, Rc::clone(&book)));
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
    let requests = book.latencies.borrow().len();
    if requests == 0 {
        return Err(LoadError::Stalled(job.seconds));
    }
    let open = match job.rate {
        Some(rate) => Some(open_loop(job, rate, &book, beside).await?),
        None => None,
    };
    Ok(Measurement {
        requests,
        seconds,
        cpu: cpu.as_secs_f64(),
        own_cpu: own_cpu.as_secs_f64(),
        others_cpu: all.saturating_sub(cpu + own_cpu).as_secs_f64(),
        open,
        resident_before_kib: 0,
        resident_kib: resident_kib(job.pid)?,
        start_millis: 0.0,
    })
}

/// Latencies at a fixed rate; those that were due and never sent count with what they waited.
async fn open_loop(
    job: &Job,
    rate: f64,
    book: &Book,
    beside: Option<Asking>,
) -> Result<OpenLoop, LoadError> {
    /// What the closed loop left behind is over after this.
    const TRANSITION: f64 = 0.2;
    /// What asks beside it has done its worst after this.
    const FIRST_SHOCK: f64 = 1.0;
    let transition = match beside {
        Some(_) => TRANSITION + FIRST_SHOCK,
        None => TRANSITION,
    };
    let paced = async {
        wait(transition, book).await?;
        book.latencies.borrow_mut().clear();
        wait(job.seconds, book).await
    };
    tokio::select! {
        outcome = paced => outcome?,
        () = book.schedule.at_rate(rate) => {}
        () = pace(beside) => {}
    }
    let mut latencies = book.latencies.borrow_mut();
    let answered = latencies.len() as f64 / job.seconds;
    for due in book.schedule.abandoned() {
        latencies.record(due.elapsed());
    }
    let micros = |quantile| latencies.quantile(quantile).as_secs_f64() * 1e6;
    Ok(OpenLoop {
        p50: micros(0.5),
        p99: micros(0.99),
        rate,
        answered,
    })
}

/// Those who ask beside the load that is measured.
struct Asking {
    rate: f64,
    schedule: Rc<Schedule>,
    // They end with it.
    _askers: JoinSet<()>,
}

/// Streams on which is asked beside the load that is measured.
const ASKERS: usize = 32;

async fn ask_beside(
    job: &Job,
    beside: &Beside,
    store: &CertificateStore,
    drivers: &mut JoinSet<()>,
) -> Result<Asking, LoadError> {
    let authority = TunnelAuthority::parse(&beside.authority).map_err(|e| failed(job, &e))?;
    let clients = in_time(connect_tunnels(job, 1, store, drivers)).await?;
    // Whoever is not asked, or does not mind, would be no bad neighbour.
    for (path, expected, wanted) in [
        (PATH, (200, "200"), true),
        (&beside.path, (503, "503"), beside.one_in.is_some()),
    ] {
        if wanted {
            let opened = clients[0].open(&authority, HeaderMap::new()).await;
            let stream = opened.map_err(|error| failed(job, &error))?;
            answers(path, &Request::get(path), expected, stream).await?;
        }
    }
    let schedule = Rc::new(Schedule::default());
    let turn = Rc::new(Cell::new(0_usize));
    let mut askers = JoinSet::new();
    for _ in 0..ASKERS {
        let [usual, unusual] = [PATH, &beside.path].map(Request::get);
        let (client, authority) = (clients[0].clone(), authority.clone());
        let (schedule, turn, one_in) = (Rc::clone(&schedule), Rc::clone(&turn), beside.one_in);
        askers.spawn_local(async move {
            let mut connection = None;
            loop {
                schedule.next().await;
                turn.set(turn.get() + 1);
                let is_unusual = one_in.is_some_and(|one_in| turn.get().is_multiple_of(one_in));
                let request = if is_unusual { &unusual } else { &usual };
                let open = match connection.take() {
                    Some(open) => Ok(open),
                    None => client
                        .open(&authority, HeaderMap::new())
                        .await
                        .map(Connection::new),
                };
                let Ok(mut open) = open else { return };
                let goes_on = open
                    .exchange(request)
                    .await
                    .is_ok_and(|reply| !reply.closes);
                connection = goes_on.then_some(open);
            }
        });
    }
    // Nothing is due before the open loop; a closed one would keep the contestant busy.
    schedule.wait_for_rate();
    Ok(Asking {
        rate: beside.rate,
        schedule,
        _askers: askers,
    })
}

async fn pace(beside: Option<Asking>) {
    match beside {
        Some(asking) => asking.schedule.at_rate(asking.rate).await,
        None => std::future::pending().await,
    }
}

/// Nothing but memory.
fn idle(job: &Job) -> Result<Measurement, LoadError> {
    Ok(Measurement {
        requests: 0,
        seconds: SETTLING.as_secs_f64(),
        cpu: 0.0,
        own_cpu: 0.0,
        others_cpu: 0.0,
        open: None,
        resident_before_kib: 0,
        resident_kib: resident_kib(job.pid)?,
        start_millis: 0.0,
    })
}

fn cores_time(job: &Job) -> Result<Duration, AccountingError> {
    job.cores.iter().map(|core| core_time(*core)).sum()
}

/// A contestant that does not enforce the policy it is measured with is not in the race.
async fn check_policy<IO>(path: &str, stream: IO) -> Result<(), LoadError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    answers(path, &Request::get(path), (403, "403"), stream).await
}

async fn answers<IO>(
    path: &str,
    request: &Request,
    (status, expected): (u16, &'static str),
    stream: IO,
) -> Result<(), LoadError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection::new(stream);
    let reply = connection
        .exchange(request)
        .await
        .map_err(|source| LoadError::Exchange {
            path: path.to_owned(),
            source,
        })?;
    if reply.status != status {
        return Err(LoadError::Answer {
            path: path.to_owned(),
            status: reply.status,
            closes: reply.closes,
            body: shown(reply.body),
            expected,
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

/// Sends one request after the other until one fails.
async fn work<IO>(mut caller: Caller<IO>, call: Call, book: Rc<Book>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let due = book.schedule.next().await;
        if let Err(failure) = caller.call(call).await {
            book.failure.set(Some(failure));
            return book.failed.notify_one();
        }
        book.latencies.borrow_mut().record(due.elapsed());
    }
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
    fn run_against<S, F>(job: Job, serve: S) -> Result<Measurement, LoadError>
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
                target: listener.local_addr().unwrap(),
                ..job
            };
            spawn_local(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    spawn_local(serve(tcp));
                }
            });
            run(&job, &CertificateStore::new()).await
        })
    }

    fn job() -> Job {
        Job {
            pid: std::process::id(),
            cores: vec![0],
            target: ([127, 0, 0, 1], 0).into(),
            entrance: Entrance::Plain { connections: 3 },
            call: Call::Get,
            denied_path: None,
            warmup: 0.01,
            seconds: 0.05,
            rate: None,
            header: None,
            refused_header: None,
            beside: None,
        }
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
    fn generator_and_backend_understand_each_other_in_all_they_say() {
        let http2 = Entrance::Http2 {
            connections: 1,
            streams: 3,
        };
        let plain = Entrance::Plain { connections: 3 };
        for (entrance, call) in [
            (plain, Call::Get),
            (plain, Call::Download),
            (plain, Call::Upload),
            (http2, Call::Get),
            (http2, Call::Download),
            (http2, Call::Upload),
            (http2, Call::Grpc),
        ] {
            let job = Job {
                entrance,
                call,
                rate: Some(200.0),
                header: Some(("x-a".to_owned(), "b".to_owned())),
                ..job()
            };
            let measured = run_against(job, respond).unwrap();
            assert!(measured.requests > 0, "{call:?}");
            let open = measured.open.unwrap();
            assert!(open.p50 > 0.0 && open.p50 <= open.p99, "{call:?}");
            assert!(open.answered > 0.0, "{call:?}");
        }
    }

    #[test]
    fn whoever_cannot_keep_up_is_charged_for_all_who_wait() {
        let job = Job {
            rate: Some(10_000.0),
            ..job()
        };
        let slow = async |mut tcp: TcpStream| {
            let mut request = [0; 1024];
            let reply = crate::exchange::tests::whole_reply();
            while tcp.read(&mut request).await? > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                tcp.write_all(&reply).await?;
            }
            Ok(())
        };
        let open = run_against(job, slow).unwrap().open.unwrap();
        // Three connections answer 300 a second at most: nearly all of the rest wait to the end.
        assert!(open.answered < 1_000.0);
        assert!(open.p50 > 20_000.0, "{open:?}");
    }

    #[test]
    fn one_wrong_answer_is_the_end() {
        for reply in [
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nelse",
        ] {
            let outcome = run_against(job(), move |tcp| always(tcp, reply));
            assert!(matches!(outcome, Err(LoadError::Answer { .. })), "{reply}");
        }
        let hung_up = run_against(job(), async |tcp| {
            drop(tcp);
            Ok(())
        });
        assert!(matches!(hung_up, Err(LoadError::Exchange { .. })));
    }

    #[test]
    fn a_policy_that_is_not_enforced_is_the_end() {
        let job = Job {
            denied_path: Some("/nowhere".to_owned()),
            ..job()
        };
        let expected = "403";
        assert!(matches!(
            run_against(job, respond),
            Err(LoadError::Answer { status: 200, expected: e, .. }) if e == expected
        ));
    }

    #[test]
    fn silence_is_the_end() {
        let outcome = run_against(job(), async |mut tcp| {
            tcp.read_to_end(&mut Vec::new()).await.map(drop)
        });
        assert!(matches!(outcome, Err(LoadError::Stalled(_))));
    }
}
