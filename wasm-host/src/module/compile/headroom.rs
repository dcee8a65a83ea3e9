//! How much memory this container has left.

/// Bytes until the memory limit of our control group or of one above it; none where there is no limit,
/// or no Linux.
pub(super) fn left() -> Option<u64> {
    imp::left()
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub(super) fn left() -> Option<u64> {
        None
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    const ROOT: &str = "/sys/fs/cgroup";

    pub(super) fn left() -> Option<u64> {
        let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut least = None;
        for (root, path) in groups.lines().filter_map(place) {
            for group in path.ancestors() {
                let group = root.join(group.strip_prefix("/").unwrap_or(group));
                least = [least, left_in(&group)].into_iter().flatten().min();
            }
        }
        least
    }

    /// Where a line of /proc/self/cgroup that counts memory leads: version 2's only hierarchy, or that of
    /// version 1 for memory.
    fn place(line: &str) -> Option<(PathBuf, &Path)> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if controllers.is_empty() {
            return Some((PathBuf::from(ROOT), Path::new(path)));
        }
        let memory = controllers.split(',').any(|it| it == "memory");
        memory.then(|| (Path::new(ROOT).join("memory"), Path::new(path)))
    }

    fn left_in(group: &Path) -> Option<u64> {
        let number = |name: &str| {
            read_to_string(group.join(name))
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        };
        let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
        let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
        // Files that were read count as used and are given back on demand.
        let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().find_map(|line| {
            let cached = line
                .strip_prefix("inactive_file ")
                .or_else(|| line.strip_prefix("total_inactive_file "))?;
            cached.parse::<u64>().ok()
        });
        let used = used.saturating_sub(cached.unwrap_or(0));
        // Version 1 writes "no limit" as a number near the largest.
        (limit < 1 << 62).then(|| limit.saturating_sub(used))
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    mod tests {
        use super::*;

        #[test]
        fn the_hierarchy_that_counts_memory_is_found() {
            let (root, path) = place("0::/kubepods/pod1").unwrap();
            assert_eq!(
                (root.to_str(), path.to_str()),
                (Some(ROOT), Some("/kubepods/pod1"))
            );
            let (root, _) = place("4:memory:/a").unwrap();
            assert_eq!(root, Path::new(ROOT).join("memory"));
            assert!(place("3:cpu,cpuacct:/a").is_none());
            assert!(place("").is_none());
        }

        #[test]
        fn what_is_left_is_the_limit_without_what_is_used() {
            let group = tempfile::tempdir().unwrap();
            let write =
                |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
            assert_eq!(left_in(group.path()), None);
            write("memory.current", "700\n");
            write("memory.max", "max\n");
            assert_eq!(left_in(group.path()), None);
            write("memory.max", "1000\n");
            assert_eq!(left_in(group.path()), Some(300));
            write("memory.stat", "anon 5\ninactive_file 200\n");
            assert_eq!(left_in(group.path()), Some(500));
        }
    }
}
