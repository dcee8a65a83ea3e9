//! Whether what was seen is what was configured.

use std::collections::BTreeMap;

use http::{HeaderMap, Method, Version};
use wayline_model::route::RouteAction;
use wayline_model::{CanonicalRequest, Snapshot};

/// How far a share may lie from the configured one, in parts of all requests.
const TOLERANCE: f64 = 0.02;

/// Fewer requests than this say nothing about shares.
pub(crate) const ENOUGH: u64 = 1_000;

/// Body of every refusal by a policy.
pub(crate) const DENIED: &str = "RBAC: access denied";

/// A backend's part of a service's requests, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Share {
    /// The backend's service, e.g. `reviews-v1`.
    pub(crate) backend: String,
    /// Its part.
    pub(crate) part: f64,
}

/// Who answered how often.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Answers by the Pod that gave them.
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// Requests without a proper answer.
    pub(crate) failed: u64,
    /// What the first of them got.
    pub(crate) first_failure: Option<String>,
}

impl Seen {
    /// All requests.
    pub(crate) fn total(&self) -> u64 {
        self.by_pod.values().sum::<u64>() + self.failed
    }

    /// A Pod's part of all requests.
    pub(crate) fn part(&self, pod: &str) -> f64 {
        let count = self.by_pod.get(pod).copied().unwrap_or_default();
        count as f64 / self.total().max(1) as f64
    }

    /// Takes in another count.
    pub(crate) fn add(&mut self, other: Self) {
        for (pod, count) in other.by_pod {
            *self.by_pod.entry(pod).or_default() += count;
        }
        self.failed += other.failed;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
    }

    /// Notes one request.
    pub(crate) fn note(&mut self, pod: Result<String, String>) {
        match pod {
            Ok(pod) => *self.by_pod.entry(pod).or_default() += 1,
            Err(reason) => {
                self.failed += 1;
                self.first_failure.get_or_insert(reason);
            }
        }
    }
}

/// What somebody should get, and got.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Who asked.
    pub(crate) who: &'static str,
    /// How.
    pub(crate) method: Method,
    /// For what.
    pub(crate) url: String,
    /// The status that the manifests mean.
    pub(crate) expected: u16,
    /// Status and body, or why there is none.
    pub(crate) got: Result<(u16, String), String>,
    /// What the access log says about a refusal.
    pub(crate) decided_by: Option<String>,
}

impl Answer {
    /// Whether it is as configured; a refusal must also be the policy's own.
    pub(crate) fn is_as_expected(&self) -> bool {
        match &self.got {
            Ok((403, body)) => self.expected == 403 && body == DENIED,
            Ok((status, _)) => *status == self.expected,
            Err(_) => false,
        }
    }

    /// What came, in a word or two.
    pub(crate) fn outcome(&self) -> String {
        match &self.got {
            Ok((status, _)) => status.to_string(),
            Err(reason) => reason.lines().next().unwrap_or_default().to_owned(),
        }
    }
}

/// The shares in force for the requests to `reviews`; empty where its route does not forward.
pub(crate) fn configured(snapshot: &Snapshot) -> Vec<Share> {
    let host = format!("reviews.default.svc.{}", snapshot.mesh.cluster_domain);
    let path = http::Uri::from_static("/reviews/0");
    let headers = HeaderMap::from_iter([(
        http::header::HOST,
        http::HeaderValue::from_static("reviews:9080"),
    )]);
    let request = CanonicalRequest::new(
        Method::GET,
        &path,
        Version::HTTP_11,
        headers,
        snapshot.mesh.path_normalization,
    );
    let (Some(target), Ok(request)) = (snapshot.tunnels.host(&host, 9080), request) else {
        return Vec::new();
    };
    let rule = target.routes.table_for(Some("default")).lookup(&request);
    let Some(RouteAction::Forward(forward)) = rule.map(|rule| &rule.action) else {
        return Vec::new();
    };
    forward
        .backends
        .iter()
        .map(|backend| {
            let cluster = backend.cluster.as_ref().ok();
            let service = cluster
                .and_then(|id| snapshot.clusters.get(id))
                .and_then(|cluster| cluster.service.as_ref());
            Share {
                backend: service.map_or("nobody", |service| &service.name).to_owned(),
                part: f64::from(backend.weight) / f64::from(forward.total_weight.max(1)),
            }
        })
        .collect()
}

