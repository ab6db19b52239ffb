//! What pods cost and leave behind, seen from the machine: their processes, by control group and by parent; and what nodes
//! hold for them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cgroup;
use crate::cluster::Cluster;
use crate::layout::{self, NodeNumber};
use crate::node;
use crate::process::{Launch, Part, Record};
use crate::supervise;
use crate::wait::{Look, wait_for};

/// Where compiled bundles are kept, in a node's directory.
const ARTIFACTS: &str = "var/lib/hearth/artifacts";
/// The program of Hearth's shim.
const SHIM: &str = "containerd-shim-hearth-v1";
/// The program of Hearth's engine.
const ENGINE: &str = "hearth-engine";

/// Where containerd keeps a folder for each container of kubelet's, below its own for what does not outlive the machine.
const BUNDLES: &str = "io.containerd.runtime.v2.task/k8s.io";

/// What all nodes together hold for pods: the same before a pod came and after it went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Hearth's shims.
    pub shims: usize,
    /// Hearth's engines, compile helpers among them.
    pub engines: usize,
    /// Control groups, in all hierarchies.
    pub control_groups: BTreeSet<PathBuf>,
    /// Sockets of shims.
    pub sockets: usize,
    /// Where something is mounted.
    pub mounts: BTreeSet<PathBuf>,
    /// Sandboxes that have a shim of any runtime.
    pub sandboxes: BTreeSet<String>,
    /// Containers' folders with their specifications.
    pub bundles: usize,
    /// What containerd keeps for somebody who works on it.
    pub leases: usize,
    /// Files of ours that are being made.
    pub drafts: usize,
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    program: String,
    arguments: Vec<String>,
    groups: String,
}

impl Cluster {
    /// Counts what the nodes hold for pods.
    pub fn traces(&self) -> Result<Traces> {
        let processes = processes()?;
        let mut traces = Traces {
            shims: count(&processes, SHIM),
            engines: count(&processes, ENGINE),
            sandboxes: processes.iter().filter_map(Process::sandbox).collect(),
            ..Traces::default()
        };
        for node in 1..=self.nodes()? {
            traces
                .control_groups
                .extend(cgroup::below(&layout::netns(node)));
            // Mounted on /run/containerd, where shims put their sockets.
            let run = self.node_directory(node).join("run-containerd");
            traces.bundles += entries(&run.join(BUNDLES))?;
            traces.sockets += sockets(&run)?;
            traces.drafts += drafts(&self.node_directory(node).join(ARTIFACTS))?;
            let supervisor = self.pid(Part::Supervisor(node))?;
            traces.leases += self.leases(node)?;
            let mounts = fs::read_to_string(format!("/proc/{supervisor}/mounts"));
            let mounts = mounts.context("read a node's mounts")?;
            let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
            traces.mounts.extend(targets.map(PathBuf::from));
        }
        Ok(traces)
    }

