//! Mirrors: copies of requests over the same pools as everybody's, whose answers nobody waits for.
//!
//! Nothing that becomes of a copy touches the exchange it was made from: it runs in a task of its own,
//! reads the body while it goes by ([`super::tap`]) and is counted, not logged.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method};
use http_body::Body;
use wayline_model::Snapshot;
use wayline_model::route::{Mirror, RetryPolicy};
use wayline_model::service::AppProtocol;

use super::body::{ClientBody, ClientSource};
use super::tap::TapWatch;
use crate::upstream::{Attempts, ClusterState, UpstreamRequest, send};
use crate::worker::{LocalExecutor, Worker};

/// Copies under way at once on a core; what comes on top is left out.
const MAX_RUNNING: usize = 1024;

/// How long a copy may take where its rule has no timeout.
const MAX_DURATION: Duration = Duration::from_secs(300);

/// Copies under way on a core.
#[derive(Clone, Default)]
pub(crate) struct Running(Rc<Cell<usize>>);

impl Running {
    fn begin(&self) -> Option<Self> {
        let running = self.0.get();
        (running < MAX_RUNNING).then(|| {
            self.0.set(running + 1);
            self.clone()
        })
    }

    fn finish(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// The clusters that get a copy of a request, each as often as its share says.
pub(crate) fn chosen(
    worker: &Worker,
    snapshot: &Snapshot,
    mirrors: &[Mirror],
) -> Vec<Rc<ClusterState>> {
    mirrors
        .iter()
        .filter(|mirror| {
            mirror.numerator >= mirror.denominator
                || worker.random.below(mirror.denominator as usize) < mirror.numerator as usize
        })
        .filter_map(|mirror| worker.upstreams.cluster(snapshot, mirror.cluster))
        .collect()
}

/// Sends copies of a request that is about to be sent itself. They end after `limit` at the latest.
pub(crate) fn start(
    worker: &Rc<Worker>,
    clusters: Vec<Rc<ClusterState>>,
    request: &UpstreamRequest,
    limit: Option<Duration>,
) {
    for cluster in clusters {
        let Some(running) = worker.mirrors.begin() else {
            worker.process.mirrored("left_out");
            continue;
        };
        let (copy, watch) = copy(request, &cluster);
        let worker = Rc::clone(worker);
        LocalExecutor::spawn(async move {
            let running = Finished(running);
            let exchange = async {
                tokio::select! {
                    outcome = run(&worker, &cluster, copy) => outcome,
                    // A codec that can not write does not ask for more, and would never know.
                    () = broken(watch) => "failed",
                }
            };
            let outcome = tokio::time::timeout(limit.unwrap_or(MAX_DURATION), exchange).await;
            worker.process.mirrored(outcome.unwrap_or("timeout"));
            drop(running);
        });
    }
}

/// Counts a copy as under way for as long as it lives, however it ends.
struct Finished(Running);

impl Drop for Finished {
    fn drop(&mut self) {
        self.0.finish();
    }
}

async fn run(
    worker: &Worker,
    cluster: &Rc<ClusterState>,
    request: UpstreamRequest,
) -> &'static str {
    let once = RetryPolicy {
        attempts: 0,
        ..RetryPolicy::default()
    };
    let (mut request, mut attempts) = (Some(request), Attempts::default());
    let sent = send::send(worker, cluster, &mut request, &once, None, &mut attempts).await;
    let Ok((_, mut body)) = sent else {
        return "failed";
    };
    // Read to its end, so that the connection can be used again.
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if frame.is_err() {
            return "failed";
        }
    }
    "sent"
}

async fn broken(watch: Option<TapWatch>) {
    match watch {
        Some(watch) => watch.await,
        None => std::future::pending().await,
    }
}

fn copy(request: &UpstreamRequest, cluster: &ClusterState) -> (UpstreamRequest, Option<TapWatch>) {
    let tap = request
        .body
        .as_ref()
        .map(|body| (body.tap(), body.trailers()));
    let watch = tap.as_ref().map(|(tap, _)| tap.watch());
    let copy = UpstreamRequest {
        method: request.method.clone(),
        path: request.path.clone(),
        authority: shadow(&request.authority),
        upgrade: None,
        headers: request.headers.clone(),
        body: tap.map(|(tap, trailers)| ClientBody::new(ClientSource::Tap(tap), trailers)),
        http2: request.http2
            || matches!(
                cluster.cluster().protocol,
                AppProtocol::Http2 | AppProtocol::Grpc
            ),
    };
    (copy, watch)
}

/// `-shadow` behind the host, as Envoy does, so that whoever gets a copy can tell. IPv6 addresses stay,
/// because they would not be hosts any more.
fn shadow(authority: &HeaderValue) -> HeaderValue {
    let Ok(text) = authority.to_str() else {
        return authority.clone();
    };
    if text.starts_with('[') {
        return authority.clone();
    }
    let shadow = match text.split_once(':') {
        Some((host, port)) => format!("{host}-shadow:{port}"),
        None => format!("{text}-shadow"),
    };
    HeaderValue::from_str(&shadow).unwrap_or_else(|_| authority.clone())
}

/// Whether a request can be copied: a tunnel's bytes can not.
pub(crate) fn is_copied(request: &UpstreamRequest) -> bool {
    request.method != Method::CONNECT && request.upgrade.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_says_so() {
        for (authority, expected) in [
            ("shop", "shop-shadow"),
            ("shop.default:8080", "shop.default-shadow:8080"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let found = shadow(&HeaderValue::from_static(authority));
            assert_eq!(found, expected, "{authority}");
        }
    }
}
