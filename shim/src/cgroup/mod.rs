//! A container's control group: made, limited, read and removed.
//!
//! Both hierarchies are known: v1 with one mount for each controller, and v2. On a node that mounts v1 controllers
//! and a v2 hierarchy beside them (hybrid), the v1 controllers count. With kubelet's systemd driver the folder is made
//! below the slice that kubelet asked systemd for, without a scope unit of its own.

mod limits;
mod path;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::process;
use crate::spec::Resources;

pub use path::{InvalidPath, relative};

/// Controllers that the shim uses.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
/// Controllers that v2 has of them.
const V2_CONTROLLERS: &str = "+cpu +memory +pids";

/// Which hierarchy a node has, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// Controllers and their mount points; controllers mounted together share one.
    V1(Vec<(String, PathBuf)>),
    /// The mount point.
    V2(PathBuf),
}

impl Hierarchy {
    /// Reads `/proc/self/mountinfo`.
    pub fn of_this_node() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Self::from_mounts(&mounts).ok_or_else(|| {
            io::Error::other("no cgroup hierarchy with a memory controller is mounted on this node")
        })
    }

    /// Decides from the text of mountinfo.
    fn from_mounts(mounts: &str) -> Option<Self> {
        let mut v1 = Vec::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => v2 = v2.or(Some(PathBuf::from(point))),
                Some("cgroup") => {
                    for option in right.nth(1).unwrap_or_default().split(',') {
                        if CONTROLLERS.contains(&option) {
                            v1.push((option.to_owned(), PathBuf::from(point)));
                        }
                    }
                }
                _ => {}
            }
        }
        match (v1.iter().any(|(name, _)| name == "memory"), v2) {
            (true, _) => Some(Self::V1(v1)),
            (false, Some(point)) => Some(Self::V2(point)),
            (false, None) => None,
        }
    }
}

/// One container's control group. Dropping it removes nothing; see [`Cgroup::remove`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    relative: PathBuf,
}

impl Cgroup {
    /// Names the group. Nothing is made yet.
    pub fn new(hierarchy: Hierarchy, cgroups_path: &str) -> Result<Self, InvalidPath> {
        Ok(Self {
            hierarchy,
            relative: relative(cgroups_path)?,
        })
    }

    /// Makes the folders. A group that is there already is used.
    pub fn create(&self) -> io::Result<()> {
        if let Hierarchy::V2(root) = &self.hierarchy {
            fs::create_dir_all(root.join(&self.relative))?;
            let mut above: Vec<&Path> = self.relative.ancestors().skip(1).collect();
            above.reverse();
            for parent in above {
                // Kubelet has done so for its own levels; a group that holds processes refuses, and its limits
                // then do not reach ours.
                let control = root.join(parent).join("cgroup.subtree_control");
                if let Err(error) = fs::write(&control, V2_CONTROLLERS) {
                    tracing::debug!(path = %control.display(), %error, "controllers were not enabled");
                }
            }
            return Ok(());
        }
        self.folders().iter().try_for_each(fs::create_dir_all)
    }

