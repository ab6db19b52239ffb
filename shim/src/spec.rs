//! The part of an OCI runtime specification (config.json) that the shim acts on, and what kind of container it
//! describes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hearth_contract::pool_env;
use serde::Deserialize;

/// CRI annotations that containerd writes into every config.json.
pub mod annotation {
    /// `sandbox` for the pause container, else `container`.
    pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    /// The pod's id: one shim serves all containers that carry the same.
    pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    /// The image as the user wrote it.
    pub const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";
    /// The container's name in its pod.
    pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.cri.sandbox-name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    /// The pod's UID.
    pub const POD_UID: &str = "io.kubernetes.cri.sandbox-uid";
}

/// Largest config.json that is read, in bytes.
const SPEC_BYTES: u64 = 4 << 20;

/// config.json.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// What an ordinary container would execute.
    pub process: Process,
    /// Files and folders that an ordinary container would see.
    pub mounts: Vec<Mount>,
    /// CRI's and the pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Namespaces, cgroup and limits.
    pub linux: Linux,
}

/// `process`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Process {
    /// Whether a terminal was asked for.
    pub terminal: bool,
    /// Whose rights the process has.
    pub user: User,
    /// Arguments, the program first.
    pub args: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// What it may do beside what every process may.
    pub capabilities: Capabilities,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// How early the kernel kills the process when memory runs out.
    pub oom_score_adj: Option<i32>,
}

/// `process.capabilities`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// All that it can ever have.
    pub bounding: Vec<String>,
}

/// `process.user`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups: of the pod's volumes, and those that the pod names.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// One of `mounts`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path in the container.
    pub destination: PathBuf,
    /// Path on the node.
    pub source: PathBuf,
    /// `bind`, or a file system.
    #[serde(rename = "type")]
    pub kind: String,
    /// mount(8)'s options.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether it shows something of the node.
    pub fn is_bind(&self) -> bool {
        let options = self.options.iter();
        self.kind == "bind" || options.into_iter().any(|option| option.ends_with("bind"))
    }

    /// Whether nothing in it may be changed.
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

/// `linux`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Linux {
    /// Cgroup, in the form of the node's cgroup driver.
    pub cgroups_path: String,
    /// Namespaces to enter.
    pub namespaces: Vec<Namespace>,
    /// Limits.
    pub resources: Resources,
    /// Devices of the node that it sees.
    pub devices: Vec<Device>,
    /// Settings of the kernel, for the pod; on the pause container.
    pub sysctl: BTreeMap<String, String>,
}

/// One of `linux.devices`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its path in the container.
    pub path: String,
}

/// One of `linux.namespaces`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `network`, `pid`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Where an existing one is pinned.
    pub path: Option<PathBuf>,
}

/// `linux.resources`, also the body of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory.
    pub memory: Option<Memory>,
    /// CPU time.
    pub cpu: Option<Cpu>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// cgroup v2 files by name.
    pub unified: BTreeMap<String, String>,
}

/// `linux.resources.memory`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Bytes; not positive means no limit.
    pub limit: Option<i64>,
    /// Bytes of memory and swap together.
    pub swap: Option<i64>,
}

impl Memory {
    /// The limit in bytes, if there is one.
    pub fn limit_bytes(&self) -> Option<u64> {
        let limit = u64::try_from(self.limit?).ok();
        limit.filter(|limit| *limit > 0)
    }
}

/// `linux.resources.cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Relative weight.
    pub shares: Option<u64>,
    /// Microseconds per period; not positive means no limit.
    pub quota: Option<i64>,
    /// Microseconds.
    pub period: Option<u64>,
}

/// `linux.resources.pids`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Count; not positive means no limit.
    pub limit: Option<i64>,
}

/// Why config.json could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no OCI runtime specification.
    #[error("{path} is no OCI runtime specification: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// What a container is to the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Holds the pod's network namespace: no process.
    Pause,
    /// Hosts the functions that the operator names.
    Pool,
    /// Its image is one bundle.
    Plain,
}

/// Decides what a container is.
pub fn classify(spec: &Spec) -> Kind {
    if spec.annotation(annotation::CONTAINER_TYPE) == Some("sandbox") {
        Kind::Pause
    } else if spec.env_value(pool_env::STREAM).is_some() {
        Kind::Pool
    } else {
        Kind::Plain
    }
}

