//! Which path shows what, on which port, and by which method.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use http::{Method, StatusCode};

use super::server::{Answer, Asked, Port};
use super::{Admin, config_dump, logging, objects, readiness, stats};
use crate::drain::Phase;

/// One thing that can be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Page {
    Help,
    ConfigDump,
    Objects,
    Stats,
    Prometheus,
    Listeners,
    Clusters,
    ServerInfo,
    Ready,
    Live,
    Logging,
    MarkUnhealthy,
    MarkHealthy,
    DrainListeners,
    Quit,
}

/// Where a page is.
struct Place {
    path: &'static str,
    page: Page,
    ports: &'static [Port],
    methods: Methods,
    help: &'static str,
}

/// By which methods a page is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Methods {
    /// It only shows.
    Read,
    /// It changes something.
    Write,
    /// GET shows, POST changes.
    Both,
}

use Methods::{Both, Read, Write};
use Port::{Metrics, Status};

const PLACES: &[Place] = &[
    place(
        "/",
        Page::Help,
        &[Port::Admin, Status, Metrics],
        Read,
        "this list",
    ),
    place(
        "/config_dump",
        Page::ConfigDump,
        &[Port::Admin],
        Read,
        "the configuration in force, as Envoy dumps it (?include_eds, ?resource=FIELD)",
    ),
    place(
        "/wayline/objects",
        Page::Objects,
        &[Port::Admin],
        Read,
        "the objects in force, as a List (?secrets: Secrets with their values)",
    ),
    place(
        "/clusters",
        Page::Clusters,
        &[Port::Admin],
        Read,
        "backends and their endpoints (?format=json)",
    ),
    place(
        "/listeners",
        Page::Listeners,
        &[Port::Admin],
        Read,
        "open and failed listeners (?format=json)",
    ),
    place(
        "/stats",
        Page::Stats,
        &[Port::Admin],
        Read,
        "numbers of this process (?filter=TEXT, ?format=json|prometheus)",
    ),
    place(
        "/stats/prometheus",
        Page::Prometheus,
        &[Port::Admin, Metrics],
        Read,
        "all metrics for Prometheus",
    ),
    place(
        "/metrics",
        Page::Prometheus,
        &[Port::Admin, Metrics],
        Read,
        "the same",
    ),
    place(
        "/server_info",
        Page::ServerInfo,
        &[Port::Admin],
        Read,
        "version, state, node",
    ),
    place(
        "/ready",
        Page::Ready,
        &[Port::Admin],
        Read,
        "200 when traffic is welcome, else 503 and why",
    ),
    place(
        "/healthz/ready",
        Page::Ready,
        &[Port::Admin, Status, Metrics],
        Read,
        "200 when traffic is welcome, else 503 and why",
    ),
    place(
        "/healthz/live",
        Page::Live,
        &[Port::Admin, Status],
        Read,
        "200 while the process answers",
    ),
    place(
        "/logging",
        Page::Logging,
        &[Port::Admin],
        Both,
        "log levels; POST ?level=LEVEL or ?scope=MODULE=LEVEL changes them",
    ),
    place(
        "/healthcheck/fail",
        Page::MarkUnhealthy,
        &[Port::Admin],
        Write,
        "POST: not ready until /healthcheck/ok",
    ),
    place(
        "/healthcheck/ok",
        Page::MarkHealthy,
        &[Port::Admin],
        Write,
        "POST: ends /healthcheck/fail",
    ),
    place(
        "/drain_listeners",
        Page::DrainListeners,
        &[Port::Admin],
        Write,
        "POST: finish what runs, take nothing new (?graceful: after the drain delay)",
    ),
    place(
        "/quitquitquit",
        Page::Quit,
        &[Port::Admin],
        Write,
        "POST: finish what runs, then end",
    ),
];

