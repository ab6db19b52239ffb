//! A node in a directory, and the installer that works on it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use hearth_installer::config::{Config, Restart};
use hearth_installer::install::Installer;
use hearth_installer::plan::Plan;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::containerd::{CONFIG, Containerd, Line, SOCKET};

pub(crate) const DROP_IN: &str = "/etc/containerd/conf.d/hearth.toml";
/// The program that is the same in all versions.
pub(crate) const JAVASCRIPT: &str = "/opt/hearth/bin/hearth-javascript.wasm";
pub(crate) const ENGINE: &str = "/opt/hearth/bin/hearth-engine";
pub(crate) const SHIM: &str = "/opt/hearth/bin/containerd-shim-hearth-v1";
pub(crate) const SHIM_CONFIG: &str = "/opt/hearth/shim.toml";
pub(crate) const PENDING: &str = "/opt/hearth/restart-pending";

/// What the node's owner wrote into containerd's main file.
pub(crate) const MAIN: &str = "\
# the owner's
version = 3 # since 2.0

[plugins.'io.containerd.cri.v1.images']
  snapshotter = \"native\" # why
";

/// A drop-in of an earlier version: the runtime without all of its settings.
const OLDER_DROP_IN: &str = "\
version = 3

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.hearth]
runtime_type = \"io.containerd.hearth.v1\"
";

/// A shim that says what it is, and does nothing else.
pub(crate) fn shim(version: &str) -> String {
    format!("#!/bin/sh\n[ \"$1\" = -info ] && echo shim {version}\n")
}

/// A program of the host is run soon after it was written, and the kernel refuses that while any process has it open for
/// writing: a child that another test starts at that moment would. So there is one node at a time.
static ONE_NODE: Mutex<()> = Mutex::const_new(());

/// A node in a directory of its own.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) containerd: Containerd,
    _directory: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// A file of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) text: String,
    pub(crate) mode: u32,
}

impl Node {
    /// A node that nothing was installed on. Its containerd runs with its owner's configuration; the payload has version 1.
    pub(crate) async fn empty() -> Self {
        Self::with_main(MAIN).await
    }

    /// As [`Node::empty`], with another main file.
    pub(crate) async fn with_main(main: &str) -> Self {
        let alone = ONE_NODE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().join("host");
        let node = Self {
            config: config(&host, &directory.path().join("payload")),
            containerd: Containerd::new(&host),
            _directory: directory,
            _alone: alone,
        };
        node.write(CONFIG, main);
        // It may hold credentials of registries.
        fs::set_permissions(node.path(CONFIG), Permissions::from_mode(0o600)).unwrap();
        node.write("/etc/containerd/own.toml", "version = 2\n");
        fs::create_dir_all(node.path(SOCKET).parent().unwrap()).unwrap();
        node.payload("engine 1", &shim("1"));
        node.containerd.run().await;
        node
    }

    /// A node of containerd 1.7 with this main file.
    pub(crate) async fn of_1_7(main: &str) -> Self {
        let node = Self::with_main("version = 2\n").await;
        node.write(CONFIG, main);
        node.containerd.becomes(Line::V1_7);
        node.containerd.run().await;
        node
    }

    /// A node with version 1 on it.
    pub(crate) async fn installed() -> Self {
        let node = Self::empty().await;
        node.install().await.unwrap();
        node.containerd.take_restarts();
        node
    }

    /// A node that an earlier version was installed on. Programs and drop-in of the payload, version 2, are different.
    pub(crate) async fn outdated() -> Self {
        let node = Self::installed().await;
        node.write(DROP_IN, OLDER_DROP_IN);
        node.containerd.run().await;
        node.payload("engine 2", &shim("2"));
        node
    }

    /// A node with version 1 on it, whose containerd still runs with the drop-in of an earlier version: the installer died
    /// before the restart.
    pub(crate) async fn abandoned() -> Self {
        let node = Self::installed().await;
        let drop_in = node.read(DROP_IN).unwrap();
        node.write(DROP_IN, OLDER_DROP_IN);
        node.containerd.run().await;
        node.write(DROP_IN, &drop_in);
        node.write(PENDING, "");
        node
    }

    pub(crate) async fn install(&self) -> Result<Plan> {
        self.installer().install().await
    }

    pub(crate) async fn uninstall(&self) -> Result<Plan> {
        self.installer().uninstall().await
    }

    /// Replaces the programs that are to be installed.
    pub(crate) fn payload(&self, engine: &str, shim: &str) {
        fs::create_dir_all(&self.config.payload).unwrap();
        let paths = [JAVASCRIPT, ENGINE, SHIM];
        let names = paths.map(|path| Path::new(path).file_name().unwrap());
        for (name, text) in names.into_iter().zip(["environment", engine, shim]) {
            fs::write(self.config.payload.join(name), text).unwrap();
        }
    }

    /// Where a path of the host is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.config.host_root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        self.files().remove(path).map(|file| file.text)
    }

    /// All files of the node by their path on the host.
    pub(crate) fn files(&self) -> BTreeMap<String, File> {
        let read = |path: PathBuf| File {
            mode: path.metadata().unwrap().mode() & 0o7777,
            text: fs::read_to_string(path).unwrap(),
        };
        let paths = self.paths().into_iter();
        paths.map(|(name, path)| (name, read(path))).collect()
    }

    /// Which files these are: one that was written again is another, whatever its text.
    pub(crate) fn inodes(&self) -> BTreeMap<String, u64> {
        let paths = self.paths().into_iter();
        paths
            .map(|(name, path)| (name, path.metadata().unwrap().ino()))
            .collect()
    }

    fn installer(&self) -> Installer<&Containerd> {
        Installer::new(self.config.clone(), &self.containerd)
    }

    fn paths(&self) -> BTreeMap<String, PathBuf> {
        let mut files = BTreeMap::new();
        let mut directories = vec![self.config.host_root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let below = path.strip_prefix(&self.config.host_root).unwrap();
                if path.is_dir() {
                    directories.push(path);
                } else if path.is_file() {
                    files.insert(format!("/{}", below.display()), path);
                }
            }
        }
        files
    }
}

/// The whole error, in which every one of `words` is.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) -> String {
    let error = format!("{:#}", result.unwrap_err());
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
    error
}

fn config(host: &Path, payload: &Path) -> Config {
    Config {
        host_root: host.to_owned(),
        payload: payload.to_owned(),
        bin_dir: "/opt/hearth/bin".into(),
        state_dir: "/var/lib/hearth".into(),
        containerd_config: CONFIG.into(),
        containerd_socket: SOCKET.into(),
        restart: Restart::Systemd,
        systemd_unit: "containerd.service".to_owned(),
        // containerd is asked once: what it answers is known when a restart returns.
        deadline_seconds: 0,
        interval_seconds: 86_400,
        ready_file: payload.with_file_name("ready"),
        node_name: "n1".to_owned(),
    }
}
