//! How often status is written that says the same in other numbers.
//!
//! A busy function has another number of warm instances many times a second, and everybody who watches would be told each
//! time. So numbers wait for their turn: a few are written at once, then one now and then, for each object and for all
//! together. What waits is not lost: the pass that has its turn writes what is true then. What changes the meaning of a status
//! does not wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Writes of one object that need not wait for each other, and the time that brings back one of them.
const OF_ONE: Rate = Rate {
    burst: 5,
    every: Duration::from_secs(5),
};
/// The same for all objects of a kind together.
const OF_ALL: Rate = Rate {
    burst: 200,
    every: Duration::from_millis(20),
};
/// Objects that are remembered before those are forgotten that have nothing to wait for.
const MANY: usize = 4096;

/// At most `burst` at once, and one more after each `every`.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

impl Rate {
    /// When the next may be, where what was let through reaches up to `full`.
    fn next(self, full: Instant, now: Instant) -> Instant {
        let ahead = self.every * (self.burst - 1);
        full.checked_sub(ahead).map_or(now, |next| next.max(now))
    }
}

/// One object.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Up to when its writes count.
    full: Instant,
    /// When it may write, where it was told to wait.
    due: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    /// Up to when the writes of all count.
    full: Option<Instant>,
    turns: HashMap<String, Turn>,
}

/// Whose turn it is, by UID. Each object that waits has a place of its own, so that thousands of them do not come back at one
/// time, and each is served.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

impl Pace {
    /// Whether an object may be written now.
    ///
    /// # Errors
    /// How long it has to wait; the place is kept for it.
    pub(crate) fn take(&self, uid: &str, now: Instant) -> Result<(), Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { full, turns } = &mut *state;
        if turns.len() >= MANY && !turns.contains_key(uid) {
            turns.retain(|_, turn| turn.full > now);
        }
        let turn = turns.entry(uid.to_owned()).or_insert(Turn {
            full: now,
            due: None,
        });
        let due = match turn.due.take() {
            Some(due) => due,
            None => {
                let of_all = full.unwrap_or(now);
                let due = OF_ONE.next(turn.full, now).max(OF_ALL.next(of_all, now));
                turn.full = turn.full.max(due) + OF_ONE.every;
                *full = Some(of_all.max(due) + OF_ALL.every);
                due
            }
        };
        if due <= now {
            return Ok(());
        }
        turn.due = Some(due);
        Err(due - now)
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.turns.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_at_once_and_then_one_now_and_then() {
        let (pace, start) = (Pace::default(), Instant::now());
        let written = (0..600).filter(|tenth| {
            let now = start + Duration::from_millis(tenth * 100);
            pace.take("a", now).is_ok()
        });
        // Five, and one in each five seconds of the minute.
        assert_eq!(written.count(), 5 + 11);
        assert_eq!(pace.take("b", start + Duration::from_secs(60)), Ok(()));
        pace.forget("a");
        assert_eq!(pace.take("a", start + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn who_waits_has_a_place_and_comes_back_once() {
        let (pace, start) = (Pace::default(), Instant::now());
        let names: Vec<_> = (0..1200).map(|index| index.to_string()).collect();
        let wait = |name: &String| Some((name.clone(), pace.take(name, start).err()?));
        let waits: Vec<_> = names.iter().filter_map(wait).collect();
        assert_eq!(waits.len(), 1000);
        assert!(waits.is_sorted_by_key(|(_, wait)| *wait));
        assert_eq!(waits[999].1, Duration::from_secs(20));
        let mut waits = waits.into_iter();
        assert!(waits.all(|(name, wait)| pace.take(&name, start + wait).is_ok()));
    }

    proptest! {
        #[test]
        fn no_time_sees_more_than_its_share(
            steps in prop::collection::vec((0usize..40, 0u64..2000), 1..800),
        ) {
            let (pace, start) = (Pace::default(), Instant::now());
            let (mut now, mut all) = (start, Vec::new());
            for (object, millis) in steps {
                now += Duration::from_millis(millis / 40);
                if pace.take(&object.to_string(), now).is_ok() {
                    all.push((object, now));
                }
            }
            // A place that was kept may be taken late, and each object has one at most.
            let holds = |times: &[Instant], rate: Rate, late: usize| {
                times.iter().enumerate().all(|(first, from)| {
                    times[first..].iter().zip(1usize..).all(|(to, count)| {
                        let passed = (*to - *from).as_secs_f64() / rate.every.as_secs_f64();
                        count as f64 <= f64::from(rate.burst) + passed + late as f64
                    })
                })
            };
            let times: Vec<_> = all.iter().map(|(_, at)| *at).collect();
            prop_assert!(holds(&times, OF_ALL, 40));
            for object in 0..40 {
                let of_one = all.iter().filter(|(of, _)| *of == object);
                let of_one: Vec<_> = of_one.map(|(_, at)| *at).collect();
                prop_assert!(holds(&of_one, OF_ONE, 1));
            }
        }
    }
}