impl Spec {
    /// Reads `config.json` in a bundle folder.
    pub fn read(bundle: &Path) -> Result<Self, SpecError> {
        let path = bundle.join("config.json");
        let read = || {
            use std::io::Read;
            let mut text = Vec::new();
            std::fs::File::open(&path)?
                .take(SPEC_BYTES)
                .read_to_end(&mut text)?;
            Ok(text)
        };
        match read() {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| SpecError::Parse { path, source })
            }
            Err(source) => Err(SpecError::Read { path, source }),
        }
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// An environment variable's value.
    pub fn env_value(&self, name: &str) -> Option<&str> {
        self.process
            .env
            .iter()
            .find_map(|var| var.strip_prefix(name)?.strip_prefix('='))
    }

    /// The environment that a guest gets: all but what a container runtime adds by itself.
    pub fn guest_env(&self) -> Vec<(String, String)> {
        let mut seen = BTreeMap::new();
        for (at, var) in self.process.env.iter().enumerate() {
            if let Some((name, value)) = var.split_once('=')
                && !matches!(name, "" | "PATH" | "HOSTNAME" | "TERM")
            {
                seen.insert(name, (at, value));
            }
        }
        let mut vars: Vec<_> = seen.into_iter().collect();
        vars.sort_by_key(|(_, (at, _))| *at);
        vars.into_iter()
            .map(|(name, (_, value))| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Where the pod's network namespace is pinned; `None` for a pod in the node's network.
    pub fn network_namespace(&self) -> Option<&Path> {
        self.linux
            .namespaces
            .iter()
            .find(|namespace| namespace.kind == "network")?
            .path
            .as_deref()
    }

    /// The path on the node of a path in the container, by way of the mounts.
    pub fn host_path(&self, in_container: &Path) -> Option<PathBuf> {
        let (source, rest) = self.mounted(in_container)?;
        Some(match rest.as_os_str().is_empty() {
            true => source,
            false => source.join(rest),
        })
    }

    /// The source of the mount that holds a path in the container, and the path below it.
    pub fn mounted(&self, in_container: &Path) -> Option<(PathBuf, PathBuf)> {
        self.mounts
            .iter()
            .filter_map(|mount| {
                let rest = in_container.strip_prefix(&mount.destination).ok()?;
                Some((mount, rest))
            })
            .max_by_key(|(mount, _)| mount.destination.components().count())
            .map(|(mount, rest)| (mount.source.clone(), rest.to_owned()))
    }

    /// Cores that the processor limit is worth, rounded down, and at least one; 0 where there is no limit.
    pub fn cores(&self) -> u32 {
        let Some(cpu) = &self.linux.resources.cpu else {
            return 0;
        };
        let quota = cpu.quota.and_then(|quota| u64::try_from(quota).ok());
        match (quota, cpu.period) {
            (Some(quota), Some(period)) if quota > 0 && period > 0 => {
                u32::try_from((quota / period).max(1)).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// The memory limit in bytes, if there is one.
    pub fn memory_limit(&self) -> Option<u64> {
        self.linux.resources.memory?.limit_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_processor_limit_is_cores() {
        let cores = |quota: i64| {
            let cpu = format!(
                r#"{{"linux":{{"resources":{{"cpu":{{"quota":{quota},"period":100000}}}}}}}}"#
            );
            spec(&cpu).cores()
        };
        assert_eq!([-1, 0, 5_000, 150_000, 400_000].map(cores), [0, 0, 1, 1, 4]);
        assert_eq!(spec("{}").cores(), 0);
    }

    #[test]
    fn a_container_is_pause_pool_or_plain() {
        let check = |json: &str, expected| assert_eq!(classify(&spec(json)), expected, "{json}");
        check(
            r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox"}}"#,
            Kind::Pause,
        );
        check(
            r#"{"annotations":{"io.kubernetes.cri.container-type":"container"},
                "process":{"env":["HEARTH_STREAM=https://10.0.0.1:8443"]}}"#,
            Kind::Pool,
        );
        check(
            r#"{"annotations":{"io.kubernetes.cri.container-type":"container"},
                "process":{"env":["HEARTH_STREAM_NAME=x"]}}"#,
            Kind::Plain,
        );
        check("{}", Kind::Plain);
    }

    #[test]
    fn guests_see_the_pods_environment_without_the_runtimes() {
        let spec = spec(
            r#"{"process":{"env":["PATH=/bin","B=2","HOSTNAME=h","A=1","B=3","EMPTY=","odd"]}}"#,
        );
        let vars: Vec<_> = spec.guest_env();
        let expected = [("A", "1"), ("B", "3"), ("EMPTY", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(vars, expected);
    }

    #[test]
    fn the_longest_mount_gives_the_host_path() {
        let spec = spec(
            r#"{"mounts":[{"destination":"/","source":"/root"},
                {"destination":"/var/run/secrets/hearth","source":"/kubelet/token"},
                {"destination":"/etc/hosts","source":"/kubelet/hosts"}]}"#,
        );
        let path = |path: &str| spec.host_path(Path::new(path)).unwrap();
        assert_eq!(
            path("/var/run/secrets/hearth/token"),
            Path::new("/kubelet/token/token")
        );
        assert_eq!(path("/etc/hosts"), Path::new("/kubelet/hosts"));
        assert_eq!(path("/etc/other"), Path::new("/root/etc/other"));
    }

    #[test]
    fn no_limit_is_none() {
        let limit = |json: &str| spec(json).memory_limit();
        assert_eq!(
            limit(r#"{"linux":{"resources":{"memory":{"limit":1024}}}}"#),
            Some(1024)
        );
        assert_eq!(
            limit(r#"{"linux":{"resources":{"memory":{"limit":-1}}}}"#),
            None
        );
        assert_eq!(
            limit(r#"{"linux":{"resources":{"memory":{"limit":0}}}}"#),
            None
        );
        assert_eq!(limit("{}"), None);
    }
}
