//! Timeouts and retries of a rule as ready values.

use std::time::Duration;

use http::StatusCode;

use super::Problem;
use crate::resource::http_route::HttpRouteRule;
use crate::route::{RetryPolicy, Timeouts};

/// The timeouts of a rule; `0s` switches one off.
pub(crate) fn timeouts(rule: &HttpRouteRule) -> Result<Timeouts, Problem> {
    let Some(written) = &rule.timeouts else {
        return Ok(Timeouts::default());
    };
    let limit = |field: &str, text: &Option<String>| match text {
        Some(text) => duration(text, &format!("timeouts.{field}")).map(Some),
        None => Ok(None),
    };
    let request = limit("request", &written.request)?.filter(|limit| !limit.is_zero());
    let backend_request = limit("backendRequest", &written.backend_request)?;
    if let (Some(request), Some(backend_request)) = (request, backend_request)
        && backend_request > request
    {
        return Err(Problem::new(
            "timeouts.backendRequest",
            "one attempt can not have longer than the whole request: make it at most timeouts.request",
        ));
    }
    Ok(Timeouts {
        request,
        backend_request: backend_request.filter(|limit| !limit.is_zero()),
    })
}

/// The retry policy of a rule: Istio's default, and what the rule asks for on top of it.
pub(crate) fn retry(rule: &HttpRouteRule) -> Result<RetryPolicy, Problem> {
    let default = RetryPolicy::default();
    let Some(written) = &rule.retry else {
        return Ok(default);
    };
    let attempts = match written.attempts {
        None => default.attempts,
        Some(attempts) => u32::try_from(attempts).map_err(|_| {
            Problem::new("retry.attempts", "must not be negative; 0 means no retries")
        })?,
    };
    let mut status_codes = Vec::with_capacity(written.codes.len());
    for (c, code) in written.codes.iter().enumerate() {
        let status = StatusCode::from_u16(*code)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error());
        status_codes.push(status.ok_or_else(|| {
            Problem::new(
                format!("retry.codes[{c}]"),
                "only statuses from 400 to 599 can be retried",
            )
        })?);
    }
    let backoff = match &written.backoff {
        Some(text) => duration(text, "retry.backoff")?,
        None => DEFAULT_BACKOFF,
    };
    Ok(RetryPolicy {
        attempts,
        on_reset: true,
        on_timeout: true,
        status_codes,
        backoff: Some(backoff).filter(|backoff| !backoff.is_zero()),
        ..default
    })
}

/// Envoy's base interval.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// A Gateway API Duration (GEP-2257): up to four whole numbers of up to five digits, each with a unit.
pub(super) fn duration(text: &str, at: &str) -> Result<Duration, Problem> {
    let refused = || {
        Problem::new(
            at,
            format!(
                "`{text}` is not a duration: write whole numbers with units, such as 1m30s or 250ms"
            ),
        )
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    for _ in 0..MAX_PARTS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        if digits > MAX_DIGITS {
            return Err(refused());
        }
        let number: u64 = number.parse().map_err(|_| refused())?;
        let letters = behind.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, next) = behind.split_at(letters);
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(refused()),
        };
        rest = next;
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(refused())
}

const MAX_PARTS: usize = 4;
const MAX_DIGITS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        let sound = [
            ("0s", 0),
            ("10ms", 10),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("99999s", 99_999_000),
        ];
        for (text, millis) in sound {
            assert_eq!(
                duration(text, "x"),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        let refused = [
            "",
            "1",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1us",
            "1d",
            "100000s",
            "1s1s1s1s1s",
            "1 s",
            "1S",
            "1s ",
        ];
        for text in refused {
            assert!(duration(text, "x").is_err(), "{text} was accepted");
        }
    }
}
