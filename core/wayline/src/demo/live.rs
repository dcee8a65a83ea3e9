//! After the tour: modest traffic that shows what an edit of the manifests does, while it happens.

use std::convert::Infallible;
use std::future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::time::{self, MissedTickBehavior};
use wayline_control::Publication;
use wayline_model::{Finding, Severity, Snapshot};

use super::report::Report;
use super::tour::{self, Cast, REVIEWS};
use super::verdict::{self, Seen, Share};
use super::workload::Conversation;
use crate::failure::Failure;

/// How often productpage asks reviews.
const PACE: Duration = Duration::from_millis(100);
/// How often the intruder tries, and a page is fetched through the ingress Gateway.
const RARELY: Duration = Duration::from_secs(2);
/// How often the ticker moves.
const TICK: Duration = Duration::from_secs(1);
/// How often the split is told where nothing can be written over.
const REPORT: Duration = Duration::from_secs(60);

/// Sends and tells until something fails that has nothing to do with what is served.
pub(crate) async fn go_on(
    report: Report,
    ingress: SocketAddr,
    cast: &Cast,
    publication: &Publication,
) -> Result<Infallible, Failure> {
    report.news("Traffic goes on until Ctrl-C.")?;
    let mut snapshots = publication.snapshots.clone();
    let mut findings = publication.findings.clone();
    let mut state = State {
        report,
        configured: verdict::configured(&snapshots.borrow_and_update()),
        findings: Arc::clone(&findings.borrow_and_update()),
        intruder: None,
        seen: Seen::default(),
    };
    let mut conversation = None;
    let mut pace = every(PACE);
    let mut rarely = every(RARELY);
    let mut tick = every(TICK);
    let mut lines = every(REPORT);
    lines.reset();
    loop {
        tokio::select! {
            Some(snapshot) = changed(&mut snapshots) => state.take_snapshot(&snapshot)?,
            Some(news) = changed(&mut findings) => state.take_findings(news)?,
            _ = pace.tick() => {
                let pod = tour::ask_reviews(&cast.productpage, &mut conversation).await;
                state.seen.note(pod);
            }
            _ = rarely.tick() => {
                let got = cast.intruder.ask(Method::GET, REVIEWS).await;
                state.take_intruder(got.map(|reply| reply.status.as_u16()).ok())?;
                browse(ingress).await;
            }
            _ = tick.tick() => report.ticker(&state.line())?,
            _ = lines.tick() => if !report.is_terminal { report.news(&state.line())? },
        }
    }
}

/// Waits for the next value; never ends when there will be none.
async fn changed<T: Clone>(receiver: &mut watch::Receiver<T>) -> Option<T> {
    if receiver.changed().await.is_err() {
        future::pending::<()>().await;
    }
    Some(receiver.borrow_and_update().clone())
}

fn every(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// One page through the ingress Gateway; how it went shows in metrics and log.
async fn browse(ingress: SocketAddr) {
    if let Ok(mut open) = Conversation::outside(ingress).await {
        let _ = open.get("/productpage").await;
    }
}

struct State {
    report: Report,
    configured: Vec<Share>,
    findings: Arc<Vec<Finding>>,
    /// What the intruder got last.
    intruder: Option<Option<u16>>,
    /// Since the split was last changed.
    seen: Seen,
}

impl State {
    fn take_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let configured = verdict::configured(snapshot);
        if configured == self.configured {
            return self.report.news("applied: what you saved is in force");
        }
        self.configured = configured;
        self.seen = Seen::default();
        let parts: Vec<String> = self
            .configured
            .iter()
            .map(|share| format!("{} {:.0} %", share.backend, share.part * 100.0))
            .collect();
        let parts = if parts.is_empty() {
            "no backend".to_owned()
        } else {
            parts.join(", ")
        };
        self.report
            .news(&format!("applied: reviews is now split {parts}"))
    }

    fn take_findings(&mut self, findings: Arc<Vec<Finding>>) -> Result<(), Failure> {
        let is_new = |finding: &&Finding| {
            finding.severity == Severity::Error && !self.findings.contains(finding)
        };
        for finding in findings.iter().filter(is_new) {
            self.report.news(&format!("error: {finding}"))?;
        }
        self.findings = findings;
        Ok(())
    }

    fn take_intruder(&mut self, status: Option<u16>) -> Result<(), Failure> {
        let before = self.intruder.replace(status);
        let told = |status: Option<u16>| {
            status.map_or_else(|| "no answer".to_owned(), |status| status.to_string())
        };
        match before {
            Some(before) if before != status => self.report.news(&format!(
                "intruder asking reviews gets {}, before {}",
                told(status),
                told(before)
            )),
            _ => Ok(()),
        }
    }

    /// The split since it was last changed.
    fn line(&self) -> String {
        let mut line = format!("reviews: {} requests", self.seen.total());
        for pod in self.seen.by_pod.keys() {
            line.push_str(&format!("   {pod} {:.1} %", self.seen.part(pod) * 100.0));
        }
        if self.seen.failed > 0 {
            line.push_str(&format!("   failed {}", self.seen.failed));
        }
        line
    }
}
