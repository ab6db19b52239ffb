//! Starting processes of the engine's binary, and work inside a pod's network namespace.
//!
//! A namespace belongs to a thread, so both happen on a thread that enters it, does one thing and ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hearth_contract::channel::{self, Channel};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, Uid,
    remove_capability_from_bounding_set, set_capabilities,
};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::view;

/// Whose rights a process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// User and group of engines whose container names none: not 65532, which many containers run as, and the operator too.
pub const NOBODY: Rights = Rights {
    uid: 64_532,
    gid: 64_532,
    groups: Vec::new(),
};

impl Rights {
    /// Gives this thread these rights and no others, for good; what it starts has them too.
    fn take(&self) -> io::Result<()> {
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Err(Errno::INVAL) => {}
                removed => removed?,
            }
        }
        let groups: Vec<_> = self.groups.iter().copied().map(Gid::from_raw).collect();
        set_thread_groups(&groups)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // The kernel took the others with the user; these would be for programs to inherit.
        Ok(set_capabilities(None, NO_CAPABILITIES)?)
    }
}

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Which network a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The pod's, pinned at a path.
    Pinned(PathBuf),
    /// The node's: the pod asked for it.
    Node,
    /// A new one with nothing in it.
    Empty,
}

/// A child of the shim and the channel to it. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    /// The process.
    pub child: Child,
    /// Its standard input's other end.
    pub channel: Channel,
    /// Its id.
    pub pid: u32,
}

/// Starts `<exe> <subcommand>` without rights: an unprivileged user, no new privileges, no environment, no
/// descriptors but the channel and the shim's log, no files but its program and `/proc` of itself, no other processes in
/// sight.
pub async fn spawn(
    exe: &Path,
    subcommand: &'static str,
    network: &Network,
    rights: &Rights,
) -> io::Result<Process> {
    let (ours, theirs) = channel::pair()?;
    let (exe, rights) = (exe.to_owned(), rights.clone());
    let runtime = tokio::runtime::Handle::current();
    let child = within(network, move || {
        // While it is in sight.
        let nothing = File::options().write(true).open("/dev/null")?;
        // The compile helper's limits end it by signals that say why.
        view::leave_machine(&exe, subcommand == "run")?;
        // For this thread alone, and every child has it from its first instruction.
        rustix::thread::set_no_new_privs(true)?;
        rights.take()?;
        let _context = runtime.enter();
        Command::new(view::PROGRAM)
            .arg(subcommand)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(nothing))
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("starting {}: {error}", exe.display()))
            })
    })
    .await?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other("the process ended at once"))?;
    Ok(Process {
        child,
        channel: Channel::new(ours)?,
        pid,
    })
}

/// Opens a listening socket on every address of a network.
pub async fn listen(network: &Network, port: u16) -> io::Result<OwnedFd> {
    within(network, move || {
        let all = |address: std::net::IpAddr| TcpListener::bind(SocketAddr::new(address, port));
        // A node without IPv6 has no such address family.
        all(Ipv6Addr::UNSPECIFIED.into())
            .or_else(|error| match error.raw_os_error() {
                Some(code) if code == Errno::AFNOSUPPORT.raw_os_error() => {
                    all(Ipv4Addr::UNSPECIFIED.into())
                }
                _ => Err(error),
            })
            .map(OwnedFd::from)
    })
    .await
}

/// Writes settings of a network, each a file below `/proc/sys` and what it gets.
pub(crate) async fn set(network: &Network, settings: Vec<(PathBuf, String)>) -> io::Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    within(network, move || {
        settings.iter().try_for_each(|(file, value)| {
            std::fs::write(file, value).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            })
        })
    })
    .await
}

/// Kills a process that is not our child and waits for its end.
pub(crate) fn end(pid: u32, still_it: impl Fn() -> bool) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Now the descriptor names one process for good; look whether it is the one that was noted.
    if !still_it() {
        return Ok(());
    }
    pidfd_send_signal(&process, Signal::KILL)?;
    let until = Instant::now() + Duration::from_secs(2);
    while still_it() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs `work` on a thread inside `network`.
async fn within<T: Send + 'static>(
    network: &Network,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let network = network.clone();
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(128 << 10)
        .spawn(move || {
            let outcome = enter(&network).and_then(|()| work());
            // Nobody waits any more when the caller was cancelled; the value is then dropped here.
            let _ = done.send(outcome);
        })?;
    result.await.unwrap_or_else(|_| {
        Err(io::Error::other(
            "the thread in the network namespace panicked",
        ))
    })
}

fn enter(network: &Network) -> io::Result<()> {
    match network {
        Network::Node => Ok(()),
        Network::Empty => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|error| io::Error::from_raw_os_error(error as i32)),
        Network::Pinned(path) => {
            let named = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("entering network namespace {}: {error}", path.display()),
                )
            };
            let file = File::open(path).map_err(named)?;
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(LinkNameSpaceType::Network),
            )
            .map_err(|error| named(error.into()))
        }
    }
}

/// How early the kernel kills a process when memory runs out. Higher is earlier.
pub fn set_oom_score(pid: u32, score: i32) -> io::Result<()> {
    std::fs::write(
        format!("/proc/{pid}/oom_score_adj"),
        score.clamp(-1000, 1000).to_string(),
    )
}

/// When a process started, in clock ticks since boot: with it a process id names one process for ever.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, so count from the last one.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_start_time() {
        let own = std::process::id();
        assert!(start_time(own).unwrap() > 0);
        assert_eq!(start_time(own), start_time(own));
        assert_eq!(start_time(u32::MAX), None);
    }

    #[tokio::test]
    async fn a_port_is_opened_once() {
        let first = listen(&Network::Node, 0).await.unwrap();
        let address = rustix::net::getsockname(&first).unwrap();
        let address = std::net::SocketAddr::try_from(address).unwrap();
        let second = listen(&Network::Node, address.port()).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_is_named() {
        let network = Network::Pinned("/run/netns/gone".into());
        let error = listen(&network, 0).await.unwrap_err();
        assert!(error.to_string().contains("/run/netns/gone"), "{error}");
    }
}
