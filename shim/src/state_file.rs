//! What is written down beside a container, for `delete` after the shim died: which process, which control group.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process;

const NAME: &str = "hearth.json";

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

    /// The process that is noted and still runs.
    pub fn running(&self) -> Option<Recorded> {
        let text = std::fs::read(&self.path).ok()?;
        let recorded: Recorded = serde_json::from_slice(&text).ok()?;
        (process::start_time(recorded.pid) == Some(recorded.start_time)).then_some(recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_process_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::in_bundle(dir.path());
        assert_eq!(file.running(), None);
        file.write(std::process::id());
        assert_eq!(file.running().unwrap().pid, std::process::id());
        let other = Recorded {
            pid: std::process::id(),
            start_time: 1,
        };
        std::fs::write(&file.path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(file.running(), None);
        file.clear();
        file.clear();
    }
}
