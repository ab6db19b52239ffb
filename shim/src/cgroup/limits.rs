//! From `linux.resources` to what is written into which file. Pure.

use crate::spec::Resources;

/// Kills all processes of a group with one. kubelet asks for that, and it is not done here: a compile helper that takes too
/// much memory is to end before the engine that answers calls, and of two engines one is enough.
const OOM_GROUP: &str = "memory.oom.group";

/// One write into a group's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose hierarchy, on v1.
    pub(super) controller: &'static str,
    /// The file.
    pub(super) file: String,
    /// What it gets.
    pub(super) value: String,
    /// Whether a kernel without the file may go without.
    pub(super) optional: bool,
}

fn write(controller: &'static str, file: &str, value: impl ToString) -> Write {
    Write {
        controller,
        file: file.to_owned(),
        value: value.to_string(),
        optional: false,
    }
}

/// Writes on a v1 node.
pub(super) fn v1(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(limit) = resources.memory.and_then(|memory| memory.limit) {
        let limit = if limit > 0 { limit } else { -1 };
        writes.push(write("memory", "memory.limit_in_bytes", limit));
    }
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|shares| *shares > 0) {
            writes.push(write("cpu", "cpu.shares", shares.clamp(2, 262_144)));
        }
        if let Some(period) = cpu.period.filter(|period| *period > 0) {
            writes.push(write("cpu", "cpu.cfs_period_us", period));
        }
        if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
            writes.push(write("cpu", "cpu.cfs_quota_us", quota.max(-1)));
        }
    }
    if let Some(limit) = resources.pids.and_then(|pids| pids.limit) {
        writes.push(write("pids", "pids.max", count_or_max(limit)));
    }
    writes
}

/// Writes on a v2 node.
pub(super) fn v2(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(memory) = resources.memory {
        if let Some(limit) = memory.limit {
            writes.push(write("memory", "memory.max", count_or_max(limit)));
        }
        if let (Some(limit), Some(swap)) = (memory.limit, memory.swap) {
            // The runtime specification counts memory and swap together, v2 counts swap alone.
            if limit > 0 && swap >= limit {
                writes.push(Write {
                    optional: true,
                    ..write("memory", "memory.swap.max", swap - limit)
                });
            }
        }
    }
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|shares| *shares > 0) {
            writes.push(write("cpu", "cpu.weight", weight(shares)));
        }
        if cpu.quota.is_some_and(|quota| quota != 0) || cpu.period.is_some_and(|period| period > 0)
        {
            let quota = count_or_max(cpu.quota.unwrap_or(-1));
            let period = cpu.period.filter(|period| *period > 0).unwrap_or(100_000);
            writes.push(write("cpu", "cpu.max", format!("{quota} {period}")));
        }
    }
    if let Some(limit) = resources.pids.and_then(|pids| pids.limit) {
        writes.push(write("pids", "pids.max", count_or_max(limit)));
    }
    for (file, value) in &resources.unified {
        // A name with a slash would lead out of the group.
        if !file.contains('/') && file.contains('.') && file != OOM_GROUP {
            writes.push(write("memory", file, value));
        }
    }
    writes
}

fn count_or_max(limit: i64) -> String {
    if limit > 0 {
        limit.to_string()
    } else {
        "max".to_owned()
    }
}

/// CPU shares (2 to 262,144) as a weight (1 to 10,000), the way runc and kubelet convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Cpu, Memory, Pids};

    fn named(writes: &[Write]) -> Vec<(&str, &str)> {
        writes
            .iter()
            .map(|write| (write.file.as_str(), write.value.as_str()))
            .collect()
    }

    fn half_a_cpu() -> Resources {
        Resources {
            memory: Some(Memory {
                limit: Some(1000),
                swap: Some(1000),
            }),
            cpu: Some(Cpu {
                shares: Some(512),
                quota: Some(50_000),
                period: Some(100_000),
            }),
            pids: Some(Pids { limit: Some(-1) }),
            ..Resources::default()
        }
    }

    #[test]
    fn v1_files() {
        assert_eq!(
            named(&v1(&half_a_cpu())),
            [
                ("memory.limit_in_bytes", "1000"),
                ("cpu.shares", "512"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("pids.max", "max"),
            ]
        );
    }

    #[test]
    fn v2_files() {
        assert_eq!(
            named(&v2(&half_a_cpu())),
            [
                ("memory.max", "1000"),
                ("memory.swap.max", "0"),
                ("cpu.weight", "20"),
                ("cpu.max", "50000 100000"),
                ("pids.max", "max"),
            ]
        );
    }

    #[test]
    fn files_of_v2_are_written_by_name_but_for_those_that_harm() {
        let named_files = |names: &[&str]| {
            let values = names
                .iter()
                .map(|name| ((*name).to_owned(), "1".to_owned()));
            Resources {
                unified: values.collect(),
                ..Resources::default()
            }
        };
        let given = named_files(&["memory.high", "memory.oom.group", "../memory.max", "tasks"]);
        assert_eq!(named(&v2(&given)), [("memory.high", "1")]);
    }

    #[test]
    fn nothing_named_is_nothing_written() {
        assert!(v1(&Resources::default()).is_empty());
        assert!(v2(&Resources::default()).is_empty());
    }

    #[test]
    fn weights_span_the_range() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
