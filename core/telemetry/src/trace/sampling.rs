//! Which requests are recorded, where their callers did not decide.
//!
//! The number that decides comes from `x-request-id` where that can be believed, so that every proxy
//! on a request's way with the same share decides alike, and Envoy among them: it reads the same
//! digits, and leaves the decision in the same digit.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Length of a UUID.
const UUID_LENGTH: usize = 36;

/// Where Envoy keeps the decision: the version of a UUID, which is 4 in a fresh one.
const DECISION: usize = 14;

/// Shares are counted in these.
const WHOLE: u64 = 10_000;

/// Istio's share where nobody names one (`PILOT_TRACE_SAMPLING`), in percent.
const DEFAULT_PERCENT: f64 = 1.0;

/// Decides for a share of all requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sampler {
    share: u64,
}

impl Sampler {
    /// The first percentage that is given counts: the provider's own sampler, Telemetry's
    /// `randomSamplingPercentage`, `defaultConfig.tracing.sampling`; else 1 %. Shares are exact to
    /// 0.01 %.
    #[must_use]
    pub fn new(provider: Option<f64>, telemetry: Option<f64>, mesh: Option<f64>) -> Self {
        let percent = provider.or(telemetry).or(mesh).unwrap_or(DEFAULT_PERCENT);
        Self {
            share: (percent.clamp(0.0, 100.0) * 100.0).round() as u64,
        }
    }

    /// Whether a request with this number is recorded.
    #[must_use]
    pub fn records(self, number: u64) -> bool {
        number % WHOLE < self.share
    }
}

/// What a request id says about sampling: a decision made before, or the number to decide by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestIdHint {
    /// Somebody before us decided to record it.
    Recorded,
    /// The number that all proxies see.
    Number(u64),
}

/// Reads the request id; `None` when there is no UUID.
#[must_use]
pub fn request_id_hint(headers: &HeaderMap) -> Option<RequestIdHint> {
    let id = headers.get(&REQUEST_ID)?.to_str().ok()?;
    if id.len() != UUID_LENGTH {
        return None;
    }
    if matches!(id.as_bytes().get(DECISION), Some(b'9' | b'a' | b'b')) {
        return Some(RequestIdHint::Recorded);
    }
    let digits = id.get(..8)?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u32::from_str_radix(digits, 16).ok()?;
    Some(RequestIdHint::Number(number.into()))
}

/// Notes in the request id that we decided to record the request.
pub fn mark_request_id(headers: &mut HeaderMap) {
    let Some(id) = headers.get(&REQUEST_ID) else {
        return;
    };
    let Ok(mut id) = <[u8; UUID_LENGTH]>::try_from(id.as_bytes()) else {
        return;
    };
    if id[DECISION] != b'4' {
        return;
    }
    id[DECISION] = b'9';
    if let Ok(id) = HeaderValue::from_bytes(&id) {
        headers.insert(REQUEST_ID, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0000270f-1111-4222-8333-444444444444";

    fn with_id(id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, id.parse().unwrap());
        headers
    }

    #[test]
    fn the_first_percentage_counts() {
        let share = |provider, telemetry, mesh| Sampler::new(provider, telemetry, mesh).share;
        assert_eq!(share(None, None, None), 100);
        assert_eq!(share(None, None, Some(12.5)), 1250);
        assert_eq!(share(None, Some(0.0), Some(12.5)), 0);
        assert_eq!(share(Some(100.0), Some(0.0), None), 10_000);
        assert_eq!(share(None, None, Some(0.01)), 1);
        assert_eq!(share(None, None, Some(1e9)), 10_000);
        assert_eq!(share(None, None, Some(f64::NAN)), 0);
    }

    #[test]
    fn the_share_is_exact_over_all_numbers() {
        for (percent, expected) in [
            (0.0, 0),
            (0.01, 1),
            (1.0, 100),
            (33.33, 3333),
            (100.0, 10_000),
        ] {
            let sampler = Sampler::new(None, None, Some(percent));
            let recorded = (0..10_000).filter(|n| sampler.records(*n)).count();
            assert_eq!(recorded, expected, "{percent} %");
        }
    }

    #[test]
    fn the_request_id_tells_the_number_or_the_decision() {
        use RequestIdHint::{Number, Recorded};
        let hint = |id: &str| request_id_hint(&with_id(id));
        assert_eq!(hint(ID), Some(Number(9_999)));
        for digit in ["9", "a", "b"] {
            let id = ID.replace("-4222", &format!("-{digit}222"));
            assert_eq!(hint(&id), Some(Recorded), "{id}");
        }
        assert_eq!(hint("my own id"), None);
        assert_eq!(hint(&ID.replace("0000270f", "zzzzzzzz")), None);
        assert_eq!(hint(&ID.replace("0000270f", "+000270f")), None);
        assert_eq!(request_id_hint(&HeaderMap::new()), None);
    }

    #[test]
    fn a_mark_is_read_as_a_decision_and_only_uuids_are_marked() {
        let mut headers = with_id(ID);
        mark_request_id(&mut headers);
        assert_eq!(headers[REQUEST_ID], ID.replace("-4222", "-9222").as_str());
        assert_eq!(request_id_hint(&headers), Some(RequestIdHint::Recorded));
        for other in ["my own id", "0000270f-1111-7222-8333-444444444444"] {
            let mut headers = with_id(other);
            mark_request_id(&mut headers);
            assert_eq!(headers[REQUEST_ID], other);
        }
    }
}
