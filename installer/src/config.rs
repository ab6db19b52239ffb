//! What the installer is asked to do. Read once, checked once.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

/// How containerd is made to read a changed configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// `systemctl restart` in the host's mount namespace.
    Systemd,
    /// SIGTERM to the process that listens on containerd's socket; what supervises it starts it again.
    Supervised,
    /// Never: the node's owner writes containerd's configuration, the installer verifies it.
    Manual,
}

/// Paths are the host's unless said otherwise.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Where the host's directories are mounted in this container.
    #[arg(long, default_value = "/host")]
    pub host_root: PathBuf,
    /// The programs to install, in this container.
    #[arg(long, default_value = "/opt/hearth/bin")]
    pub payload: PathBuf,
    /// Where they go. The shim's configuration goes next to it: `<bin-dir>/../shim.toml`.
    #[arg(long, default_value = "/opt/hearth/bin")]
    pub bin_dir: PathBuf,
    /// Where shims keep compiled bundles and state.
    #[arg(long, default_value = "/var/lib/hearth")]
    pub state_dir: PathBuf,
    /// containerd's main configuration file.
    #[arg(long, default_value = "/etc/containerd/config.toml")]
    pub containerd_config: PathBuf,
    /// containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// How containerd is made to read a changed configuration.
    #[arg(long, value_enum, default_value = "systemd")]
    pub restart: Restart,
    /// The unit that `systemd` restarts.
    #[arg(long, default_value = "containerd.service")]
    pub systemd_unit: String,
    /// Seconds that containerd has to answer after a restart, before the change is taken back.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub deadline_seconds: u64,
    /// Seconds between two verifications.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub interval_seconds: u64,
    /// A file, in this container, that exists while the node is verified.
    #[arg(long, default_value = "/run/hearth-installer/ready")]
    pub ready_file: PathBuf,
    /// Name of the Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
}

impl Config {
    /// Checks what clap cannot, and reports every mistake together.
    pub fn check(&self) -> Result<(), String> {
        let paths = [
            ("--host-root", &self.host_root),
            ("--payload", &self.payload),
            ("--bin-dir", &self.bin_dir),
            ("--state-dir", &self.state_dir),
            ("--containerd-config", &self.containerd_config),
            ("--containerd-socket", &self.containerd_socket),
        ];
        let mut mistakes: Vec<String> = paths
            .into_iter()
            .filter(|(_, path)| !is_plain(path))
            .map(|(name, path)| {
                format!("{name}={} is no absolute path without `..`", path.display())
            })
            .collect();
        if self.bin_dir.components().count() < 3 {
            mistakes.push(format!(
                "--bin-dir={} has no directory of its own above it, where shim.toml goes; choose for example /opt/hearth/bin",
                self.bin_dir.display()
            ));
        }
        if self.node_name.is_empty() {
            mistakes.push("--node-name is empty; set NODE_NAME from spec.nodeName".to_owned());
        }
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(mistakes.join("; "))
        }
    }

    /// Time for containerd to answer.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds)
    }

    /// Time between two verifications.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds)
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(args_override_self = true)]
    struct Line {
        #[command(flatten)]
        config: Config,
    }

    fn check(arguments: &[&str], expected: &str) {
        let words = ["hearth-installer", "--node-name=n1"]
            .into_iter()
            .chain(arguments.iter().copied());
        let config = Line::try_parse_from(words).ok().unwrap().config;
        match config.check() {
            Ok(()) => assert_eq!("", expected),
            Err(mistakes) => assert!(
                !expected.is_empty() && mistakes.contains(expected),
                "{mistakes}"
            ),
        }
    }

    #[test]
    fn every_mistake_is_named() {
        check(&[], "");
        check(
            &["--bin-dir=opt/bin"],
            "--bin-dir=opt/bin is no absolute path",
        );
        check(&["--bin-dir=/bin"], "no directory of its own above it");
        check(&["--state-dir=/var/../etc"], "--state-dir=/var/../etc");
        check(
            &["--node-name=", "--state-dir=x"],
            "--state-dir=x is no absolute path without `..`; --node-name is empty",
        );
    }
}
