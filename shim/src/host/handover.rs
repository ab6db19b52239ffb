//! When an engine gives its place to one of a newer binary.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::engine::Predecessor;

/// How often the binary is looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How long a predecessor goes on at most when not every function came to serve in the new engine.
const BRIDGE: Duration = Duration::from_secs(120);

/// The engine's binary, which an installation replaces by another file of its name.
#[derive(Debug)]
pub(super) struct Binary {
    path: PathBuf,
    /// Pods of a node start the new engine at different times within so long.
    spread: Duration,
    look: Interval,
    runs: Option<File>,
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
}

impl Binary {
    /// The binary of an engine that is being started.
    pub(super) fn new(path: PathBuf, spread: Duration) -> Self {
        Self::looked_at(path, spread, LOOK)
    }

    fn looked_at(path: PathBuf, spread: Duration, every: Duration) -> Self {
        let mut look = interval(every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut binary = Self {
            path,
            spread,
            look,
            runs: None,
            due: None,
        };
        binary.started();
        binary
    }

    /// An engine was started: what is there now is what runs.
    pub(super) fn started(&mut self) {
        self.runs = self.file();
        self.due = None;
    }

    /// Returns when another file has taken the binary's place and the time for this pod has come; again and again until it
    /// [was started](Self::started). Can be dropped and called again.
    pub(super) async fn replaced(&mut self) {
        loop {
            self.look.tick().await;
            let file = self.file();
            if file.is_none() || file == self.runs {
                self.due = None;
                continue;
            }
            let now = Instant::now();
            let spread = self.spread;
            if *self.due.get_or_insert_with(|| now + part_of(spread)) <= now {
                return;
            }
        }
    }

    fn file(&self) -> Option<File> {
        let found = std::fs::metadata(&self.path).ok()?;
        Some(File {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

fn part_of(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    time.mul_f64((random % 1000) as f64 / 1000.0)
}

/// The engine before this one.
#[derive(Debug)]
pub(super) struct Before {
    /// `None` once it was let go.
    held: Option<Predecessor>,
    until: Instant,
}

impl Before {
    pub(super) fn new(held: Predecessor) -> Self {
        Self {
            held: Some(held),
            until: Instant::now() + BRIDGE,
        }
    }

    /// Lets it go: it takes no more calls.
    pub(super) fn let_go(&mut self) {
        self.held = None;
    }

    /// When it is let go in any case.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.held.is_some().then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_file_of_the_name_is_noticed_until_it_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine");
        std::fs::write(&path, "one").unwrap();
        let look = Duration::from_millis(1);
        let mut binary = Binary::looked_at(path.clone(), 10 * look, look);
        let soon = 50 * look;
        assert!(tokio::time::timeout(soon, binary.replaced()).await.is_err());
        let staged = dir.path().join("staged");
        std::fs::write(&staged, "two").unwrap();
        std::fs::rename(&staged, &path).unwrap();
        // A machine that compiles beside may be late.
        let late = Duration::from_secs(60);
        for _ in 0..2 {
            tokio::time::timeout(late, binary.replaced()).await.unwrap();
        }
        binary.started();
        assert!(tokio::time::timeout(soon, binary.replaced()).await.is_err());
        // While it is being replaced there may be none.
        std::fs::remove_file(&path).unwrap();
        assert!(tokio::time::timeout(soon, binary.replaced()).await.is_err());
    }
}
