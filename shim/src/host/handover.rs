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

/// Shortest and longest pause before a new binary that could not be started is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// The engine's binary, which an installation replaces by another file of its name.
#[derive(Debug)]
pub(super) struct Binary {
    path: PathBuf,
    /// Pods of a node start the new engine at different times within so long.
    spread: Duration,
    look: Interval,
    /// What the engine runs that is up.
    runs: Option<File>,
    /// What shall take its place.
    next: Option<Next>,
    /// What is being started beside it.
    tried: Option<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
}

/// Another file of the name, and when it is to be started.
#[derive(Debug, Clone, Copy)]
struct Next {
    file: File,
    due: Instant,
    /// How often it could not be started.
    failures: u32,
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
            next: None,
            tried: None,
        };
        binary.started();
        binary
    }

    /// An engine was started alone: what is there now is what runs.
    pub(super) fn started(&mut self) {
        self.runs = self.file();
        self.next = None;
        self.tried = None;
    }

    /// What is there now is being started beside the engine that runs: until it [took over](Self::took_over) or
    /// [failed](Self::failed) nothing else is.
    pub(super) fn is_tried(&mut self) {
        self.tried = self.file();
    }

    /// What was tried runs. A file that came meanwhile is another one.
    pub(super) fn took_over(&mut self) {
        self.runs = self.tried.take().or_else(|| self.file());
    }

    /// What was tried could not be started: after which pause it is tried again. Another file that takes its place meanwhile
    /// does not wait.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let tried = self.tried.take();
        let Some(next) = self.next.as_mut().filter(|next| Some(next.file) == tried) else {
            return Duration::ZERO;
        };
        let pause = (AGAIN.0 * 2u32.pow(next.failures.min(16))).min(AGAIN.1);
        next.failures += 1;
        next.due = now + pause;
        pause
    }

    /// Returns when another file has taken the binary's place and the time for this pod has come; again and again until it
    /// [is tried](Self::is_tried). Can be dropped and called again.
    pub(super) async fn replaced(&mut self) {
        loop {
            self.look.tick().await;
            if self.tried.is_none() && self.is_due(Instant::now()) {
                return;
            }
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let found = self.file().filter(|file| Some(*file) != self.runs);
        let spread = self.spread;
        self.next = found.map(|file| {
            let known = self.next.filter(|next| next.file == file);
            known.unwrap_or_else(|| Next {
                file,
                due: now + part_of(spread),
                failures: 0,
            })
        });
        self.next.is_some_and(|next| next.due <= now)
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

    #[tokio::test]
    async fn what_cannot_be_started_is_tried_again_after_pauses_that_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine");
        // Open, as what runs is: else its number goes to the next file but one.
        let mut open = Vec::new();
        let mut install = |text: &str| {
            let staged = dir.path().join("staged");
            std::fs::write(&staged, text).unwrap();
            open.push(std::fs::File::open(&staged).unwrap());
            std::fs::rename(&staged, &path).unwrap();
        };
        install("one");
        let mut binary = Binary::looked_at(path.clone(), Duration::ZERO, LOOK);
        let mut now = Instant::now();
        install("two");
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            assert!(binary.is_due(now));
            binary.is_tried();
            let pause = binary.failed(now);
            assert_eq!(pause.as_secs(), expected);
            assert!(!binary.is_due(now + pause - Duration::from_millis(1)));
            now += pause;
        }
        // One that is installed in its place does not wait, and begins anew.
        binary.is_tried();
        binary.failed(now);
        install("three");
        assert!(binary.is_due(now));
        binary.is_tried();
        assert_eq!(binary.failed(now).as_secs(), 10);
        // One that is installed while another is tried is due when that runs.
        binary.is_tried();
        install("four");
        binary.took_over();
        assert!(binary.is_due(now));
        binary.is_tried();
        binary.took_over();
        assert!(!binary.is_due(now));
    }
}
