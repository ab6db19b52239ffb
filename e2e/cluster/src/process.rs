//! Processes that outlive the command that started them. Each is recorded with its id and start time, so that a process id
//! that the kernel gave to somebody else is never mistaken for ours.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, NodeNumber};

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `etcd`.
    Etcd,
    /// `kube-apiserver`.
    ApiServer,
    /// `kube-controller-manager`.
    ControllerManager,
    /// `kube-scheduler`.
    Scheduler,
    /// `docker-registry`.
    Registry,
    /// CoreDNS.
    Dns,
    /// What holds a node's mount namespace and starts its containerd again.
    Supervisor(NodeNumber),
    /// A node's `containerd`. Stopping it holds the supervisor back; killing it does not.
    Containerd(NodeNumber),
    /// A node's `kubelet`.
    Kubelet(NodeNumber),
    /// A node's `kube-proxy`.
    Proxy(NodeNumber),
}

impl Part {
    /// All parts of a cluster, in the order they stop.
    pub fn all(nodes: u32) -> Vec<Self> {
        let on_nodes = (1..=nodes).flat_map(Self::of_node);
        let control_plane = [
            Self::Dns,
            Self::Scheduler,
            Self::ControllerManager,
            Self::ApiServer,
            Self::Registry,
            Self::Etcd,
        ];
        on_nodes.chain(control_plane).collect()
    }

    /// The parts of one node, in the order they stop.
    pub fn of_node(node: NodeNumber) -> [Self; 4] {
        [
            Self::Kubelet(node),
            Self::Proxy(node),
            Self::Supervisor(node),
            Self::Containerd(node),
        ]
    }

    /// The node that a part belongs to; `None` for the control plane.
    pub fn node(self) -> Option<NodeNumber> {
        match self {
            Self::Supervisor(node)
            | Self::Containerd(node)
            | Self::Kubelet(node)
            | Self::Proxy(node) => Some(node),
            Self::Etcd
            | Self::ApiServer
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Registry
            | Self::Dns => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd => f.write_str("etcd"),
            Self::ApiServer => f.write_str("apiserver"),
            Self::ControllerManager => f.write_str("controller-manager"),
            Self::Scheduler => f.write_str("scheduler"),
            Self::Registry => f.write_str("registry"),
            Self::Dns => f.write_str("dns"),
            Self::Supervisor(node) => write!(f, "supervisor-{node}"),
            Self::Containerd(node) => write!(f, "containerd-{node}"),
            Self::Kubelet(node) => write!(f, "kubelet-{node}"),
            Self::Proxy(node) => write!(f, "proxy-{node}"),
        }
    }
}

impl FromStr for Part {
    type Err = anyhow::Error;

    /// `kubelet` alone means node 1's.
    fn from_str(text: &str) -> Result<Self> {
        let (name, node) = match text.rsplit_once('-') {
            Some((name, number)) if number.parse::<NodeNumber>().is_ok() => (name, number.parse()?),
            _ => (text, 1),
        };
        Ok(match name {
            "etcd" => Self::Etcd,
            "apiserver" => Self::ApiServer,
            "controller-manager" => Self::ControllerManager,
            "scheduler" => Self::Scheduler,
            "registry" => Self::Registry,
            "dns" => Self::Dns,
            "supervisor" => Self::Supervisor(node),
            "containerd" => Self::Containerd(node),
            "kubelet" => Self::Kubelet(node),
            "proxy" => Self::Proxy(node),
            _ => bail!(
                "there is no part {text:?}; parts are {}",
                Self::all(1)
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        })
    }
}

/// How a part is started. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

impl Launch {
    /// A program with arguments.
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
        }
    }

    /// The same, run by another program that ends by executing it (`nsenter`, `unshare`).
    pub fn under(self, program: &str, arguments: impl IntoIterator<Item = String>) -> Self {
        let own = std::iter::once(self.program.to_string_lossy().into_owned());
        let all = arguments
            .into_iter()
            .chain(["--".to_owned()])
            .chain(own)
            .chain(self.arguments);
        Self {
            program: program.into(),
            arguments: all.collect(),
            environment: self.environment,
        }
    }

    /// The same, inside a network namespace. `nsenter`, not `ip netns exec`: that one mounts a fresh `/sys` without cgroups.
    pub fn in_netns(self, name: &str) -> Self {
        let path = crate::layout::netns_path(name);
        self.under("nsenter", [format!("--net={}", path.display())])
    }
}

/// A process that we started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Process id.
    pub pid: u32,
    /// Start time, in clock ticks since boot.
    pub start_time: u64,
    /// How to start it again.
    pub launch: Launch,
}

impl Record {
    /// Describes a process that was just started.
    pub fn of(pid: u32, launch: Launch) -> Result<Self> {
        let (_, start_time) = stat(pid).with_context(|| {
            format!(
                "{} ended as soon as it was started",
                launch.program.display()
            )
        })?;
        Ok(Self {
            pid,
            start_time,
            launch,
        })
    }

