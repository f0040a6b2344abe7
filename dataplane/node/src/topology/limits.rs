//! What a process's control group and its limits leave it.

use super::{Tree, processor_list};

/// Limits of the process that reads them; `None` is no limit, or one that isn't shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Processor time that the control group has, in thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Processors that the control group may use; empty where it doesn't say.
    pub cpus: Vec<usize>,
    /// Bytes of memory that the control group may have.
    pub memory_bytes: Option<u64>,
    /// Open files: soft and hard limit.
    pub open_files: Option<(u64, u64)>,
    /// Bytes that may be locked in memory: soft and hard limit.
    pub locked_bytes: Option<(u64, u64)>,
}

pub(super) fn read(tree: &Tree) -> Limits {
    let groups = groups(tree);
    Limits {
        // Of a group and those above it, the narrowest counts.
        cpu_millis: groups.iter().filter_map(|path| cpu_millis(tree, path)).min(),
        cpus: (groups.iter())
            .map(|path| tree.list(&format!("{path}/cpuset.cpus.effective")))
            .find(|cpus| !cpus.is_empty())
            .or_else(|| allowed(tree))
            .unwrap_or_default(),
        memory_bytes: (groups.iter()).filter_map(|path| memory_bytes(tree, path)).min(),
        open_files: limit(tree, "Max open files"),
        locked_bytes: limit(tree, "Max locked memory"),
    }
}

/// The directories of the process's control group and of those above it, innermost first: of version 2, and of 1 where that is mounted.
fn groups(tree: &Tree) -> Vec<String> {
    let text = tree.text("proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let mounts: Vec<String> = match controllers {
            "" => vec![ROOT.to_owned(), format!("{ROOT}/unified")],
            controllers => controllers.split(',').map(|name| format!("{ROOT}/{name}")).collect(),
        };
        for mount in mounts {
            let mut inner = path.trim_matches('/');
            while !inner.is_empty() {
                groups.push(format!("{mount}/{inner}"));
                inner = inner.rsplit_once('/').map_or("", |(outer, _)| outer);
            }
            // Inside a container its own group is what is mounted.
            groups.push(mount);
        }
    }
    groups
}

fn cpu_millis(tree: &Tree, group: &str) -> Option<u64> {
    let (quota, period) = match tree.text(&format!("{group}/cpu.max")) {
        Some(text) => {
            let (quota, period) = text.split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
        }
        None => (
            // -1, without a limit, is no such number.
            tree.number(&format!("{group}/cpu.cfs_quota_us"))?,
            tree.number(&format!("{group}/cpu.cfs_period_us"))?,
        ),
    };
    (quota * 1000).checked_div(period)
}

fn memory_bytes(tree: &Tree, group: &str) -> Option<u64> {
    let bytes = tree
        .number(&format!("{group}/memory.max"))
        .or_else(|| tree.number(&format!("{group}/memory.limit_in_bytes")))?;
    // Version 1 says "no limit" by the largest number of whole pages.
    (bytes < 1 << 62).then_some(bytes)
}

/// The processors of the process's mask.
fn allowed(tree: &Tree) -> Option<Vec<usize>> {
    let text = tree.text("proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(processor_list(line))
}

/// A line of `/proc/self/limits`.
fn limit(tree: &Tree, name: &str) -> Option<(u64, u64)> {
    let text = tree.text("proc/self/limits")?;
    let mut values = text
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace();
    let mut value = || match values.next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Some((value()?, value()?))
}

const ROOT: &str = "sys/fs/cgroup";
