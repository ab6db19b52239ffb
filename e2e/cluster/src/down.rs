//! Removing a cluster, or one node of it: every process, namespace, control group, mount point and file. It works from what is
//! there, not from what was planned, so it also works after a crash, twice, and when the cluster's directory was deleted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::State;
use crate::layout::{self, Layout, NodeNumber};
use crate::process::{Launch, Part, Record};
use crate::steps::Steps;
use crate::wait::{Look, wait_for};
use crate::{cgroup, network};

/// How long programs have to end by themselves.
const GRACE: Duration = Duration::from_secs(3);

/// Removes the cluster, if there is one.
pub fn down(layout: &Layout, steps: &Steps) -> Result<()> {
    let (namespaces, groups) = (network::ours(), cgroup::ours());
    let is_anything = layout.root().exists() || !namespaces.is_empty() || !groups.is_empty();
    if !is_anything {
        return Ok(());
    }
    steps.step("stop the cluster");
    let state = State::read(layout)?;
    let is_ours = state.is_some() || is_empty(layout.root());
    ensure!(
        is_ours,
        "{} holds files that no cluster wrote: move them away or name another directory in {}",
        layout.root().display(),
        layout::DIRECTORY_VARIABLE
    );
    stop_parts(layout, |_| true)?;
    for group in &groups {
        cgroup::remove(group)?;
    }
    for namespace in &namespaces {
        stop_inside(namespace)?;
    }
    for namespace in &namespaces {
        network::remove(namespace)?;
    }
    for mount_point in state.iter().flat_map(|state| &state.mount_points) {
        // Somebody else may have come to use it since.
        let _ = fs::remove_dir(mount_point);
    }
    remove_directory(layout.root())
}

/// Removes what there is of a node on this machine; Kubernetes is not told. Its logs stay, for whoever asks why it went.
pub(crate) fn remove_node(layout: &Layout, node: NodeNumber) -> Result<()> {
    let name = layout::netns(node);
    stop_parts(layout, |part| part.node() == Some(node))?;
    cgroup::remove(&name)?;
    stop_inside(&name)?;
    network::remove_node(node)?;
    for part in Part::of_node(node) {
        Record::forget(layout, part)?;
    }
    remove_directory(&layout.node(node))
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

fn stop_parts(layout: &Layout, is_meant: impl Fn(Part) -> bool) -> Result<()> {
    let entries = fs::read_dir(layout.records())
        .into_iter()
        .flatten()
        .flatten();
    let mut parts: Vec<Part> = entries
        .filter_map(|entry| entry.path().file_stem()?.to_str()?.parse().ok())
        .filter(|part| is_meant(*part))
        .collect();
    // Supervisors first: they would start again what ends.
    parts.sort_by_key(|part| !matches!(part, Part::Supervisor(_)));
    let mut records = Vec::new();
    for part in parts {
        if let Some(record) = Record::read(layout, part)? {
            if matches!(part, Part::Supervisor(_)) {
                record.kill()?;
            }
            record.signal(Signal::TERM)?;
            records.push(record);
        }
    }
    let late = wait_for("programs to end", GRACE, Duration::from_millis(50), || {
        Ok(match records.iter().any(Record::is_alive) {
            true => Look::NotYet("some still run".to_owned()),
            false => Look::Done(()),
        })
    });
    if late.is_err() {
        for record in &records {
            record.kill()?;
        }
    }
    Ok(())
}

/// Ends whatever still runs inside a network namespace of ours, apart from this very process.
fn stop_inside(namespace: &str) -> Result<()> {
    let Ok(ours) = fs::metadata(layout::netns_path(namespace)) else {
        return Ok(());
    };
    let entries = fs::read_dir("/proc").context("read /proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != std::process::id()) {
        let is_inside = || {
            let theirs = fs::metadata(format!("/proc/{pid}/ns/net"));
            theirs.is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
        };
        // A record is taken before the second look: what is killed is what was seen inside.
        if is_inside()
            && let Ok(record) = Record::of(pid, Launch::new("", [""; 0]))
            && is_inside()
        {
            record.kill()?;
        }
    }
    Ok(())
}

fn remove_directory(directory: &Path) -> Result<()> {
    // Mounts of a namespace whose last process just ended go a moment later.
    wait_for(
        "the cluster's files to go",
        Duration::from_secs(20),
        Duration::from_millis(100),
        || {
            Ok(match fs::remove_dir_all(directory) {
                Ok(()) => Look::Done(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Look::Done(()),
                Err(error) => Look::NotYet(format!("{}: {error}", directory.display())),
            })
        },
    )
}
