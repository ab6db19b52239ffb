//! The process that holds a node's mount namespace and starts its containerd again when it ends: what systemd does on a
//! user's node. An installer restarts containerd here by terminating it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};

use crate::layout::{self, Layout, NodeNumber};
use crate::process::{Part, Record, log_path};
use crate::{cgroup, node};

/// Prepares the mount namespace that this process is in, then keeps containerd running until it is killed itself.
pub fn run(layout: &Layout, number: NodeNumber) -> Result<()> {
    cgroup::enter(&layout::netns(number))?;
    mount(layout, number)?;
    loop {
        let started = Instant::now();
        if !hold_path(layout, number).exists() {
            match run_containerd(layout, number) {
                Ok(status) => eprintln!("containerd ended: {status}"),
                Err(error) => eprintln!("containerd did not start: {error:#}"),
            }
        }
        // One that cannot start must not take the processor; one that was restarted should be back at once.
        let pause = if started.elapsed() > Duration::from_secs(2) {
            50
        } else {
            500
        };
        std::thread::sleep(Duration::from_millis(pause));
    }
}

fn mount(layout: &Layout, number: NodeNumber) -> Result<()> {
    // A new peer group: what containerd mounts reaches containers and kubelet, and ends with this namespace.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("share the node's mounts")?;
    for (target, own) in node::PRIVATE {
        let source = layout.node(number).join(own);
        mount_bind_recursive(&source, target)
            .with_context(|| format!("mount {} at {target}", source.display()))?;
    }
    Ok(())
}

fn run_containerd(layout: &Layout, number: NodeNumber) -> Result<std::process::ExitStatus> {
    let launch = node::containerd_launch(layout)?;
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(log_path(layout, Part::Containerd(number)))?;
    let mut child = Command::new(&launch.program)
        .args(&launch.arguments)
        .envs(&launch.environment)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", launch.program.display()))?;
    Record::of(child.id(), launch)?.write(layout, Part::Containerd(number))?;
    fs::write(node::CONTAINERD_PID_FILE, format!("{}\n", child.id()))?;
    child.wait().context("wait for containerd")
}

/// Directories of the machine on which a node mounts its own, and that `up` has to make where they are missing.
pub(crate) fn mount_points() -> impl Iterator<Item = &'static Path> {
    node::PRIVATE.iter().map(|(target, _)| Path::new(*target))
}

/// Keeps the supervisor from starting containerd again.
pub(crate) fn hold(layout: &Layout, number: NodeNumber) -> Result<()> {
    let path = hold_path(layout, number);
    fs::write(&path, "").with_context(|| format!("write {}", path.display()))
}

/// Lets the supervisor start containerd.
pub(crate) fn release(layout: &Layout, number: NodeNumber) -> Result<()> {
    match fs::remove_file(hold_path(layout, number)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("let the supervisor start containerd")
        }
        _ => Ok(()),
    }
}

fn hold_path(layout: &Layout, number: NodeNumber) -> PathBuf {
    layout.node(number).join("containerd.hold")
}