    /// Containerd's own client for a node, in Kubernetes' namespace.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn ctr(&self, node: NodeNumber) -> Result<Command> {
        // Containerd's socket is in the mounts of the node's processes alone.
        let process = self.pid(Part::Supervisor(node))?;
        let socket = format!("/proc/{process}/root{}", node::CONTAINERD_SOCKET);
        let mut command = Command::new(self.layout().tool("ctr"));
        command.args(["--address", &socket, "--namespace", "k8s.io"]);
        Ok(command)
    }

    /// Counts the leases of a node's containerd.
    fn leases(&self, node: NodeNumber) -> Result<usize> {
        let mut command = self.ctr(node)?;
        let output = command.args(["leases", "list", "--quiet"]).output();
        let output = output.context("run ctr")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr leases list: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }

    /// Kills a program in a pod with SIGKILL: it cannot say a word to anybody.
    ///
    /// # Errors
    /// When the pod has no such process.
    pub fn kill9_in_pod(&self, uid: &str, program: &str) -> Result<()> {
        let killed = self.in_pod(uid, program)?;
        killed.iter().try_for_each(Record::kill)
    }

    /// Sends a signal to a program in a pod.
    ///
    /// # Errors
    /// When the pod has no such process.
    pub fn signal_in_pod(&self, uid: &str, program: &str, signal: Signal) -> Result<()> {
        let meant = self.in_pod(uid, program)?;
        meant.iter().try_for_each(|record| record.signal(signal))
    }

    fn in_pod(&self, uid: &str, program: &str) -> Result<Vec<Record>> {
        let group = format!("pod{uid}");
        let is_meant = |process: &Process| process.groups.contains(&group) && process.is(program);
        let mut records = Vec::new();
        for pid in processes()?.iter().filter(|p| is_meant(p)).map(|p| p.pid) {
            // A record is taken before the second look: what gets the signal is what was seen in the pod.
            if let Ok(record) = Record::of(pid, Launch::new(program, [""; 0]))
                && process(pid).is_some_and(|process| is_meant(&process))
            {
                records.push(record);
            }
        }
        ensure!(!records.is_empty(), "no {program} runs in the pod {uid}");
        Ok(records)
    }

    /// Ends everything that runs on a node at once, as a power cut does, and starts what an init starts. What is on its disks
    /// stays, and what is mounted.
    ///
    /// # Errors
    /// When a process does not end, or containerd does not come back.
    pub fn reboot(&self, node: NodeNumber) -> Result<()> {
        // Held first: else its supervisor, which keeps the node's mounts, starts containerd in between.
        supervise::hold(self.layout(), node)?;
        for part in [Part::Kubelet(node), Part::Proxy(node)] {
            self.kill9(part)?;
        }
        let keeps = self.pid(Part::Supervisor(node))?;
        wait_for(
            "a node's processes to end",
            Duration::from_secs(30),
            Duration::from_millis(50),
            || {
                let left = cgroup::kill_all_but(&layout::netns(node), keeps);
                Ok(match left {
                    0 => Look::Done(()),
                    left => Look::NotYet(format!("{left} processes run")),
                })
            },
        )?;
        for part in [
            Part::Containerd(node),
            Part::Proxy(node),
            Part::Kubelet(node),
        ] {
            self.start(part)?;
        }
        Ok(())
    }

    /// Has what a pod sends to an address get lost, until what is returned is dropped. The pod has a network of its own and runs
    /// the program.
    pub fn cut_off_pod(&self, uid: &str, program: &str, address: IpAddr) -> Result<CutOff> {
        let pids = self.pids_in_pod(uid, program)?;
        let pid = pids
            .first()
            .with_context(|| format!("no {program} runs in the pod {uid}"))?;
        let path = format!("/proc/{pid}/ns/net");
        let network = File::open(&path).with_context(|| format!("open {path}"))?;
        let cut = CutOff { network, address };
        cut.route("add")?;
        Ok(cut)
    }

    /// Ids of the processes of a program in a pod.
    pub fn pids_in_pod(&self, uid: &str, program: &str) -> Result<Vec<u32>> {
        let group = format!("pod{uid}");
        let processes = processes()?.into_iter();
        Ok(processes
            .filter(|process| process.groups.contains(&group) && process.is(program))
            .map(|process| process.pid)
            .collect())
    }

    /// Ids of the processes of a program on all nodes.
    pub fn pids_on_nodes(&self, program: &str) -> Result<Vec<u32>> {
        let processes = processes()?.into_iter();
        let meant = processes.filter(|process| process.is_on_node() && process.is(program));
        Ok(meant.map(|process| process.pid).collect())
    }

    /// Kills the shim of a pod with SIGKILL, and with it the pod's supervision.
    ///
    /// # Errors
    /// When the pod has no process whose parent is a shim of Hearth.
    pub fn kill9_shim_of_pod(&self, uid: &str) -> Result<()> {
        self.shim_of_pod(uid)?.kill()
    }

    /// Sends a signal to the shim of a pod.
    ///
    /// # Errors
    /// When the pod has no process whose parent is a shim of Hearth.
    pub fn signal_shim_of_pod(&self, uid: &str, signal: Signal) -> Result<()> {
        self.shim_of_pod(uid)?.signal(signal)
    }

    fn shim_of_pod(&self, uid: &str) -> Result<Record> {
        let processes = processes()?;
        let of_pod = pod_processes(&processes, uid);
        let shim = processes
            .iter()
            .find(|process| of_pod.contains(&process.pid) && process.is(SHIM))
            .with_context(|| format!("the pod {uid} has no shim"))?;
        let record = Record::of(shim.pid, Launch::new(SHIM, [""; 0]))?;
        // A record is taken before the second look, as above.
        ensure!(
            process(shim.pid).is_some_and(|process| process.is(SHIM)),
            "the shim of the pod {uid} ended by itself"
        );
        Ok(record)
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

impl Process {
    fn is_on_node(&self) -> bool {
        self.groups.contains("/hearth-n")
    }

    fn is(&self, program: &str) -> bool {
        Path::new(&self.program)
            .file_name()
            .is_some_and(|name| name == program)
    }

    /// The sandbox that a shim was started for, as containerd says it to shims of all runtimes.
    fn sandbox(&self) -> Option<String> {
        let is_shim = self.is_on_node() && self.program.contains("containerd-shim-");
        let mut words = self.arguments.iter();
        is_shim
            .then(|| words.find(|word| *word == "-id").and(words.next()).cloned())
            .flatten()
    }
}

/// How many processes of a program run on nodes of ours.
/// An address that a network does not reach while this lives.
#[derive(Debug)]
pub struct CutOff {
    network: File,
    address: IpAddr,
}

impl CutOff {
    fn route(&self, change: &str) -> Result<()> {
        let descriptor = self.network.as_raw_fd();
        let network = format!("--net=/proc/{}/fd/{descriptor}", std::process::id());
        let status = Command::new("nsenter")
            .arg(network)
            .args(["ip", "route", change, "blackhole"])
            .arg(self.address.to_string())
            .status()
            .context("run nsenter")?;
        ensure!(
            status.success(),
            "ip route {change} blackhole {} failed",
            self.address
        );
        Ok(())
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        // The network may be gone with its pod.
        let _ = self.route("del");
    }
}

fn count(processes: &[Process], program: &str) -> usize {
    let on_nodes = processes.iter().filter(|process| process.is_on_node());
    on_nodes.filter(|process| process.is(program)).count()
}

/// Number of entries of a directory.
/// Files of the cache of artifacts that are no artifact and no note about one.
fn drafts(directory: &Path) -> Result<usize> {
    let is_whole = |path: &Path| {
        let extension = path.extension();
        extension.is_some_and(|extension| {
            ["cwasm", "json", "lock"].contains(&&*extension.to_string_lossy())
        })
    };
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        files => files.with_context(|| format!("list {}", directory.display()))?,
    };
    let mut count = 0;
    for file in files {
        let path = file?.path();
        // Each engine has a folder of its own.
        count += match path.is_dir() {
            true => drafts(&path)?,
            false => usize::from(!is_whole(&path)),
        };
    }
    Ok(count)
}

fn entries(directory: &Path) -> Result<usize> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.count()),
        // No container was ever made there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("read {}", directory.display())),
    }
}

/// Number of sockets below a directory.
fn sockets(directory: &Path) -> Result<usize> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // A directory of a pod that just went.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("read {}", directory.display())),
    };
    let mut found = 0;
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_socket() => found += 1,
            Ok(kind) if kind.is_dir() => found += sockets(&entry.path())?,
            _ => {}
        }
    }
    Ok(found)
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
    let line = read("cmdline")?;
    let mut words = line.split('\0').map(str::to_owned);
    Some(Process {
        pid,
        parent,
        program: words.next().unwrap_or_default(),
        arguments: words.collect(),
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
            arguments: Vec::new(),
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
