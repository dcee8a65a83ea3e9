//! What the kernel has booked on a process (CPU time of all its threads, memory) and on a core.

use std::path::PathBuf;
use std::time::Duration;

/// Ticks per second in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Fields of `/proc/PID/stat` after the command's name, counted from 0 (proc_pid_stat(5): 14, 15).
const UTIME: usize = 11;
const STIME: usize = 12;

/// So many fields of a core's line in `/proc/stat` are time spent on processes: user, nice and
/// system (proc_stat(5)). Interrupts are nobody's.
const BUSY: usize = 3;

/// Why the kernel's accounting could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountingError {
    /// The process is gone, or this is not Linux.
    #[error("{}: {source}; the process has ended, or the machine has no Linux /proc", path.display())]
    Read {
        /// The file under `/proc`.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel writes another format than known here.
    #[error("{}: {what} is missing; the kernel's format has changed", path.display())]
    Format {
        /// The file under `/proc`.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

/// User and system time of the process and all its threads, ended ones included; in steps of 10 ms.
pub fn cpu_time(pid: u32) -> Result<Duration, AccountingError> {
    let (path, text) = read_of(pid, "stat")?;
    parse_cpu_time(&text).ok_or(AccountingError::Format {
        path,
        what: "CPU time",
    })
}

/// Memory that the process has resident now, in KiB, pages shared with others included.
pub fn resident_kib(pid: u32) -> Result<u64, AccountingError> {
    let (path, text) = read_of(pid, "status")?;
    parse_resident(&text).ok_or(AccountingError::Format {
        path,
        what: "VmRSS",
    })
}

/// What all processes together spent on one core since the machine was started.
pub fn core_time(core: usize) -> Result<Duration, AccountingError> {
    let (path, text) = read("/proc/stat".into())?;
    parse_core_time(&text, core).ok_or(AccountingError::Format {
        path,
        what: "a core's line",
    })
}

fn read_of(pid: u32, file: &str) -> Result<(PathBuf, String), AccountingError> {
    read(format!("/proc/{pid}/{file}").into())
}

fn read(path: PathBuf) -> Result<(PathBuf, String), AccountingError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(AccountingError::Read { path, source }),
    }
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // The name is free text in parentheses: only what follows the last one can be counted.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(UTIME);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.nth(STIME - UTIME - 1)?.parse().ok()?;
    Some(from_ticks(user + system))
}

fn parse_core_time(stat: &str, core: usize) -> Option<Duration> {
    let name = format!("cpu{core} ");
    let fields = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let ticks: Vec<u64> = fields
        .split_ascii_whitespace()
        .take(BUSY)
        .filter_map(|field| field.parse().ok())
        .collect();
    (ticks.len() == BUSY).then(|| from_ticks(ticks.iter().sum()))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_user_and_system_time() {
        let stat = "4174 (envoy) R 4164 4164 3218 0 -1 4194304 97 0 0 0 123 45 0 0 20 0 9 0 181614";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_millis(1680)));
    }

    #[test]
    fn is_not_misled_by_the_name_of_a_process() {
        let stat = "7 (wrk:1) (a 9 9) S 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 5";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_millis(30)));
        assert_eq!(parse_cpu_time("7 (cut"), None);
        assert_eq!(parse_cpu_time("7 (cut) S 1 7"), None);
    }

    #[test]
    fn finds_resident_memory() {
        let status = "Name:\tenvoy\nVmPeak:\t  99 kB\nVmRSS:\t   61440 kB\nThreads:\t9\n";
        assert_eq!(parse_resident(status), Some(61440));
        assert_eq!(parse_resident("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn tells_cores_apart() {
        let stat = "cpu  9 9 9 9\ncpu1 10 20 30 400 5 6 7 0 0 0\ncpu11 1 2 3 4\nintr 5\n";
        assert_eq!(parse_core_time(stat, 1), Some(Duration::from_millis(600)));
        assert_eq!(parse_core_time(stat, 11), Some(Duration::from_millis(60)));
        assert_eq!(parse_core_time(stat, 0), None);
    }

    #[test]
    fn reads_our_own_process() {
        let own = std::process::id();
        assert!(resident_kib(own).unwrap() > 0);
        cpu_time(own).unwrap();
        core_time(0).unwrap();
        assert!(cpu_time(u32::MAX).is_err());
    }
}
