//! What POST changes, and who may.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wayline_chain::{FilterSource, Placed, Scope};

use crate::support::{Beginning, Bench, FakeLevels, Request, empty, gateway};

#[test]
fn log_levels_are_shown_and_changed() {
    let levels = Arc::new(FakeLevels("info,h2=warn".to_owned().into()));
    let bench = Bench::start(Beginning {
        snapshot: empty(1),
        log_levels: Some(Arc::clone(&levels) as _),
        ..Beginning::default()
    });
    let post = |path: &str| bench.ask("admin", "POST", path);

    let shown = bench.get("admin", "/logging?level=debug").body;
    assert_eq!(shown, "active loggers:\n  all: info\n  h2: warn\n");
    let shown = post("/logging?scope=wayline_proxy=trace").body;
    assert_eq!(
        shown,
        "active loggers:\n  all: info\n  h2: warn\n  wayline_proxy: trace\n"
    );
    assert_eq!(
        *levels.0.lock().unwrap(),
        "info,h2=warn,wayline_proxy=trace"
    );
    assert_eq!(post("/logging?level=debug").status, 200);
    assert_eq!(*levels.0.lock().unwrap(), "debug");
    let form = Request::new("POST", "/logging")
        .header("Content-Type: application/x-www-form-urlencoded")
        .body("level=error")
        .send(bench.port("admin"));
    assert_eq!(form.status, 200);

    for (path, why) in [
        ("/logging", "say what to change"),
        ("/logging?level=loud", "\"loud\" is no level"),
        ("/logging?scope=bad=info", "no such module"),
    ] {
        let reply = post(path);
        assert_eq!(reply.status, 400, "{path}");
        assert!(reply.body.contains(why), "{path}: {}", reply.body);
    }
    assert_eq!(*levels.0.lock().unwrap(), "error");
}

#[test]
fn fixed_log_levels_say_so() {
    let bench = Bench::start(empty(1));
    assert_eq!(bench.get("admin", "/logging").status, 501);
    assert_eq!(
        bench.ask("admin", "POST", "/logging?level=info").status,
        501
    );
}

#[test]
fn readiness_can_be_switched_off_and_on() {
    let bench = Bench::start(empty(1));
    assert_eq!(bench.ask("admin", "POST", "/healthcheck/fail").status, 200);
    let reply = bench.get("status", "/healthz/ready");
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("/healthcheck/ok"), "{}", reply.body);
    assert_eq!(bench.get("status", "/healthz/live").status, 200);
    assert_eq!(bench.ask("admin", "POST", "/healthcheck/ok").status, 200);
    assert_eq!(bench.get("status", "/healthz/ready").status, 200);
}

#[test]
fn quitting_is_asked_for_by_post_from_this_machine_only() {
    let bench = Bench::start(empty(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = |patience| {
        let quit = bench.running.quit_requested();
        runtime.block_on(async { tokio::time::timeout(patience, quit).await.is_ok() })
    };
    let quit = || Request::new("POST", "/quitquitquit");
    let admin = bench.port("admin");

    assert_eq!(bench.get("admin", "/quitquitquit").status, 405);
    assert_eq!(bench.ask("status", "POST", "/quitquitquit").status, 404);
    assert_eq!(bench.ask("metrics", "POST", "/quitquitquit").status, 404);
    let rebound = quit().bare().header("Host: evil.example");
    assert_eq!(rebound.send(admin).status, 403);
    let forged = quit().header("Origin: http://evil.example");
    assert_eq!(forged.send(admin).status, 403);
    let absolute = Request::new("POST", "http://evil.example/quitquitquit");
    assert_eq!(absolute.send(admin).status, 403);
    assert!(!asked(Duration::ZERO));

    assert_eq!(quit().send(admin).status, 200);
    assert!(asked(Duration::from_secs(30)));
    assert!(bench.running.drain());
    assert!(TcpStream::connect(admin).is_err());
}

#[test]
fn a_worker_that_hangs_can_be_looked_at_and_drained() {
    let (release, held) = channel();
    let (entered, inside) = channel();
    let bench = Bench::start(Beginning {
        snapshot: gateway(&[0]),
        filters: vec![Arc::new(Hang {
            entered: Mutex::new(entered),
            held: Mutex::new(held),
        })],
        ..Beginning::default()
    });
    let mut client = TcpStream::connect(bench.port("default/shop:0")).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
        .unwrap();
    inside.recv().unwrap();

    let scrape = bench.get("metrics", "/stats/prometheus");
    assert_eq!(scrape.status, 200);
    assert!(scrape.body.contains("istio_build"), "{}", scrape.body);
    assert_eq!(bench.get("status", "/healthz/ready").status, 200);
    let stats = bench.get("admin", "/stats").body;
    assert!(stats.contains("worker.0.connections: 1\n"), "{stats}");
    for path in ["/config_dump", "/clusters", "/server_info"] {
        assert_eq!(bench.get("admin", path).status, 200, "{path}");
    }

    let status = bench.port("status");
    let admin = bench.port("admin");
    let draining = std::thread::spawn(move || bench.running.drain());
    let ready = || Request::new("GET", "/healthz/ready").send(status);
    while ready().status == 200 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let reply = ready();
    assert_eq!(reply.body.lines().count(), 1, "{}", reply.body);
    assert!(reply.body.contains("draining"), "{}", reply.body);
    let info = Request::new("GET", "/server_info").send(admin);
    assert!(info.body.contains("\"DRAINING\""), "{}", info.body);
    assert!(!draining.is_finished());

    drop(client);
    release.send(()).unwrap();
    assert!(draining.join().unwrap());
    assert!(TcpStream::connect(status).is_err());
}

/// Holds up the first worker that binds a chain.
struct Hang {
    entered: Mutex<Sender<()>>,
    held: Mutex<Receiver<()>>,
}

impl FilterSource for Hang {
    fn filters(&self, _scope: &Scope<'_>) -> Vec<Placed> {
        self.entered.lock().unwrap().send(()).unwrap();
        let _released = self.held.lock().unwrap().recv();
        Vec::new()
    }
}
