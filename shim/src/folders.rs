//! The volumes of a plain container as folders that its guest may open: opened here, as root, and passed on as descriptors.
//! What the guest does in them it does with the rights of the container's user and groups.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_contract::channel::PACKET_DESCRIPTORS;
use rustix::fs::OFlags;

use crate::last_words::LastWords;
use crate::spec::{Mount, Spec};

/// Most folders of one container: they travel with a function's artifact, socket and logs.
pub const MOST: usize = PACKET_DESCRIPTORS - 4;

/// What every container is given, by container runtime or kubelet, and no guest needs: devices and the kernel's own.
const SYSTEMS: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Files that every container is given. What they say reaches guests by other ways.
const FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// A folder that a guest finds open.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Where the guest sees it.
    pub path: String,
    /// Whether it may change what is in it.
    pub writable: bool,
    /// The folder, only to be opened from.
    pub descriptor: Arc<OwnedFd>,
}

/// A volume that a guest cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file, not a folder.
    #[error(
        "volumeMount {0} is a single file (subPath), and a guest is given folders; mount the volume's folder instead"
    )]
    File(PathBuf),
    /// A path that is no text.
    #[error("volumeMount {0:?} has a path that is not UTF-8")]
    NoText(PathBuf),
    /// It is not there, or not for us.
    #[error("volumeMount {path} cannot be opened: {source}")]
    Open {
        /// Where the guest would see it.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More than travel together.
    #[error("{0} volumeMounts are more than the {MOST} that one container can have")]
    TooMany(usize),
}

/// Opens what a container's specification mounts.
pub fn of_container(spec: &Spec) -> Result<Vec<Folder>, FolderError> {
    let last_words = LastWords::of(spec);
    let mounts = spec
        .mounts
        .iter()
        .filter(|mount| is_volume(mount) && !last_words.is_in(&mount.source));
    let folders: Vec<_> = mounts.map(open).collect::<Result<_, _>>()?;
    match folders.len() {
        0..=MOST => Ok(folders),
        many => Err(FolderError::TooMany(many)),
    }
}

/// Whether somebody chose to mount it.
fn is_volume(mount: &Mount) -> bool {
    let path = &mount.destination;
    mount.is_bind()
        && !SYSTEMS.iter().any(|system| path.starts_with(system))
        && !FILES.iter().any(|file| path == Path::new(file))
}

fn open(mount: &Mount) -> Result<Folder, FolderError> {
    let path = mount.destination.clone();
    let opened = File::options()
        .read(true)
        .custom_flags((OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed())
        .open(&mount.source);
    let descriptor = match opened {
        Ok(folder) => Arc::new(OwnedFd::from(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(FolderError::File(path));
        }
        Err(source) => return Err(FolderError::Open { path, source }),
    };
    let Some(text) = path.to_str() else {
        return Err(FolderError::NoText(path));
    };
    Ok(Folder {
        path: text.to_owned(),
        writable: !mount.is_read_only(),
        descriptor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mounts(mounts: Value) -> Result<Vec<Folder>, FolderError> {
        let spec = json!({
            "annotations": {
                "io.kubernetes.cri.sandbox-uid": "u-1",
                "io.kubernetes.cri.container-name": "agent",
            },
            "mounts": mounts,
        });
        of_container(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn volumes_are_opened_and_what_every_container_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let words = "/kubelet/pods/u-1/containers/agent/1f2e";
        let found = mounts(json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev/shm", "type": "bind", "source": "/none/shm", "options": ["rbind"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/none/hosts"},
            {"destination": "/var/why", "type": "bind", "source": words},
            {"destination": "/config", "type": "bind", "source": volume, "options": ["rbind", "ro"]},
            {"destination": "/scratch", "type": "bind", "source": volume, "options": ["rbind", "rw"]},
        ]))
        .unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|folder| (folder.path.as_str(), folder.writable))
            .collect();
        assert_eq!(found, [("/config", false), ("/scratch", true)]);
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.conf");
        std::fs::write(&file, "").unwrap();
        let bind = |source: &Path| json!({"destination": "/etc/app.conf", "type": "bind", "source": source});
        let file = mounts(json!([bind(&file)])).unwrap_err().to_string();
        assert!(file.contains("/etc/app.conf is a single file"), "{file}");
        let gone = mounts(json!([bind(Path::new("/none/x"))]));
        let gone = gone.unwrap_err().to_string();
        assert!(gone.contains("cannot be opened"), "{gone}");
        let many = vec![bind(dir.path()); MOST + 1];
        assert!(matches!(mounts(json!(many)), Err(FolderError::TooMany(_))));
    }
}
