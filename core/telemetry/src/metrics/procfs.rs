//! The usual `process_*` metrics, read from `/proc/self` at the scrape. Elsewhere than on Linux
//! there are none.

use std::collections::HashMap;
use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::collect::{About, counter, family, gauge};

/// Clock ticks per second in `/proc`: USER_HZ, which is 100 on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` when collected.
pub(super) struct ProcessCollector {
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let describe = |(name, help): &About| {
            let labels = Vec::new();
            Desc::new((*name).into(), (*help).into(), labels, HashMap::new())
        };
        let descriptions: Result<_, _> = [CPU].iter().chain(&GAUGES).map(describe).collect();
        Ok(Self {
            descriptions: descriptions?,
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(process) = Process::read() else {
            return Vec::new();
        };
        let cpu = counter(Vec::new(), process.cpu_seconds);
        let mut families = vec![family(CPU, MetricType::COUNTER, vec![cpu])];
        for (about, value) in GAUGES.into_iter().zip(process.gauges) {
            if let Some(value) = value {
                let metric = gauge(Vec::new(), value);
                families.push(family(about, MetricType::GAUGE, vec![metric]));
            }
        }
        families
    }
}

const CPU: About = (
    "process_cpu_seconds_total",
    "User and system CPU time in seconds.",
);

const GAUGES: [About; 6] = [
    ("process_resident_memory_bytes", "Resident memory in bytes."),
    ("process_virtual_memory_bytes", "Virtual memory in bytes."),
    ("process_open_fds", "Open file descriptors."),
    ("process_max_fds", "Most file descriptors allowed."),
    ("process_threads", "Threads."),
    (
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
    ),
];

/// What `/proc/self` said.
struct Process {
    cpu_seconds: f64,
    /// In the order of [`GAUGES`].
    gauges: [Option<f64>; 6],
}

impl Process {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The command in parentheses may hold anything, spaces too: fields count from its end.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1 and the first field here is its third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            gauges: [
                kibibytes(&status, "VmRSS:"),
                kibibytes(&status, "VmSize:"),
                open_fds(),
                max_fds(),
                field(20),
                start_time(field(22)),
            ],
        })
    }
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    let amount: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(amount * 1024.0)
}

fn open_fds() -> Option<f64> {
    // The directory being read is one of them.
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as f64)
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn start_time(ticks_after_boot: Option<f64>) -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(boot + ticks_after_boot? / TICKS_PER_SECOND)
}
