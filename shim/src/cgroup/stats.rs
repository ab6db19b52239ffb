//! From the text of a group's files to the message that containerd reads.

use containerd_shim_protos::cgroups::metrics as v1_metrics;
use containerd_shim_protos::cgroups_v2::metrics as v2_metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};

/// A number in a file of `name value` lines.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(number)
}

/// A number; `max` is the largest.
fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Reads a file of a controller: `None` when it is not there.
pub(super) trait ReadFile: Fn(&str, &str) -> Option<String> {}
impl<F: Fn(&str, &str) -> Option<String>> ReadFile for F {}

fn single(read: &impl ReadFile, controller: &str, file: &str) -> u64 {
    read(controller, file)
        .and_then(|text| number(&text))
        .unwrap_or(0)
}

/// The message of a v1 node.
pub(super) fn v1(read: impl ReadFile) -> Any {
    let memory_stat = read("memory", "memory.stat").unwrap_or_default();
    let stat = |name: &str| field(&memory_stat, name).unwrap_or(0);
    let throttled = read("cpu", "cpu.stat").unwrap_or_default();
    let throttle = |name: &str| field(&throttled, name).unwrap_or(0);
    pack(v1_metrics::Metrics {
        pids: MessageField::some(v1_metrics::PidsStat {
            current: single(&read, "pids", "pids.current"),
            limit: single(&read, "pids", "pids.max"),
            ..Default::default()
        }),
        cpu: MessageField::some(v1_metrics::CPUStat {
            usage: MessageField::some(v1_metrics::CPUUsage {
                total: single(&read, "cpuacct", "cpuacct.usage"),
                kernel: single(&read, "cpuacct", "cpuacct.usage_sys"),
                user: single(&read, "cpuacct", "cpuacct.usage_user"),
                ..Default::default()
            }),
            throttling: MessageField::some(v1_metrics::Throttle {
                periods: throttle("nr_periods"),
                throttled_periods: throttle("nr_throttled"),
                throttled_time: throttle("throttled_time"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        memory: MessageField::some(v1_metrics::MemoryStat {
            cache: stat("cache"),
            rss: stat("rss"),
            mapped_file: stat("mapped_file"),
            pg_fault: stat("pgfault"),
            pg_maj_fault: stat("pgmajfault"),
            inactive_file: stat("inactive_file"),
            active_file: stat("active_file"),
            hierarchical_memory_limit: stat("hierarchical_memory_limit"),
            total_cache: stat("total_cache"),
            total_rss: stat("total_rss"),
            total_mapped_file: stat("total_mapped_file"),
            total_pg_fault: stat("total_pgfault"),
            total_pg_maj_fault: stat("total_pgmajfault"),
            total_inactive_file: stat("total_inactive_file"),
            total_active_file: stat("total_active_file"),
            usage: MessageField::some(v1_metrics::MemoryEntry {
                limit: single(&read, "memory", "memory.limit_in_bytes"),
                usage: single(&read, "memory", "memory.usage_in_bytes"),
                max: single(&read, "memory", "memory.max_usage_in_bytes"),
                failcnt: single(&read, "memory", "memory.failcnt"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// The message of a v2 node.
pub(super) fn v2(read: impl ReadFile) -> Any {
    let memory_stat = read("memory", "memory.stat").unwrap_or_default();
    let stat = |name: &str| field(&memory_stat, name).unwrap_or(0);
    let cpu_stat = read("cpu", "cpu.stat").unwrap_or_default();
    let cpu = |name: &str| field(&cpu_stat, name).unwrap_or(0);
    let memory_events = read("memory", "memory.events").unwrap_or_default();
    let event = |name: &str| field(&memory_events, name).unwrap_or(0);
    pack(v2_metrics::Metrics {
        pids: MessageField::some(v2_metrics::PidsStat {
            current: single(&read, "pids", "pids.current"),
            limit: single(&read, "pids", "pids.max"),
            ..Default::default()
        }),
        cpu: MessageField::some(v2_metrics::CPUStat {
            usage_usec: cpu("usage_usec"),
            user_usec: cpu("user_usec"),
            system_usec: cpu("system_usec"),
            nr_periods: cpu("nr_periods"),
            nr_throttled: cpu("nr_throttled"),
            throttled_usec: cpu("throttled_usec"),
            ..Default::default()
        }),
        memory: MessageField::some(v2_metrics::MemoryStat {
            anon: stat("anon"),
            file: stat("file"),
            kernel_stack: stat("kernel_stack"),
            slab: stat("slab"),
            sock: stat("sock"),
            shmem: stat("shmem"),
            file_mapped: stat("file_mapped"),
            inactive_anon: stat("inactive_anon"),
            active_anon: stat("active_anon"),
            inactive_file: stat("inactive_file"),
            active_file: stat("active_file"),
            unevictable: stat("unevictable"),
            pgfault: stat("pgfault"),
            pgmajfault: stat("pgmajfault"),
            usage: single(&read, "memory", "memory.current"),
            usage_limit: single(&read, "memory", "memory.max"),
            swap_usage: single(&read, "memory", "memory.swap.current"),
            swap_limit: single(&read, "memory", "memory.swap.max"),
            ..Default::default()
        }),
        memory_events: MessageField::some(v2_metrics::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn pack<M: MessageFull>(message: M) -> Any {
    Any {
        // containerd's typeurl wants the bare name.
        type_url: M::descriptor().full_name().to_owned(),
        value: message
            .write_to_bytes()
            .expect("numbers alone always encode"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::Message;

    #[test]
    fn v2_files_become_v2_metrics() {
        let any = v2(|_, file| {
            Some(
                match file {
                    "memory.current" => "1234\n",
                    "memory.max" | "pids.max" => "max\n",
                    "memory.stat" => "anon 5\nanon_thp 6\ninactive_file 7\n",
                    "cpu.stat" => "usage_usec 8\nuser_usec 9\n",
                    _ => return None,
                }
                .to_owned(),
            )
        });
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2_metrics::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.memory.usage, 1234);
        assert_eq!(metrics.memory.usage_limit, u64::MAX);
        assert_eq!(metrics.memory.anon, 5);
        assert_eq!(metrics.memory.inactive_file, 7);
        assert_eq!(metrics.cpu.usage_usec, 8);
    }

    #[test]
    fn v1_files_become_v1_metrics() {
        let any = v1(|controller, file| {
            Some(
                match (controller, file) {
                    ("memory", "memory.usage_in_bytes") => "42\n",
                    ("memory", "memory.stat") => "rss 1\ntotal_rss 2\ntotal_inactive_file 3\n",
                    ("cpuacct", "cpuacct.usage") => "99\n",
                    _ => return None,
                }
                .to_owned(),
            )
        });
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1_metrics::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.memory.usage.usage, 42);
        assert_eq!(metrics.memory.total_inactive_file, 3);
        assert_eq!(metrics.cpu.usage.total, 99);
    }
}
