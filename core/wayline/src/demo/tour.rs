//! What the demo sends: many requests to see a split, a few to see who may call whom.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::task::JoinSet;

use super::verdict::{Answer, Seen};
use super::workload::{Conversation, Reply, Workload};
use crate::failure::Failure;

/// Requests that show the split.
const REQUESTS: u64 = 2_000;
/// Connections they go over.
const CONNECTIONS: u64 = 8;
/// How long the access log may take to show what was refused.
const LOG_PATIENCE: Duration = Duration::from_secs(3);

/// Where `reviews` is asked.
pub(crate) const REVIEWS: &str = "http://reviews:9080/reviews/0";

/// Who takes part.
pub(crate) struct Cast {
    /// Runs as `bookinfo-productpage`.
    pub(crate) productpage: Arc<Workload>,
    /// Runs as `bookinfo-reviews`.
    pub(crate) reviews: Arc<Workload>,
    /// Runs as nobody the policies know.
    pub(crate) intruder: Arc<Workload>,
}

/// One question with the answer that the manifests mean.
struct Probe {
    who: &'static str,
    method: Method,
    url: &'static str,
    expected: u16,
}

const fn probe(who: &'static str, method: Method, url: &'static str, expected: u16) -> Probe {
    Probe {
        who,
        method,
        url,
        expected,
    }
}

/// Who asks from outside the mesh.
const OUTSIDE: &str = "(outside)";

/// Through the ingress Gateway.
const AT_INGRESS: [Probe; 3] = [
    probe(OUTSIDE, Method::GET, "/productpage", 200),
    probe(OUTSIDE, Method::GET, "/api/v1/products/0/reviews", 200),
    probe(OUTSIDE, Method::GET, "/reviews/0", 404),
];

/// Through the waypoint.
const IN_MESH: [Probe; 8] = [
    probe("bookinfo-productpage", Method::GET, REVIEWS, 200),
    probe("bookinfo-productpage", Method::POST, REVIEWS, 403),
    probe(
        "bookinfo-productpage",
        Method::GET,
        "http://ratings:9080/ratings/0",
        403,
    ),
    probe(
        "bookinfo-reviews",
        Method::GET,
        "http://ratings:9080/ratings/0",
        200,
    ),
    probe("intruder", Method::GET, REVIEWS, 403),
    probe(
        "intruder",
        Method::GET,
        "http://reviews-v3:9080/reviews/0",
        403,
    ),
    probe(
        "intruder",
        Method::GET,
        "http://details:9080/details/0",
        403,
    ),
    probe(
        "intruder",
        Method::GET,
        "http://productpage:9080/productpage",
        403,
    ),
];

/// Asks `reviews` often enough to see in what shares its versions answer; and how long that took.
pub(crate) async fn split(productpage: &Arc<Workload>) -> (Seen, Duration) {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let caller = Arc::clone(productpage);
        callers.spawn(async move { ask_often(&caller, REQUESTS / CONNECTIONS).await });
    }
    let mut seen = Seen::default();
    for part in callers.join_all().await {
        seen.add(part);
    }
    (seen, began.elapsed())
}

async fn ask_often(caller: &Workload, requests: u64) -> Seen {
    let mut seen = Seen::default();
    let mut conversation = None;
    for _ in 0..requests {
        seen.note(ask_reviews(caller, &mut conversation).await);
    }
    seen
}

/// Asks `reviews` once, on the connection there is or a new one: the Pod that answered, or what came
/// instead.
pub(crate) async fn ask_reviews(
    caller: &Workload,
    conversation: &mut Option<Conversation>,
) -> Result<String, String> {
    let reply = match conversation {
        Some(open) => open.get("/reviews/0").await,
        None => match caller.talk_to(REVIEWS).await {
            Ok(open) => conversation.insert(open).get("/reviews/0").await,
            Err(failure) => Err(failure),
        },
    };
    match reply {
        Ok(reply) => pod(&reply),
        Err(failure) => {
            *conversation = None;
            Err(failure.to_string())
        }
    }
}

