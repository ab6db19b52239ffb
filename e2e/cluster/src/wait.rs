//! Waiting: always for a condition, always with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What a look at the world found.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds.
    Done(T),
    /// Not yet, and why: the reason is in the error when the deadline passes.
    NotYet(String),
}

/// Looks every `poll` until the condition holds.
///
/// # Errors
/// When a look fails, or when the condition does not hold within `deadline`.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    poll: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look()? {
            Look::Done(value) => return Ok(value),
            Look::NotYet(why) if Instant::now() >= end => {
                bail!("waited {:.0} s for {what}: {why}", deadline.as_secs_f64())
            }
            Look::NotYet(_) => std::thread::sleep(poll),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_condition_or_with_the_reason() {
        let mut looks = 0;
        let waited = wait_for("three", Duration::from_secs(5), Duration::ZERO, || {
            looks += 1;
            Ok(if looks == 3 {
                Look::Done(looks)
            } else {
                Look::NotYet("counting".to_owned())
            })
        });
        assert_eq!(waited.unwrap(), 3);
        let late = wait_for("never", Duration::ZERO, Duration::ZERO, || {
            Ok(Look::<()>::NotYet("it is shut".to_owned()))
        });
        assert!(late.unwrap_err().to_string().contains("it is shut"));
    }
}
