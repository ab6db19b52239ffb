//! Names, addresses and directories. Everything here is a pure function of the cluster's directory and a node's number.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The variable that names the cluster's directory where it is not `target/cluster`.
pub const DIRECTORY_VARIABLE: &str = "HEARTH_CLUSTER_DIR";
/// The variable that names the directory of our built programs.
pub const PROGRAMS_VARIABLE: &str = "HEARTH_PROGRAMS";
/// The variable that names a program whose `supervise` command calls [`crate::supervise::run`].
pub const SUPERVISOR_VARIABLE: &str = "HEARTH_SUPERVISOR";
/// A node's directory as its own processes see it: the same path on every node, as on machines of their own.
pub const NODE_DIRECTORY: &str = "/run/hearth-node";
/// The network namespace that holds the bridge.
pub const FABRIC: &str = "hearth-fabric";
/// Service addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The `kubernetes` Service.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The `kube-dns` Service.
pub const DNS_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Pod addresses of all nodes.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// The registry as every node and every image name calls it.
pub const REGISTRY: &str = "localhost:5000";
/// The image of pod sandboxes.
pub const PAUSE_IMAGE: &str = "localhost:5000/pause:1";
/// More nodes would need addresses beyond the last byte.
pub const MAX_NODES: u32 = 200;

/// A node's number, from 1.
pub type NodeNumber = u32;

/// The node's Kubernetes name.
pub fn node_name(node: NodeNumber) -> String {
    format!("node{node}")
}

/// The node's network namespace; also its cgroup root.
pub fn netns(node: NodeNumber) -> String {
    format!("hearth-n{node}")
}

/// The path of a named network namespace.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// The node's address on the bridge.
pub fn node_ip(node: NodeNumber) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, node as u8 + 1)
}

/// Addresses of the node's pods.
pub fn pod_cidr(node: NodeNumber) -> String {
    format!("10.244.{node}.0/24")
}

/// Directories of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    repository: PathBuf,
    root: PathBuf,
}

impl Layout {
    /// The cluster of the repository that holds the current directory, or the one that [`DIRECTORY_VARIABLE`] names.
    pub fn find() -> Result<Self> {
        let current = std::env::current_dir().context("the current directory is gone")?;
        let repository = current
            .ancestors()
            .find(|directory| directory.join("tools/kubernetes/go.mod").is_file())
            .with_context(|| {
                format!(
                    "{} is not inside the repository: run this from a clone",
                    current.display()
                )
            })?;
        let root = match std::env::var_os(DIRECTORY_VARIABLE) {
            Some(directory) => current.join(directory),
            None => repository.join("target/cluster"),
        };
        Self::new(repository, &root)
    }

    /// A cluster with the given directory.
    pub fn new(repository: &Path, root: &Path) -> Result<Self> {
        let normal = |path: &Path| path.is_absolute() && path.components().count() > 2;
        ensure!(
            normal(root) && normal(repository),
            "{} cannot be a cluster's directory: `down` removes it whole, so choose one of its own",
            root.display()
        );
        Ok(Self {
            repository: repository.to_owned(),
            root: root.to_owned(),
        })
    }

    /// The clone.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// Everything the cluster writes, apart from names in `/run/netns`, `/sys/fs/cgroup` and mount points.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Programs built from the Go modules in `tools/`.
    pub fn tools(&self) -> PathBuf {
        self.repository.join("target/tools/bin")
    }

    /// One program of [`Layout::tools`].
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools().join(name)
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The kubeconfig of a user that the PKI knows.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.root.join(format!("{user}.kubeconfig"))
    }

    /// A node's directory, which the node's processes see as [`NODE_DIRECTORY`].
    pub fn node(&self, node: NodeNumber) -> PathBuf {
        self.root.join(format!("n{node}"))
    }

    /// Logs, a file for each part.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// What runs, a file for each part.
    pub fn records(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// What `up` made.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// What of Hearth was installed, as one digest. Where it is missing, `up` installs it once more.
    pub fn installed_file(&self) -> PathBuf {
        self.root.join("installed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses_of_their_own() {
        assert_eq!(node_ip(1).to_string(), "10.240.0.2");
        assert_eq!(node_ip(MAX_NODES).to_string(), "10.240.0.201");
        assert_eq!(pod_cidr(3), "10.244.3.0/24");
        assert_eq!(netns(2), "hearth-n2");
    }

    #[test]
    fn a_cluster_does_not_live_at_the_root() {
        assert!(Layout::new(Path::new("/src/hearth"), Path::new("/")).is_err());
        assert!(Layout::new(Path::new("/src/hearth"), Path::new("relative/cluster")).is_err());
        assert!(Layout::new(Path::new("/src/hearth"), Path::new("/tmp/cluster")).is_ok());
    }
}
