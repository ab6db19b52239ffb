//! Control groups: a root for each node, in whichever hierarchies the machine has (version 1 or 2). What runs below a
//! node's root belongs to the cluster, which is how `down` finds processes that nobody recorded.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::wait::{Look, wait_for};

const MOUNT: &str = "/sys/fs/cgroup";

/// Hierarchies: one with version 2, one a controller with version 1.
fn hierarchies() -> Vec<PathBuf> {
    let mount = Path::new(MOUNT);
    if is_v2() {
        return vec![mount.to_owned()];
    }
    let entries = fs::read_dir(mount)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect()
}

fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Makes a node's root everywhere, with processors and memory nodes filled in: version 1 leaves them empty, and then no
/// process may enter.
pub(crate) fn create(name: &str) -> Result<()> {
    if is_v2() {
        // kubelet hands these on to pods; a controller that this machine lacks is refused and left out.
        for controller in ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"] {
            let _ = fs::write(
                Path::new(MOUNT).join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    for hierarchy in hierarchies() {
        let root = hierarchy.join(name);
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !is_v2() && hierarchy.join(file).exists() {
                fs::write(root.join(file), fs::read(hierarchy.join(file))?)
                    .with_context(|| format!("fill {}", root.join(file).display()))?;
            }
        }
    }
    Ok(())
}

/// Moves this process into a leaf of the node's root, so that its children are found there. One hierarchy is enough;
/// `pids` limits nothing.
pub(crate) fn enter(name: &str) -> Result<()> {
    let hierarchies = hierarchies();
    let Some(hierarchy) = hierarchies
        .iter()
        .find(|path| is_v2() || path.ends_with("pids"))
        .or(hierarchies.first())
    else {
        return Ok(());
    };
    let leaf = hierarchy.join(name).join("system");
    fs::create_dir_all(&leaf).with_context(|| format!("create {}", leaf.display()))?;
    fs::write(leaf.join("cgroup.procs"), "0").with_context(|| format!("enter {}", leaf.display()))
}

/// Names of node roots that exist, also those of a cluster whose directory is gone.
pub(crate) fn ours() -> Vec<String> {
    let mut names: Vec<String> = hierarchies()
        .iter()
        .flat_map(|hierarchy| fs::read_dir(hierarchy).into_iter().flatten().flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix("hearth-n")
                .is_some_and(|n| n.parse::<u32>().is_ok())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// All groups below a node's root, in all hierarchies.
pub(crate) fn below(name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = hierarchies().iter().map(|root| root.join(name)).collect();
    let roots = found.len();
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let inner = children(directory);
        found.extend(inner);
        next += 1;
    }
    found.split_off(roots)
}

/// Ends every process below a node's root, then removes it.
pub(crate) fn remove(name: &str) -> Result<()> {
    let roots: Vec<PathBuf> = hierarchies().iter().map(|h| h.join(name)).collect();
    wait_for(
        "a node's processes to end",
        Duration::from_secs(30),
        Duration::from_millis(50),
        || {
            let pids: Vec<u32> = roots.iter().flat_map(|root| processes(root)).collect();
            for pid in &pids {
                kill_member(*pid, name);
            }
            Ok(match pids.first() {
                Some(pid) => Look::NotYet(format!("process {pid} in {name} does not end")),
                None => Look::Done(()),
            })
        },
    )?;
    wait_for(
        "empty control groups to go",
        Duration::from_secs(10),
        Duration::from_millis(50),
        || {
            roots.iter().for_each(|root| remove_directories(root));
            Ok(match roots.iter().find(|root| root.exists()) {
                Some(root) => Look::NotYet(format!("{} is still in use", root.display())),
                None => Look::Done(()),
            })
        },
    )
}

/// Kills every process below a node's root but one. Returns how many there were.
pub(crate) fn kill_all_but(name: &str, keeps: u32) -> usize {
    let roots = hierarchies().into_iter().map(|h| h.join(name));
    let mut pids: Vec<u32> = roots.flat_map(|root| processes(&root)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != keeps);
    for pid in &pids {
        kill_member(*pid, name);
    }
    pids.len()
}

fn processes(directory: &Path) -> Vec<u32> {
    let own = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(directory) {
        pids.extend(processes(&child));
    }
    pids
}

fn kill_member(pid: u32, name: &str) {
    let Some(handle) =
        Pid::from_raw(pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return;
    };
    // Asked again after the descriptor is held: the id may have a new owner.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if groups
        .lines()
        .any(|line| line.contains(&format!(":/{name}/")) || line.ends_with(name))
    {
        let _ = pidfd_send_signal(handle.as_fd(), Signal::KILL);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

fn remove_directories(directory: &Path) {
    for child in children(directory) {
        remove_directories(&child);
    }
    let _ = fs::remove_dir(directory);
}
