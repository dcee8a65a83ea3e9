//! `wayline demo`: Bookinfo on one machine, served by what `wayline run` serves with.
//!
//! Owns the stage (manifests, ports, a development CA, all in a temporary folder), Bookinfo's services,
//! the traffic, and what is said about it. Refuses to know how any of it is served: manifests go in,
//! requests go through sockets, and the verdict rests on the answers alone.

mod backends;
mod live;
mod page;
mod report;
mod stage;
mod tour;
mod verdict;
mod workload;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use wayline_proxy::Listeners;
use wayline_tls::DevCa;

use crate::cli::{DemoArgs, LimitArgs, RunArgs, Span};
use crate::failure::Failure;
use crate::logging::{self, LogFormat, LogLevels};
use crate::modules::ModuleArgs;
use crate::run::signals::Signals;
use crate::run::{self, Serving};
use crate::{FAILED, OK};
use report::Report;
use stage::Stage;
use tour::Cast;
use workload::{Conversation, Workload};

/// How long the tour may take; it takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(45);
/// What is logged unless asked for; what is wrong with manifests is told by the demo itself.
const QUIET: &str = "warn,wayline_control::publish=off";
/// How long what runs at the end may take.
const DRAIN: Duration = Duration::from_secs(2);

/// Shows Bookinfo. With `--once` the exit code is 0 only if split and denials are as configured.
pub(crate) fn run(args: &DemoArgs) -> Result<u8, Failure> {
    let levels = logging::start(
        Some(args.log.as_deref().unwrap_or(QUIET)),
        Some(LogFormat::Text),
    )?;
    run::on_runtime(|signals| play(args.once, signals, levels))
}

async fn play(once: bool, mut signals: Signals, levels: LogLevels) -> Result<u8, Failure> {
    let report = Report::new();
    let (stage, places) = Stage::set()?;
    let shown = report::backends(&places);
    let mut serving = Serving::start(&run_args(&stage), levels)?;
    let upkeep = serving.upkeep();

    let ports = Ports::of(serving.listeners())?;
    let ca = Arc::new(DevCa::open_or_create(&stage.dev_ca())?);
    let join = |account| Workload::new(account, &ca, ports.hbone);
    let cast = Cast {
        productpage: join("bookinfo-productpage"),
        reviews: join("bookinfo-reviews"),
        intruder: join("intruder"),
    };
    backends::serve(places, &cast.productpage, &cast.reviews)?;
    report.running(&stage, &ports, &shown)?;

    let show = async {
        let shown =
            tokio::time::timeout(PATIENCE, tour(report, &stage, &ports, &cast, &serving)).await;
        let complaints = shown.map_err(|_| too_slow())??;
        if once {
            report.verdict(&complaints)?;
            return Ok(if complaints.is_empty() { OK } else { FAILED });
        }
        report.next_steps(&stage, &ports)?;
        report.verdict(&complaints)?;
        let never = live::go_on(report, stage.ingress, &cast, serving.publication()).await?;
        match never {}
    };
    let outcome: Result<u8, Failure> = tokio::select! {
        outcome = show => outcome,
        never = upkeep => match never {},
        () = serving.quit_requested() => Ok(OK),
        () = signals.stop() => {
            report.news("")?;
            // Whoever interrupts the tour has seen no verdict.
            Ok(if once { FAILED } else { OK })
        }
    };
    drop(cast);
    serving.drain(signals).await?;
    outcome
}

/// Where everything listens but the ingress Gateway, whose port stands in its manifest.
#[derive(Clone, Copy, Debug)]
struct Ports {
    hbone: SocketAddr,
    admin: SocketAddr,
    status: SocketAddr,
    metrics: SocketAddr,
}

impl Ports {
    fn of(listeners: &Listeners) -> Result<Self, Failure> {
        const REMEDY: &str = "try again; somebody else may have taken the port";
        for listener in listeners.all() {
            listener
                .bound
                .map_err(|reason| Failure::new(reason).remedy(REMEDY))?;
        }
        let bound = |name| {
            let address = listeners.bound(name);
            address.ok_or_else(|| Failure::new(format!("nothing listens for {name}")))
        };
        Ok(Self {
            hbone: bound("hbone")?,
            admin: bound("admin")?,
            status: bound("status")?,
            metrics: bound("metrics")?,
        })
    }
}

/// Shows everything once, and says what was not as configured.
async fn tour(
    report: Report,
    stage: &Stage,
    ports: &Ports,
    cast: &Cast,
    serving: &Serving,
) -> Result<Vec<String>, Failure> {
    let mut answers = tour::at_ingress(stage.ingress).await;
    report.ingress(&answers)?;

    let configured = verdict::configured(&serving.publication().snapshots.borrow());
    let (seen, took) = tour::split(&cast.productpage).await;
    report.split(&configured, &seen, took)?;

    let log = stage.access_log();
    let in_mesh = tour::in_mesh(cast, &log).await;
    report.policies(&in_mesh)?;
    answers.extend(in_mesh);

    let metrics = Conversation::outside(ports.metrics)
        .await?
        .get("/stats/prometheus")
        .await?;
    let log = std::fs::read_to_string(log).unwrap_or_default();
    report.telemetry(stage, ports, &report::samples(&metrics.text(), &log))?;
    Ok(verdict::complaints(&configured, &seen, &answers))
}

/// The flags with which `wayline run` would serve the stage.
fn run_args(stage: &Stage) -> RunArgs {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    RunArgs {
        files: vec![stage.manifests()],
        gateways: Vec::new(),
        dev_ca: Some(stage.dev_ca()),
        identity_dir: None,
        hbone: anywhere,
        admin: anywhere,
        status: anywhere,
        metrics: anywhere,
        workers: None,
        drain_timeout: Span::from(DRAIN),
        drain_delay: Span::from(Duration::ZERO),
        head_timeout: Span::from(Duration::ZERO),
        idle_timeout: Span::from(Duration::ZERO),
        stream_idle_timeout: Span::from(Duration::ZERO),
        modules: ModuleArgs::default(),
        zone: String::new(),
        node: String::new(),
        send_timeout: Span::from(Duration::ZERO),
        certificate_grace: Span::from(Duration::ZERO),
        limits: LimitArgs::default(),
        log: None,
        log_format: None,
    }
}

fn too_slow() -> Failure {
    Failure::new(format!("the demo was not done within {PATIENCE:?}")).remedy(
        "try again on a machine that is less busy, or with --log info to see what it waits for",
    )
}
