//! Growing pauses per object: kube-rs repeats at a flat rate by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The first pause after a failure.
const FIRST: Duration = Duration::from_secs(1);
/// Pauses double up to this.
const LONGEST: Duration = Duration::from_secs(300);

/// Failures in a row, per object. An entry goes when its object succeeds or is deleted.
#[derive(Debug, Default)]
pub(crate) struct Retries(Mutex<HashMap<String, u32>>);

impl Retries {
    /// One more failure: how long to wait.
    pub(crate) fn next(&self, uid: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        // A tenth more or less, by the object, so that objects that failed together do not come back together.
        let jitter = uid.bytes().fold(*count, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        }) % 21;
        FIRST.saturating_mul(1 << (*count - 1).min(16)).min(LONGEST) * (90 + jitter) / 100
    }

    /// It worked.
    pub(crate) fn reset(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_start_anew() {
        let retries = Retries::default();
        let pauses: Vec<_> = (0..12).map(|_| retries.next("a")).collect();
        assert!(pauses[0] < Duration::from_millis(1101) && pauses[0] >= Duration::from_millis(900));
        assert!(pauses[4] > pauses[2] * 2);
        assert!(pauses[11] <= LONGEST * 11 / 10 && pauses[11] >= LONGEST * 9 / 10);
        retries.reset("a");
        assert!(retries.next("a") < Duration::from_millis(1101));
    }
}