fn pod(reply: &Reply) -> Result<String, String> {
    if !reply.status.is_success() {
        return Err(format!("{} {}", reply.status.as_u16(), reply.text()));
    }
    let document: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    let pod = document["podname"].as_str();
    pod.map(ToOwned::to_owned)
        .ok_or_else(|| "the reply names no Pod".to_owned())
}

/// Asks what the ingress Gateway lets in.
pub(crate) async fn at_ingress(address: SocketAddr) -> Vec<Answer> {
    let mut answers = Vec::new();
    for probe in AT_INGRESS {
        let got = async {
            let mut open = Conversation::outside(address).await?;
            open.ask(probe.method.clone(), probe.url, &HeaderMap::new())
                .await
        };
        let got = got.await;
        answers.push(probe.answered(got));
    }
    answers
}

/// Asks who may call whom, and looks up in the access log what refused.
pub(crate) async fn in_mesh(cast: &Cast, access_log: &Path) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (number, probe) in IN_MESH.into_iter().enumerate() {
        let who = [&cast.productpage, &cast.reviews]
            .into_iter()
            .find(|workload| workload.account == probe.who)
            .unwrap_or(&cast.intruder);
        // The number is how the line in the access log is found again.
        let url = format!("{}?probe={number}", probe.url);
        let got = who.ask(probe.method.clone(), &url).await;
        answers.push(probe.answered(got));
    }
    let deadline = Instant::now() + LOG_PATIENCE;
    loop {
        let log = std::fs::read_to_string(access_log).unwrap_or_default();
        for (number, answer) in answers.iter_mut().enumerate() {
            answer.decided_by = decision(&log, number);
        }
        let is_told =
            |answer: &Answer| !matches!(answer.got, Ok((403, _))) || answer.decided_by.is_some();
        if answers.iter().all(is_told) || Instant::now() > deadline {
            return answers;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Probe {
    fn answered(self, got: Result<Reply, Failure>) -> Answer {
        Answer {
            who: self.who,
            method: self.method,
            url: self.url.to_owned(),
            expected: self.expected,
            got: got
                .map(|reply| (reply.status.as_u16(), reply.text()))
                .map_err(|failure| failure.to_string()),
            decided_by: None,
        }
    }
}

/// What refused the probe of that number, from Istio's response code details.
fn decision(log: &str, number: usize) -> Option<String> {
    let mark = format!("?probe={number} ");
    let line = log.lines().find(|line| line.contains(&mark))?;
    let rule = line
        .split(' ')
        .find_map(|word| word.strip_prefix("rbac_access_denied_matched_policy["))?
        .strip_suffix(']')?;
    if rule == "none" {
        return Some("no ALLOW policy admits it".to_owned());
    }
    let named: Option<(&str, &str, &str)> = (|| {
        let rest = rule.strip_prefix("ns[")?;
        let (namespace, rest) = rest.split_once("]-policy[")?;
        let (policy, rest) = rest.split_once("]-rule[")?;
        Some((namespace, policy, rest.strip_suffix(']')?))
    })();
    Some(match named {
        Some((namespace, policy, rule)) => format!("DENY by {namespace}/{policy}, rule {rule}"),
        None => rule.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_which_policy_decided() {
        let log = "[t] \"GET /reviews/0?probe=1 HTTP/1.1\" 403 - rbac_access_denied_matched_policy[none] - \"-\" 0 19\n\
             [t] \"POST /reviews/0?probe=10 HTTP/1.1\" 403 - rbac_access_denied_matched_policy[ns[default]-policy[read-only]-rule[0]] - \"-\"\n\
             [t] \"GET /reviews/0?probe=2 HTTP/1.1\" 200 - via_upstream - \"-\"\n";
        assert_eq!(decision(log, 1).unwrap(), "no ALLOW policy admits it");
        assert_eq!(
            decision(log, 10).unwrap(),
            "DENY by default/read-only, rule 0"
        );
        assert_eq!(decision(log, 2), None);
        assert_eq!(decision(log, 0), None);
    }
}