    /// Applies limits. What `resources` does not name stays as it is.
    pub fn apply(&self, resources: &Resources) -> io::Result<()> {
        let writes = match self.hierarchy {
            Hierarchy::V1(_) => limits::v1(resources),
            Hierarchy::V2(_) => limits::v2(resources),
        };
        for write in writes {
            let Some(folder) = self.folder(write.controller) else {
                continue;
            };
            let path = folder.join(&write.file);
            match fs::write(&path, &write.value) {
                Ok(()) => {}
                Err(error) if write.optional && is_absent(&error) => {}
                Err(error) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("writing {:?} to {}: {error}", write.value, path.display()),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Moves a process in.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.folders()
            .iter()
            .try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// Processes in the group.
    pub fn pids(&self) -> Vec<u32> {
        self.folder("memory")
            .and_then(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Kills every process in the group. What is started meanwhile by one of them may live on.
    pub fn kill(&self) {
        for pid in self.pids() {
            let is_inside = || self.pids().contains(&pid);
            if let Err(error) = process::end(pid, is_inside) {
                tracing::warn!(pid, %error, "process was not ended");
            }
        }
    }

    /// What the group used, as the message that containerd expects on this kind of node.
    pub fn stats(&self) -> Any {
        let read = |controller: &str, file: &str| {
            fs::read_to_string(self.folder(controller)?.join(file)).ok()
        };
        match self.hierarchy {
            Hierarchy::V1(_) => stats::v1(read),
            Hierarchy::V2(_) => stats::v2(read),
        }
    }

    /// How often the kernel killed a process of the group because memory ran out.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.hierarchy {
            Hierarchy::V1(_) => "memory.oom_control",
            Hierarchy::V2(_) => "memory.events",
        };
        self.folder("memory")
            .and_then(|folder| fs::read_to_string(folder.join(file)).ok())
            .and_then(|text| stats::field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// Removes the folders. Waits up to a second for ended processes to leave; what is gone is no error.
    pub async fn remove(&self) -> io::Result<()> {
        let mut last = Ok(());
        for _ in 0..50 {
            last = self.remove_now();
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        last
    }

    /// Removes the folders if nothing is in them.
    pub fn remove_now(&self) -> io::Result<()> {
        let mut result = Ok(());
        for folder in self.folders() {
            match fs::remove_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }

    fn folder(&self, controller: &str) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(mounts) => mounts
                .iter()
                .find(|(name, _)| name == controller)
                .map(|(_, point)| point.join(&self.relative)),
            Hierarchy::V2(root) => Some(root.join(&self.relative)),
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(mounts) => {
                let mut points: Vec<_> = mounts.iter().map(|(_, point)| point).collect();
                points.sort();
                points.dedup();
                points
                    .into_iter()
                    .map(|point| point.join(&self.relative))
                    .collect()
            }
            Hierarchy::V2(root) => vec![root.join(&self.relative)],
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Memory, Pids};

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const V2: &str = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_hierarchy_is_read_from_the_mounts() {
        let point = |name: &str| PathBuf::from(format!("/sys/fs/cgroup/{name}"));
        assert_eq!(
            Hierarchy::from_mounts(V1),
            Some(Hierarchy::V1(vec![
                ("cpu".into(), point("cpu,cpuacct")),
                ("cpuacct".into(), point("cpu,cpuacct")),
                ("memory".into(), point("memory")),
                ("pids".into(), point("pids")),
            ]))
        );
        assert_eq!(
            Hierarchy::from_mounts(V2),
            Some(Hierarchy::V2("/sys/fs/cgroup".into()))
        );
        assert_eq!(
            Hierarchy::from_mounts("1 2 3:4 / / rw - ext4 /dev/sda rw\n"),
            None
        );
    }

    fn resources() -> Resources {
        Resources {
            memory: Some(Memory {
                limit: Some(64 << 20),
                swap: None,
            }),
            pids: Some(Pids { limit: Some(100) }),
            ..Resources::default()
        }
    }

    #[tokio::test]
    async fn a_v2_group_is_made_limited_filled_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::V2(root.path().to_owned());
        let cgroup = Cgroup::new(hierarchy, "kubepods.slice:cri-containerd:c1").unwrap();
        cgroup.create().unwrap();
        let folder = root.path().join("kubepods.slice/cri-containerd-c1.scope");
        let control = |path: PathBuf| fs::read_to_string(path.join("cgroup.subtree_control"));
        assert_eq!(control(root.path().to_owned()).unwrap(), V2_CONTROLLERS);
        assert_eq!(
            control(root.path().join("kubepods.slice")).unwrap(),
            V2_CONTROLLERS
        );
        cgroup.apply(&resources()).unwrap();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("pids.max"), "100");
        cgroup.add(7).unwrap();
        assert_eq!(cgroup.pids(), [7]);
        fs::write(folder.join("memory.events"), "oom 2\noom_kill 1\n").unwrap();
        assert_eq!(cgroup.oom_kills(), 1);
        for entry in fs::read_dir(&folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        cgroup.remove().await.unwrap();
        assert!(!folder.exists());
        cgroup.remove().await.unwrap();
    }

    #[test]
    fn a_v1_group_is_made_in_every_controller_once() {
        let root = tempfile::tempdir().unwrap();
        let point = |name: &str| root.path().join(name);
        let hierarchy = Hierarchy::V1(vec![
            ("cpu".into(), point("cpu,cpuacct")),
            ("cpuacct".into(), point("cpu,cpuacct")),
            ("memory".into(), point("memory")),
            ("pids".into(), point("pids")),
        ]);
        let cgroup = Cgroup::new(hierarchy, "/kubepods/pod1/c1").unwrap();
        cgroup.create().unwrap();
        cgroup.apply(&resources()).unwrap();
        let memory = point("memory").join("kubepods/pod1/c1");
        let limit = fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap();
        assert_eq!(limit, "67108864");
        assert!(point("cpu,cpuacct").join("kubepods/pod1/c1").is_dir());
        assert_eq!(cgroup.folders().len(), 3);
    }
}
