//! What pods cost and leave behind, seen from the machine: their processes, by control group and by parent.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use crate::cluster::Cluster;

/// The program of Hearth's shim.
const SHIM: &str = "containerd-shim-hearth-v1";

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    program: String,
    groups: String,
}

impl Cluster {
    /// Number of Hearth's shims that run in this cluster.
    pub fn shim_count(&self) -> Result<usize> {
        let is_ours = |process: &&Process| {
            process.program.ends_with(SHIM) && process.groups.contains("/hearth-n")
        };
        Ok(processes()?.iter().filter(is_ours).count())
    }

    /// Resident memory of all processes of a pod, its shim included. Pages that two of them share count twice.
    pub fn resident_bytes_of_pod(&self, uid: &str) -> Result<u64> {
        let processes = processes()?;
        let resident = pod_processes(&processes, uid)
            .into_iter()
            .map(resident_bytes);
        // One that ended meanwhile holds nothing.
        Ok(resident.map(Option::unwrap_or_default).sum())
    }
}

/// Processes in the pod's control groups, and the shims above them.
fn pod_processes(processes: &[Process], uid: &str) -> BTreeSet<u32> {
    let group = format!("pod{uid}");
    let inside = || {
        processes
            .iter()
            .filter(|process| process.groups.contains(&group))
    };
    let parents: BTreeSet<u32> = inside().map(|process| process.parent).collect();
    let shims = processes.iter().filter(|process| {
        parents.contains(&process.pid) && process.program.contains("containerd-shim-")
    });
    inside().chain(shims).map(|process| process.pid).collect()
}

fn processes() -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("read /proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(process).collect())
}

/// `None` for one that ended while it was looked at.
fn process(pid: u32) -> Option<Process> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let status = read("status")?;
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()?;
    let program = read("cmdline")?
        .split('\0')
        .next()
        .unwrap_or_default()
        .to_owned();
    Some(Process {
        pid,
        parent,
        program,
        groups: read("cgroup")?,
    })
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_its_processes_and_its_shim() {
        let process = |pid, parent, program: &str, groups: &str| Process {
            pid,
            parent,
            program: program.to_owned(),
            groups: groups.to_owned(),
        };
        let processes = [
            process(1, 0, "/sbin/init", "0::/"),
            process(
                10,
                1,
                "/x/containerd-shim-runc-v2",
                "4:pids:/hearth-n1/system",
            ),
            process(11, 10, "/pause", "4:pids:/hearth-n1/kubepods/podaaa/1"),
            process(12, 10, "/app", "4:pids:/hearth-n1/kubepods/podaaa/2"),
            process(
                20,
                1,
                "/x/containerd-shim-runc-v2",
                "4:pids:/hearth-n1/system",
            ),
            process(21, 20, "/pause", "4:pids:/hearth-n1/kubepods/podbbb/1"),
        ];
        assert_eq!(
            pod_processes(&processes, "aaa"),
            BTreeSet::from([10, 11, 12])
        );
    }
}
