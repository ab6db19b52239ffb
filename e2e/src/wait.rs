//! Waiting: always on a condition, always with a deadline, never blind.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Short, because benches wait with it too.
const POLL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives a value. What it last said instead stands in the error.
///
/// # Errors
/// When `deadline` passes, or at once when the condition itself fails.
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Seen<T>>>,
{
    let started = Instant::now();
    loop {
        let last = match condition().await? {
            Seen::Yes(value) => return Ok(value),
            Seen::NotYet(last) => last,
        };
        if started.elapsed() >= deadline {
            bail!("waited {deadline:?} for {what}; last seen: {last}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One look at a condition.
#[derive(Debug)]
pub enum Seen<T> {
    /// It holds.
    Yes(T),
    /// It does not hold yet; what there is instead.
    NotYet(String),
}

impl<T> Seen<T> {
    /// `Yes(value)` when `holds`, else what is there instead.
    pub fn when(holds: bool, value: T, instead: impl Into<String>) -> Self {
        if holds {
            Self::Yes(value)
        } else {
            Self::NotYet(instead.into())
        }
    }
}
