//! `%START_TIME%`: Istio's form by hand, because every line has it; other forms through jiff.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

use super::format::FormatError;

/// How a time is shown.
#[derive(Clone, Debug)]
pub(super) enum TimeFormat {
    /// `2024-05-06T07:08:09.123Z`.
    Iso,
    /// A strftime pattern in jiff's dialect.
    Pattern(Box<str>),
}

impl TimeFormat {
    /// Reads Envoy's pattern: strftime with `%f`, `%1f` to `%9f`, `%E3S`, `%E*S`, `%Ez`.
    pub(super) fn compile(pattern: &str) -> Result<Self, FormatError> {
        if pattern.is_empty() {
            return Ok(Self::Iso);
        }
        let refused = |reason: String| FormatError::Time {
            pattern: pattern.to_owned(),
            reason,
        };
        // These would need escaping in each line.
        if pattern.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
            return Err(refused("it holds a quote or a control character".into()));
        }
        let translated = translate(pattern);
        let mut sample = Vec::new();
        broken_down(UNIX_EPOCH)
            .ok_or_else(|| refused("no time can be shown".into()))?
            .format(&translated, &mut sample)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self::Pattern(translated.into()))
    }

    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        match self {
            Self::Iso => write_iso(time, out),
            Self::Pattern(pattern) => {
                let start = out.len();
                let written = broken_down(time).is_some_and(|time| {
                    let result = time.format(&**pattern, &mut *out);
                    result.is_ok()
                });
                if !written {
                    out.truncate(start);
                    out.push(b'-');
                }
            }
        }
    }
}

/// Envoy's (that is Abseil's) extensions in jiff's words.
fn translate(pattern: &str) -> String {
    let mut translated = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        translated.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(after) = rest.strip_prefix('E') else {
            // `%f` is nine digits in Envoy.
            let (word, taken) = match rest.chars().next() {
                Some('f') => ("9f".to_owned(), 1),
                Some(other) => (other.to_string(), other.len_utf8()),
                None => (String::new(), 0),
            };
            translated.push('%');
            translated.push_str(&word);
            rest = &rest[taken..];
            continue;
        };
        let mut characters = after.chars();
        let (word, taken) = match (characters.next(), characters.next()) {
            (Some('z'), _) => ("%:z".to_owned(), 1),
            (Some('*'), Some('S')) => ("%S%.f".to_owned(), 2),
            (Some('*'), Some('f')) => ("%f".to_owned(), 2),
            (Some(digit @ '1'..='9'), Some('S')) => (format!("%S.%{digit}f"), 2),
            (Some(digit @ '1'..='9'), Some('f')) => (format!("%{digit}f"), 2),
            // Left as it is, for jiff to refuse.
            _ => ("%E".to_owned(), 0),
        };
        translated.push_str(&word);
        rest = &after[taken..];
    }
    translated.push_str(rest);
    translated
}

fn broken_down(time: SystemTime) -> Option<BrokenDownTime> {
    let timestamp = Timestamp::try_from(time).ok()?;
    Some(BrokenDownTime::from(&timestamp.to_zoned(TimeZone::UTC)))
}

fn write_iso(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    write_padded(year, 4, out);
    out.push(b'-');
    write_padded(month, 2, out);
    out.push(b'-');
    write_padded(day, 2, out);
    out.push(b'T');
    write_padded(seconds / 3_600 % 24, 2, out);
    out.push(b':');
    write_padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    write_padded(seconds % 60, 2, out);
    out.push(b'.');
    write_padded(u64::from(since.subsec_millis()), 3, out);
    out.push(b'Z');
}

/// Year, month and day of a number of days after 1970-01-01. Counts years from March, so that the
/// leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const MARCH_YEAR_ZERO: u64 = 719_468;
    let days = days + MARCH_YEAR_ZERO;
    let era = days / DAYS_PER_ERA;
    let day_of_era = days % DAYS_PER_ERA;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_after_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_after_march + 2) / 5 + 1;
    let month = (months_after_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

fn write_padded(value: u64, digits: u32, out: &mut Vec<u8>) {
    for place in (0..digits).rev() {
        out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(format: &TimeFormat, seconds: u64, millis: u64) -> String {
        let mut out = Vec::new();
        let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis);
        format.write(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_default_form_agrees_with_jiff_over_four_centuries() {
        let independent = TimeFormat::compile("%Y-%m-%dT%H:%M:%E3SZ").unwrap();
        for step in 0..40_000_u64 {
            let seconds = step * 345_601 + step;
            let millis = step % 1000;
            assert_eq!(
                shown(&TimeFormat::Iso, seconds, millis),
                shown(&independent, seconds, millis)
            );
        }
    }

    #[test]
    fn patterns_speak_envoys_dialect() {
        let show = |pattern| shown(&TimeFormat::compile(pattern).unwrap(), 1_715_000_000, 42);
        assert_eq!(show("%s"), "1715000000");
        assert_eq!(show("%s.%3f"), "1715000000.042");
        assert_eq!(show("%f"), "042000000");
        assert_eq!(show("%Y/%m/%dT%H:%M:%S%z"), "2024/05/06T12:53:20+0000");
        assert_eq!(show("%E6S"), "20.042000");
        assert_eq!(show("%H%Ez"), "12+00:00");
        assert_eq!(show("100%%"), "100%");
    }

    #[test]
    fn what_no_strftime_knows_is_refused() {
        for bad in ["%J9", "%E", "%", "%Y\"", "%Y\n"] {
            assert!(TimeFormat::compile(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
