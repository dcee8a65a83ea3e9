//! What Wayline adds to an extension: annotations `wayline.dev/*`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Isolation, PluginLimits, ReadError};
use crate::resource::ready;

/// The annotations in force.
pub(super) struct Annotations {
    pub(super) isolation: Isolation,
    pub(super) limits: PluginLimits,
    pub(super) callouts: Option<Arc<[Arc<str>]>>,
    pub(super) allow_on_headers_stop_iteration: bool,
    /// Annotations of ours that do not exist.
    pub(super) unknown: Vec<String>,
}

const PREFIX: &str = "wayline.dev/";

/// What budgets may be: enough for one host call, and short of what a client would wait for.
const SPANS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));

/// One Wasm page, and all that a 32-bit module can address.
const MEMORY: (u64, u64) = (64 << 10, 4 << 30);

impl Annotations {
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        problems: &mut Vec<ReadError>,
    ) -> Self {
        let mut read = Self {
            isolation: Isolation::default(),
            limits: PluginLimits::default(),
            callouts: None,
            allow_on_headers_stop_iteration: false,
            unknown: Vec::new(),
        };
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            match read.take(name, value.trim()) {
                Some(Ok(())) => {}
                Some(Err(reason)) => problems.push(ReadError {
                    path: format!("metadata.annotations.{key}"),
                    reason: format!("`{value}`: {reason}"),
                }),
                None => read.unknown.push(key.clone()),
            }
        }
        read
    }

    /// Takes one annotation; `None` where there is none of that name.
    fn take(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        let limits = &mut self.limits;
        Some(match name {
            "isolation" => isolation(value).map(|it| self.isolation = it),
            "cpu-budget" => span(value).map(|it| limits.callback = it),
            "background-cpu-budget" => span(value).map(|it| limits.background = it),
            "memory-limit" => size(value, MEMORY).map(|it| limits.memory = it),
            "max-callouts" => count(value, 10_000).map(|it| limits.callouts = it),
            "log-limit" => {
                let most = u64::from(u32::MAX);
                size(value, (0, most)).map(|it| {
                    limits.log_bytes = u32::try_from(it).unwrap_or(u32::MAX);
                })
            }
            "max-metrics" => count(value, 100_000).map(|it| limits.metrics = it),
            "callouts" => {
                self.callouts = backends(value);
                Ok(())
            }
            "allow-on-headers-stop-iteration" => {
                boolean(value).map(|it| self.allow_on_headers_stop_iteration = it)
            }
            _ => return None,
        })
    }
}

fn isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "plugin" => Ok(Isolation::Plugin),
        "stream" => Ok(Isolation::Stream),
        _ => Err("isolation is `plugin` or `stream`".to_owned()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let (least, most) = SPANS;
    ready::duration(text)
        .filter(|span| (least..=most).contains(span))
        .ok_or_else(|| "a budget is a time from 1ms to 10s, such as 20ms".to_owned())
}

/// A Kubernetes quantity of bytes without fractions.
fn size(text: &str, (least, most): (u64, u64)) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    UNITS
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .filter(|(number, _)| number.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|(number, scale)| number.parse::<u64>().ok()?.checked_mul(*scale))
        .filter(|bytes| (least..=most).contains(bytes))
        .ok_or_else(|| format!("a size is {least} to {most} bytes, written such as 65536 or 64Mi"))
}

fn count(text: &str, most: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| *count <= most)
        .ok_or_else(|| format!("a count is a whole number from 0 to {most}"))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| "it is `true` or `false`".to_owned())
}

/// The backends named; `None` for all of them. An empty list allows none.
fn backends(text: &str) -> Option<Arc<[Arc<str>]>> {
    let names = text.split(',').map(str::trim);
    let names: Vec<Arc<str>> = names
        .filter(|name| !name.is_empty())
        .map(Arc::from)
        .collect();
    (!names.iter().any(|name| &**name == "*")).then(|| names.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<Annotations, String> {
        let annotations = BTreeMap::from([(format!("wayline.dev/{key}"), value.to_owned())]);
        let mut problems = Vec::new();
        let read = Annotations::read(&annotations, &mut problems);
        match problems.pop() {
            Some(problem) => Err(problem.path),
            None => Ok(read),
        }
    }

    #[test]
    fn limits_are_read_and_bounded() {
        assert_eq!(
            read("cpu-budget", "20ms").unwrap().limits.callback,
            Duration::from_millis(20)
        );
        assert_eq!(
            read("background-cpu-budget", "1s")
                .unwrap()
                .limits
                .background,
            Duration::from_secs(1)
        );
        for (text, bytes) in [("65536", 65536), ("64Mi", 64 << 20), ("1G", 1_000_000_000)] {
            assert_eq!(read("memory-limit", text).unwrap().limits.memory, bytes);
        }
        assert_eq!(read("log-limit", "0").unwrap().limits.log_bytes, 0);
        assert_eq!(read("max-callouts", "0").unwrap().limits.callouts, 0);
        assert_eq!(read("max-metrics", "7").unwrap().limits.metrics, 7);
        assert_eq!(
            read("isolation", "stream").unwrap().isolation,
            Isolation::Stream
        );
        assert!(
            read("allow-on-headers-stop-iteration", "true")
                .unwrap()
                .allow_on_headers_stop_iteration
        );
        let bad = [
            ("cpu-budget", "0ms"),
            ("cpu-budget", "1h"),
            ("cpu-budget", "soon"),
            ("memory-limit", "1"),
            ("memory-limit", "8Gi"),
            ("memory-limit", "64Mib"),
            ("memory-limit", "-1"),
            ("memory-limit", "99999999999999999999Gi"),
            ("max-callouts", "-1"),
            ("isolation", "none"),
            ("allow-on-headers-stop-iteration", "yes"),
        ];
        for (key, text) in bad {
            assert_eq!(
                read(key, text).err(),
                Some(format!("metadata.annotations.wayline.dev/{key}")),
                "{text}"
            );
        }
    }

    #[test]
    fn backends_are_listed_or_all_of_them() {
        let of = |text| read("callouts", text).unwrap().callouts;
        assert_eq!(of("*"), None);
        assert_eq!(of("").as_deref(), Some(&[][..]));
        let two: [Arc<str>; 2] = ["a.shop:80".into(), "b".into()];
        assert_eq!(of("a.shop:80, b").as_deref(), Some(&two[..]));
        assert_eq!(read("isolatoin", "plugin").unwrap().unknown.len(), 1);
    }
}