    /// Reads a part's record; `None` where the part was never started.
    pub fn read(layout: &Layout, part: Part) -> Result<Option<Self>> {
        let path = record_path(layout, part);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged: run `cargo xtask down`", path.display()))
                .map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Forgets a part: it counts as never started.
    pub(crate) fn forget(layout: &Layout, part: Part) -> Result<()> {
        let path = record_path(layout, part);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the record, whole or not at all.
    pub fn write(&self, layout: &Layout, part: Part) -> Result<()> {
        write_atomically(
            &record_path(layout, part),
            &serde_json::to_vec_pretty(self)?,
        )
    }

    /// Whether that very process runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        matches!(stat(self.pid), Some((state, time)) if time == self.start_time && state != 'Z' && state != 'X')
    }

    /// That very process, as long as anything is left of it.
    fn open(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid as i32)?;
        // The descriptor names one process for good, so what is checked is what gets a signal.
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (_, time) = stat(self.pid)?;
        (time == self.start_time).then_some(process)
    }

    /// Sends a signal to that very process, or to nobody.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(process) = self.open() else {
            return Ok(());
        };
        match pidfd_send_signal(process.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("signal process {}", self.pid)),
        }
    }

    /// Asks it to end, and after `grace` makes it.
    pub fn terminate(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.wait_gone(grace).is_err() {
            self.kill()?;
        }
        Ok(())
    }

    /// Ends it now.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_gone(Duration::from_secs(10))
    }

    /// Waits until the last of its threads is gone, and with it what the process held, as its ports: its first thread may be a
    /// zombie before.
    fn wait_gone(&self, deadline: Duration) -> Result<()> {
        let Some(process) = self.open() else {
            return Ok(());
        };
        let timeout = deadline.try_into().context("a deadline is short")?;
        let ended =
            retry_on_intr(|| poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)))
                .with_context(|| format!("wait for process {}", self.pid))?;
        ensure!(
            ended > 0,
            "process {} still runs after {deadline:?}",
            self.pid
        );
        Ok(())
    }
}

/// Executes its arguments without descriptors 3 to 9, where shells and `flock` keep locks: a part would hold the caller's as long
/// as it runs.
const EXECUTE: &str = r#"exec "$0" "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-"#;

/// Starts a part in a session of its own, its output appended to its log.
pub fn start(layout: &Layout, part: Part, launch: Launch) -> Result<Record> {
    let log_path = log_path(layout, part);
    fs::create_dir_all(layout.logs())?;
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open {}", log_path.display()))?;
    let child = Command::new("setsid")
        .args(["--", "sh", "-c", EXECUTE])
        .arg(&launch.program)
        .args(&launch.arguments)
        .envs(&launch.environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {part}: is `setsid` (package util-linux) installed?"))?;
    let record = Record::of(child.id(), launch)?;
    record.write(layout, part)?;
    Ok(record)
}

/// A part's log.
pub fn log_path(layout: &Layout, part: Part) -> PathBuf {
    layout.logs().join(format!("{part}.log"))
}

/// The end of a part's log, for error messages.
pub fn log_tail(layout: &Layout, part: Part) -> String {
    let text = fs::read_to_string(log_path(layout, part)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn record_path(layout: &Layout, part: Part) -> PathBuf {
    layout.records().join(format!("{part}.json"))
}

/// Writes a file so that a reader sees the old or the new one, never a half.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().context("a file has a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let next = path.with_extension("next");
    fs::write(&next, bytes).with_context(|| format!("write {}", next.display()))?;
    fs::rename(&next, path).with_context(|| format!("rename to {}", path.display()))
}

/// State and start time of a process.
pub(crate) fn stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The second field is the name in parentheses, and may hold spaces and parentheses itself.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_odd_names() {
        let tail = "1 1 1 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 98765 1000 10";
        assert_eq!(
            parse_stat(&format!("7 (a) b (c) S {tail}")),
            Some(('S', 98765))
        );
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_record_of_another_life_is_not_alive() {
        let mut record = Record::of(std::process::id(), Launch::new("/self", [""; 0])).unwrap();
        assert!(record.is_alive());
        record.start_time += 1;
        assert!(!record.is_alive());
        record.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn names_of_parts_are_read_back() {
        for part in Part::all(2) {
            assert_eq!(part.to_string().parse::<Part>().unwrap(), part);
        }
        assert!(
            Part::of_node(2)
                .iter()
                .all(|part| part.node() == Some(2) && Part::all(2).contains(part))
        );
        assert_eq!("kubelet".parse::<Part>().unwrap(), Part::Kubelet(1));
        assert!(
            "kublet"
                .parse::<Part>()
                .unwrap_err()
                .to_string()
                .contains("kubelet-1")
        );
    }

    #[test]
    fn wrappers_keep_the_order() {
        let launch = Launch::new("/bin/a", ["x"]).in_netns("hearth-n1");
        assert_eq!(launch.program, Path::new("nsenter"));
        assert_eq!(
            launch.arguments,
            ["--net=/run/netns/hearth-n1", "--", "/bin/a", "x"]
        );
    }
}
