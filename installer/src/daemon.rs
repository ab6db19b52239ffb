//! containerd as a process: asked to judge a configuration, asked to start again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::{Config, Restart};
use crate::host::Host;

/// Time for a command that judges or restarts.
const COMMAND: Duration = Duration::from_secs(90);
/// Time for containerd to end after SIGTERM.
const EXIT: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// Where programs are on a host. The installer's image has none to inherit.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an installation asks of containerd's process.
pub trait Daemon: Send + Sync {
    /// Lets containerd judge the configuration that is on disk, and returns what it makes of all files together: nothing where
    /// that cannot be asked.
    fn validate(&self) -> impl Future<Output = Result<Option<String>>> + Send;
    /// Makes containerd read its configuration again. Returns when the old process is gone.
    fn restart(&self) -> impl Future<Output = Result<()>> + Send;
}

/// The host's containerd.
#[derive(Debug)]
pub struct HostDaemon {
    socket: PathBuf,
    config: PathBuf,
    restart: Restart,
    unit: String,
}

impl HostDaemon {
    /// The containerd that listens on the configured socket.
    pub fn new(config: &Config) -> Self {
        Self {
            socket: Host::new(&config.host_root).path(&config.containerd_socket),
            config: config.containerd_config.clone(),
            restart: config.restart,
            unit: config.systemd_unit.clone(),
        }
    }

    async fn terminate(&self) -> Result<()> {
        let pid = containerd_pid(&self.socket)?;
        // From here on the descriptor names the process: a pid that was given to another meanwhile is not hit.
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK).context("open containerd's process")?;
        ensure_containerd(pid)?;
        pidfd_send_signal(&process, Signal::TERM).context("terminate containerd")?;
        let wait = move || {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut ended, Some(&EXIT))
        };
        let count = tokio::task::spawn_blocking(wait)
            .await?
            .context("wait for containerd's end")?;
        ensure!(
            count == 1,
            "containerd (pid {pid}) did not end {} s after SIGTERM",
            EXIT.tv_sec
        );
        Ok(())
    }
}

impl Daemon for HostDaemon {
    async fn validate(&self) -> Result<Option<String>> {
        let pid = containerd_pid(&self.socket)?;
        ensure_containerd(pid)?;
        let program =
            fs::read_link(format!("/proc/{pid}/exe")).context("find containerd's program")?;
        if program.to_string_lossy().ends_with(" (deleted)") {
            tracing::warn!(program = %program.display(), "containerd's program was replaced since it started; its configuration is not judged beforehand");
            return Ok(None);
        }
        let arguments = [
            program.into_os_string(),
            "--config".into(),
            self.config.clone().into(),
            "config".into(),
            "dump".into(),
        ];
        let output = enter_command(pid, arguments).await?;
        Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    async fn restart(&self) -> Result<()> {
        match self.restart {
            Restart::Systemd => {
                let arguments = [
                    "systemctl".into(),
                    "restart".into(),
                    OsString::from(&self.unit),
                ];
                enter_command(Pid::INIT, arguments).await.map(drop)
            }
            Restart::Supervised => self.terminate().await,
            Restart::Manual => {
                bail!("node.restart=manual: restart containerd on this node yourself")
            }
        }
    }
}

/// The process that listens on containerd's socket, in this container's process namespace.
fn containerd_pid(socket: &Path) -> Result<Pid> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("dial containerd's socket {}", socket.display()))?;
    // SAFETY-relevant for the node: the kernel answers 0 for a process outside of our namespace, which rustix cannot represent.
    let credentials = socket_peercred(&stream)
        .context("ask who listens on containerd's socket; is hostPID set?")?;
    Ok(credentials.pid)
}

/// Nothing but containerd is ever judged or terminated: with socket activation the listener is pid 1.
fn ensure_containerd(pid: Pid) -> Result<()> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"))
        .with_context(|| format!("read the name of process {pid}"))?;
    ensure!(
        name.trim_end() == "containerd",
        "process {pid}, which listens on containerd's socket, is called {:?} and not containerd, so it was left alone",
        name.trim_end()
    );
    Ok(())
}

/// Runs a program of the host in the mount namespace of a process. Fails with what it said.
async fn enter_command(pid: Pid, arguments: impl IntoIterator<Item = OsString>) -> Result<Output> {
    let mut words = vec![
        OsString::from("enter"),
        format!("--pid={pid}").into(),
        "--".into(),
    ];
    words.extend(arguments);
    command(Path::new("/proc/self/exe"), &words, COMMAND).await
}

/// Runs a program to its end. Fails with what it said.
pub(crate) async fn command(
    program: &Path,
    words: &[OsString],
    deadline: Duration,
) -> Result<Output> {
    let line = words
        .iter()
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(deadline, command.output()).await;
    let output =
        output.with_context(|| format!("`{line}` did not end in {} s", deadline.as_secs()))?;
    let output = output.with_context(|| format!("run {} {line}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!(
            "`{line}` ended with {}: {}",
            output.status,
            last.into_iter().rev().collect::<Vec<_>>().join(" | ")
        );
    }
    Ok(output)
}

/// Enters the mount namespace of a process and becomes another program. Returns only on failure. The caller must have one
/// thread: threads share a file-system view, and the kernel refuses to move one of several.
pub fn enter(pid: u32, words: &[OsString]) -> anyhow::Error {
    let moved = || -> Result<()> {
        let namespace = File::open(format!("/proc/{pid}/ns/mnt"))
            .context("open the mount namespace; is the pod privileged?")?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).with_context(
            || format!("enter the mount namespace of process {pid}; is the pod privileged?"),
        )
    };
    if let Err(error) = moved() {
        return error;
    }
    let Some((program, arguments)) = words.split_first() else {
        return anyhow::anyhow!("no program was named");
    };
    let error = std::process::Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .exec();
    anyhow::Error::new(error).context(format!("run {} of the host", program.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_listener_that_is_not_containerd_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("c.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let pid = containerd_pid(&socket).unwrap();
        assert_eq!(pid, rustix::process::getpid());
        let error = ensure_containerd(pid).unwrap_err().to_string();
        assert!(error.contains("left alone"), "{error}");
    }

    #[tokio::test]
    async fn a_failed_command_tells_what_it_said() {
        let words: Vec<OsString> = [
            "-c".into(),
            "echo first; echo 'no such key' >&2; exit 3".into(),
        ]
        .into();
        let error = command(Path::new("/bin/sh"), &words, COMMAND)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("exit status: 3: no such key"), "{error}");
        let words: Vec<OsString> = ["-c".into(), "sleep 5".into()].into();
        let error = command(Path::new("/bin/sh"), &words, Duration::from_millis(20))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("did not end"), "{error}");
    }
}
