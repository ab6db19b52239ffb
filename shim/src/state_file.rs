//! What is written down beside a container: for `delete` after the shim died, which process; for containerd after its own
//! restart, which program is the shim.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process;

const NAME: &str = "hearth.json";
/// containerd's own file.
const SHIM_PATH: &str = "shim-binary-path";

/// The file in one container's bundle folder.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
}

/// A process that cannot be mistaken for another with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Process id.
    pub pid: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

impl Recorded {
    /// Whether this very process has not been reaped yet.
    pub fn is_there(&self) -> bool {
        process::start_time(self.pid) == Some(self.start_time)
    }
}

impl StateFile {
    /// The file for a bundle folder.
    pub fn in_bundle(bundle: &Path) -> Self {
        Self {
            path: bundle.join(NAME),
        }
    }

    /// Notes a process. A node that cannot write it down still runs it.
    pub fn write(&self, pid: u32) {
        let Some(start_time) = process::start_time(pid) else {
            return;
        };
        let write = || {
            let draft = self.path.with_extension("draft");
            std::fs::write(&draft, serde_json::to_vec(&Recorded { pid, start_time })?)?;
            std::fs::rename(&draft, &self.path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.path.display(), %error, "state file was not written");
        }
    }

    /// Forgets the process.
    pub fn clear(&self) {
        // containerd may have removed the folder already.
        let _ = std::fs::remove_file(&self.path);
    }

    /// The process that is noted, running or not: one that ended in the shim's life is not noted any more.
    pub fn noted(&self) -> Option<Recorded> {
        let text = std::fs::read(&self.path).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// Writes the shim's path beside a container, as it stands beside the sandbox. containerd 2 writes it there alone and, when it
/// was restarted, looks for it beside each container: it looks on PATH for the shim of one that lacks it, and gives up the
/// container when it is not there. <https://github.com/containerd/containerd/issues/10811>
pub fn note_shim(bundle: &Path, sandbox: &str) -> io::Result<()> {
    let note = bundle.join(SHIM_PATH);
    if note.exists() {
        return Ok(());
    }
    let sandbox = bundle.with_file_name(sandbox);
    std::fs::copy(sandbox.join(SHIM_PATH), note).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_process_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::in_bundle(dir.path());
        assert_eq!(file.noted(), None);
        file.write(std::process::id());
        let noted = file.noted().unwrap();
        assert!(noted.pid == std::process::id() && noted.is_there());
        let other = Recorded {
            pid: std::process::id(),
            start_time: 1,
        };
        std::fs::write(&file.path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(!file.noted().unwrap().is_there());
        file.clear();
        file.clear();
    }

    #[test]
    fn each_container_has_the_path_of_its_sandboxs_shim() {
        let dir = tempfile::tempdir().unwrap();
        let [sandbox, container] = ["sandbox", "container"].map(|name| dir.path().join(name));
        for folder in [&sandbox, &container] {
            std::fs::create_dir(folder).unwrap();
        }
        let path = |folder: &Path| std::fs::read_to_string(folder.join(SHIM_PATH)).unwrap();
        assert!(note_shim(&container, "sandbox").is_err());
        std::fs::write(sandbox.join(SHIM_PATH), "/opt/shim").unwrap();
        for folder in [&sandbox, &container] {
            note_shim(folder, "sandbox").unwrap();
            assert_eq!(path(folder), "/opt/shim");
        }
        // What is there is containerd's.
        std::fs::write(container.join(SHIM_PATH), "/opt/other").unwrap();
        note_shim(&container, "sandbox").unwrap();
        assert_eq!(path(&container), "/opt/other");
    }
}