const fn place(
    path: &'static str,
    page: Page,
    ports: &'static [Port],
    methods: Methods,
    help: &'static str,
) -> Place {
    Place {
        path,
        page,
        ports,
        methods,
        help,
    }
}

/// Why there is no page.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The methods there are, when it is the method.
    pub(super) allow: Option<&'static str>,
    pub(super) text: String,
}

/// The page at a path of a port.
pub(super) fn find(port: Port, method: &Method, path: &str) -> Result<Page, Refusal> {
    let known = PLACES
        .iter()
        .find(|place| place.path == path && place.ports.contains(&port));
    let Some(place) = known else {
        return Err(Refusal {
            status: StatusCode::NOT_FOUND,
            allow: None,
            text: format!(
                "there is no such page on this port; there are:\n{}",
                help(port)
            ),
        });
    };
    let reads = method == Method::GET || method == Method::HEAD;
    let writes = method == Method::POST;
    let (fits, allow) = match place.methods {
        Read => (reads, "GET, HEAD"),
        Write => (writes, "POST"),
        Both => (reads || writes, "GET, HEAD, POST"),
    };
    if fits {
        return Ok(place.page);
    }
    Err(Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        allow: Some(allow),
        text: format!("{path} answers to {allow}\n"),
    })
}

impl Page {
    /// Whether making it takes long with a large configuration or many series.
    pub(super) fn is_large(self) -> bool {
        matches!(
            self,
            Self::ConfigDump | Self::Objects | Self::Stats | Self::Prometheus | Self::Clusters
        )
    }

    /// Makes the page, or does what it is for.
    pub(super) fn make(self, admin: &Admin, asked: &Asked) -> Answer {
        match self {
            Self::Help => Answer::text(help(asked.port)),
            Self::ConfigDump => config_dump::page(admin, asked),
            Self::Objects => objects::page(admin, asked),
            Self::Stats => stats::page(admin, asked),
            Self::Prometheus => stats::prometheus(admin),
            Self::Listeners => stats::listeners(admin, asked),
            Self::Clusters => stats::clusters(admin, asked),
            Self::ServerInfo => stats::server_info(admin),
            Self::Ready => ready(admin, asked),
            Self::Live => Answer::text("live\n"),
            Self::Logging => logging::page(admin, asked),
            Self::MarkUnhealthy => mark(admin, true),
            Self::MarkHealthy => mark(admin, false),
            Self::DrainListeners => drain_listeners(admin, asked),
            Self::Quit => {
                tracing::info!("asked to end by POST /quitquitquit");
                admin.quit.send_replace(true);
                Answer::text("OK\n")
            }
        }
    }
}

fn ready(admin: &Admin, asked: &Asked) -> Answer {
    let obstacles = readiness::obstacles(admin);
    if !obstacles.is_empty() {
        let report = readiness::report(&obstacles);
        return Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, report);
    }
    // Envoy's word where Envoy's path is asked.
    Answer::text(if asked.path == "/ready" {
        "LIVE\n"
    } else {
        "ready\n"
    })
}

fn mark(admin: &Admin, unhealthy: bool) -> Answer {
    admin.marked_unhealthy.store(unhealthy, Ordering::Relaxed);
    tracing::info!(unhealthy, "readiness was switched by POST /healthcheck");
    Answer::text("OK\n")
}

/// Envoy's switch: what is open finishes, nothing new comes in, and the process stays.
fn drain_listeners(admin: &Admin, asked: &Asked) -> Answer {
    let graceful = asked.flag("graceful");
    tracing::info!(graceful, "listeners were drained by POST /drain_listeners");
    let phase = if graceful {
        Phase::Announced
    } else {
        Phase::Draining
    };
    crate::announce(&admin.phase, phase);
    Answer::text("OK\n")
}

fn help(port: Port) -> String {
    let mut text = String::new();
    for place in PLACES.iter().filter(|place| place.ports.contains(&port)) {
        let _infallible = writeln!(text, "{:<20} {}", place.path, place.help);
    }
    text
}