/// All that is not as configured; nothing when the demo shows what it promises.
pub(crate) fn complaints(configured: &[Share], seen: &Seen, answers: &[Answer]) -> Vec<String> {
    let mut complaints = Vec::new();
    let total = seen.total();
    if total < ENOUGH {
        complaints.push(format!(
            "only {total} requests were sent to reviews, not {ENOUGH}"
        ));
    }
    if seen.failed > 0 {
        let first = seen.first_failure.as_deref().unwrap_or("unknown");
        complaints.push(format!(
            "{} of {total} requests to reviews failed, the first with: {first}",
            seen.failed
        ));
    }
    if configured.is_empty() {
        complaints.push("no split is configured for reviews".to_owned());
    }
    for share in configured {
        let part = seen.part(&share.backend);
        if (part - share.part).abs() > TOLERANCE {
            complaints.push(format!(
                "{} got {:.1} % of the requests, not {:.1} % (within {:.0} %)",
                share.backend,
                part * 100.0,
                share.part * 100.0,
                TOLERANCE * 100.0,
            ));
        }
    }
    for pod in seen.by_pod.keys() {
        if !configured.iter().any(|share| share.backend == *pod) {
            complaints.push(format!("{pod} answered and is no backend of the route"));
        }
    }
    for answer in answers.iter().filter(|answer| !answer.is_as_expected()) {
        complaints.push(format!(
            "{} {} as {} got {}, not {}",
            answer.method,
            answer.url,
            answer.who,
            answer.outcome(),
            answer.expected,
        ));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(parts: &[(&str, f64)]) -> Vec<Share> {
        let share = |(backend, part): &(&str, f64)| Share {
            backend: (*backend).to_owned(),
            part: *part,
        };
        parts.iter().map(share).collect()
    }

    fn seen(counts: &[(&str, u64)]) -> Seen {
        let by_pod = counts.iter().map(|(pod, n)| ((*pod).to_owned(), *n));
        Seen {
            by_pod: by_pod.collect(),
            ..Seen::default()
        }
    }

    fn answer(expected: u16, status: u16, body: &str) -> Answer {
        Answer {
            who: "intruder",
            method: Method::GET,
            url: "http://reviews:9080/".to_owned(),
            expected,
            got: Ok((status, body.to_owned())),
            decided_by: None,
        }
    }

    #[test]
    fn a_split_within_two_percent_passes_and_one_beyond_does_not() {
        let configured = shares(&[("reviews-v1", 0.9), ("reviews-v3", 0.1)]);
        let judge = |v1, v3| {
            complaints(
                &configured,
                &seen(&[("reviews-v1", v1), ("reviews-v3", v3)]),
                &[],
            )
        };
        assert_eq!(judge(900, 100), Vec::<String>::new());
        assert_eq!(judge(881, 119), Vec::<String>::new());
        assert_eq!(judge(875, 125).len(), 2);
        assert_eq!(judge(500, 500).len(), 2);
        assert!(judge(90, 10)[0].contains("only 100 requests"));
    }

    #[test]
    fn a_backend_nobody_configured_and_failures_do_not_pass() {
        let configured = shares(&[("reviews-v1", 1.0)]);
        let stray = seen(&[("reviews-v1", 1_990), ("reviews-v2", 10)]);
        assert!(complaints(&configured, &stray, &[])[0].contains("reviews-v2"));

        let mut failed = seen(&[("reviews-v1", 1_999)]);
        failed.note(Err("503".to_owned()));
        assert!(complaints(&configured, &failed, &[])[0].contains("503"));

        let nobody = complaints(&[], &seen(&[("reviews-v1", 2_000)]), &[]);
        assert!(nobody[0].contains("no split"));
    }

    #[test]
    fn denials_must_be_the_policies_own() {
        let configured = shares(&[("reviews-v1", 1.0)]);
        let seen = seen(&[("reviews-v1", 1_000)]);
        let judge = |answer| complaints(&configured, &seen, &[answer]).len();
        assert_eq!(judge(answer(403, 403, DENIED)), 0);
        assert_eq!(judge(answer(403, 200, "")), 1, "an intruder was let in");
        assert_eq!(judge(answer(200, 403, DENIED)), 1, "a caller was refused");
        assert_eq!(judge(answer(403, 403, "from the backend")), 1);
        let mut cut_off = answer(403, 0, "");
        cut_off.got = Err("the connection ended".to_owned());
        assert_eq!(judge(cut_off), 1);
    }
}
