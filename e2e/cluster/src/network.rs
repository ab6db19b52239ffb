//! Network namespaces: one for each node and one for the bridge between them. No route leaves them.

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::layout::{self, FABRIC, NodeNumber};

/// Makes the bridge.
pub fn create_fabric() -> Result<()> {
    add_netns(FABRIC)?;
    ip(&["-n", FABRIC, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", FABRIC, "link", "set", "br0", "up"])
}

/// Makes a node's namespace, with routes between its pods and those of every node that is there.
pub fn add_node(node: NodeNumber) -> Result<()> {
    let others = nodes();
    create_node(node)?;
    for other in others {
        route_pods(node, other)?;
        route_pods(other, node)?;
    }
    Ok(())
}

/// Removes a node's namespace and the routes to its pods, as far as they are there.
pub fn remove_node(node: NodeNumber) -> Result<()> {
    let (netns, port) = (layout::netns(node), port(node));
    // Not left to the end of the namespace: that comes later, and the next node of this number needs the name.
    if exists(FABRIC) && ip(&["-n", FABRIC, "link", "show", &port]).is_ok() {
        ip(&["-n", FABRIC, "link", "del", &port])?;
    }
    if exists(&netns) {
        remove(&netns)?;
    }
    let pods = layout::pod_cidr(node);
    for other in nodes() {
        let netns = layout::netns(other);
        // Nothing to flush is no error.
        ip(&["-n", &netns, "route", "flush", "exact", &pods])?;
    }
    Ok(())
}

fn route_pods(from: NodeNumber, to: NodeNumber) -> Result<()> {
    let (netns, via) = (layout::netns(from), layout::node_ip(to).to_string());
    let pods = layout::pod_cidr(to);
    ip(&["-n", &netns, "route", "add", &pods, "via", &via])
}

/// A node's end on the bridge.
fn port(node: NodeNumber) -> String {
    format!("port{node}")
}

fn create_node(node: NodeNumber) -> Result<()> {
    let (netns, port) = (layout::netns(node), port(node));
    add_netns(&netns)?;
    ip(&["-n", &netns, "link", "set", "lo", "up"])?;
    ip(&[
        "-n", &netns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", FABRIC,
    ])?;
    ip(&["-n", FABRIC, "link", "set", &port, "master", "br0", "up"])?;
    ip(&[
        "-n",
        &netns,
        "addr",
        "add",
        &format!("{}/24", layout::node_ip(node)),
        "dev",
        "eth0",
    ])?;
    ip(&["-n", &netns, "link", "set", "eth0", "up"])?;
    // Service addresses need a route to be looked up before they are translated. It leads to the bridge and ends there.
    ip(&["-n", &netns, "route", "add", "default", "dev", "eth0"])?;
    inside(&netns, || {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch on forwarding")?;
        Ok(())
    })
}

fn add_netns(name: &str) -> Result<()> {
    ip(&["netns", "add", name])
}

/// Whether a namespace of that name exists.
pub fn exists(name: &str) -> bool {
    layout::netns_path(name).exists()
}

/// Names of all namespaces that are ours, also those of a cluster whose directory is gone.
pub fn ours() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name == FABRIC || node_of(name).is_some())
        .collect()
}

/// Numbers of the nodes that have a namespace.
fn nodes() -> Vec<NodeNumber> {
    ours().iter().filter_map(|name| node_of(name)).collect()
}

fn node_of(name: &str) -> Option<NodeNumber> {
    name.strip_prefix("hearth-n")?.parse().ok()
}

/// Removes a namespace.
pub fn remove(name: &str) -> Result<()> {
    ip(&["netns", "del", name])
}

/// Runs a closure on a thread of its own inside a network namespace. Sockets that it makes stay there when it returns.
///
/// # Errors
/// When the namespace does not exist (the cluster is down), or what the closure returns.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = layout::netns_path(name);
    let file = fs::File::open(&path).with_context(|| {
        format!(
            "no network namespace {}: start the cluster with `cargo xtask up`",
            path.display()
        )
    })?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {}: this needs root", path.display()))?;
            work()
        });
        thread
            .join()
            .map_err(|_| anyhow!("the work inside {name} panicked"))?
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run `ip`: is the package iproute2 installed?")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        assert_eq!(node_of("hearth-n12"), Some(12));
        assert_eq!(node_of("hearth-next"), None);
        assert_eq!(node_of("other-n1"), None);
    }
}
