//! How long calls took, counted in buckets: the same ones in the engine's metrics, in reports and where they are read.

use std::time::Duration;

/// Upper bound of the first bucket.
pub const FIRST: Duration = Duration::from_micros(50);
/// Buckets with an upper bound, each twice the one before: 50 us to 26 s. What took longer is in one more.
pub const BUCKETS: usize = 20;

/// The bucket of a call that took `duration`, at most [`BUCKETS`].
pub fn bucket(duration: Duration) -> usize {
    let times = duration.as_nanos().div_ceil(FIRST.as_nanos()).max(1);
    (times.next_power_of_two().trailing_zeros() as usize).min(BUCKETS)
}

/// The `q`-quantile (0..=1) of counted calls: the upper bound of the bucket that it is in. `None` without a call. Of what took
/// longer than the last bound, twice that bound is said.
pub fn quantile(counts: &[u64], q: f64) -> Option<Duration> {
    let all: u64 = counts.iter().sum();
    let rank = ((all as f64 * q).ceil() as u64).clamp(1, all.max(1));
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    })?;
    Some(FIRST * (1 << bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_in_the_bucket_whose_bound_it_does_not_pass() {
        for (micros, expected) in [
            (0, 0),
            (50, 0),
            (51, 1),
            (100, 1),
            (101, 2),
            (26_214_400, 19),
            (26_214_401, 20),
            (100_000_000, 20),
        ] {
            assert_eq!(
                bucket(Duration::from_micros(micros)),
                expected,
                "{micros} us"
            );
        }
    }

    #[test]
    fn a_quantile_is_a_bound() {
        assert_eq!(quantile(&[], 0.99), None);
        assert_eq!(quantile(&[0, 0], 0.99), None);
        assert_eq!(quantile(&[99, 1], 0.99), Some(FIRST));
        assert_eq!(quantile(&[98, 0, 2], 0.99), Some(FIRST * 4));
        assert_eq!(quantile(&[1], 0.0), Some(FIRST));
    }
}
