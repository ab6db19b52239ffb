//! Progress for people: one line a step, with the time since the start.

use std::time::{Duration, Instant};

/// Prints steps.
#[derive(Debug)]
pub struct Steps {
    start: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Steps {
    /// Says what begins now.
    pub fn step(&self, what: impl AsRef<str>) {
        println!(
            "[{:>6.1} s] {}",
            self.elapsed().as_secs_f64(),
            what.as_ref()
        );
    }

    /// Time since the first step.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
