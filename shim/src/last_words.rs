//! Why a container ended, where kubelet looks for it: the file of `terminationMessagePath`, whose text it shows as the
//! message of the container's last state.

use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use crate::pod_file::open_to_write;
use crate::spec::{Spec, annotation};

/// What kubelet reads of the file, in bytes.
const LIMIT: usize = 4096;

/// The file, if kubelet made one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    path: Option<PathBuf>,
}

impl LastWords {
    /// Looks among a container's mounts.
    pub fn of(spec: &Spec) -> Self {
        let named = |name| spec.annotation(name).unwrap_or_default();
        let pod = named(annotation::POD_UID);
        let container = named(annotation::CONTAINER_NAME);
        let mut sources = spec.mounts.iter().map(|mount| &mount.source);
        let path = sources
            .find(|source| is_kubelets(source, pod, container))
            .cloned();
        Self { path }
    }

    /// Whether a mount's source is this file.
    pub fn is_in(&self, source: &Path) -> bool {
        self.path.as_deref() == Some(source)
    }

    /// Writes a message in the place of what is there. A node that cannot write it down has said it in its log.
    pub fn say(&self, message: &str) {
        let Some(path) = &self.path else { return };
        if message.is_empty() {
            return;
        }
        if let Err(error) = write(path, message) {
            tracing::warn!(path = %path.display(), %error, "the container's last words were not written");
        }
    }
}

/// Whether a mount's source is a file that kubelet made for this very container: `pods/UID/containers/NAME/…`. The pod's author
/// may name other sources, and they are written to as root.
fn is_kubelets(source: &Path, pod: &str, container: &str) -> bool {
    let is_plain = source.is_absolute()
        && source
            .components()
            .skip(1)
            .all(|part| matches!(part, Component::Normal(_)));
    let expected = format!("pods/{pod}/containers/{container}");
    !pod.is_empty()
        && !container.is_empty()
        && is_plain
        && source
            .parent()
            .is_some_and(|folder| folder.ends_with(expected))
}

fn write(path: &Path, message: &str) -> io::Result<()> {
    let end = message.floor_char_boundary(LIMIT.min(message.len()));
    open_to_write(path)?.write_all(&message.as_bytes()[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: &Path) -> Spec {
        let json = serde_json::json!({
            "annotations": {
                "io.kubernetes.cri.sandbox-uid": "u-1",
                "io.kubernetes.cri.container-name": "agent",
            },
            "mounts": [
                {"destination": "/etc/hosts", "source": "/kubelet/pods/u-1/etc-hosts"},
                {"destination": "/dev/termination-log", "source": source},
            ],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_the_containers_own_file_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pods/u-1/containers/agent");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("1f2e");
        std::fs::write(&file, "what an earlier container said, and at more length").unwrap();
        let words = LastWords::of(&spec(&file));
        words.say("");
        assert!(std::fs::read_to_string(&file).unwrap().contains("earlier"));
        words.say("out of memory");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "out of memory");
        words.say(&"x".repeat(5000));
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 4096);
        for other in [
            "/kubelet/pods/u-2/containers/agent/1f2e",
            "/kubelet/pods/u-1/containers/other/1f2e",
            "/kubelet/pods/u-1/containers/agent/../../../x",
            "pods/u-1/containers/agent/1f2e",
        ] {
            assert_eq!(LastWords::of(&spec(Path::new(other))), LastWords::default());
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write(&link, "ours").is_err());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "theirs");
    }
}
