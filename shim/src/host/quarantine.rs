//! Which function engines die of, and for how long it is kept away from them. Pure: times come from outside.
//!
//! Each crash is a strike for every function whose code a thread was in. The one that engines die of is among them each
//! time, and the others by chance, so soon it has more strikes than any other: with [`STRIKES`] of them it is kept away,
//! and the others run on. It is tried again after a pause; one more crash then doubles the pause.

use std::time::Duration;

use tokio::time::Instant;

/// So many crashes are no accident.
const STRIKES: u32 = 3;
/// When functions are alike, each of them is kept away after so many: they run in each other's company only.
const STRIKES_OF_SEVERAL: u32 = 6;
/// Shortest and longest time for which a function is kept away.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// A function of which no engine died for so long begins anew.
const FORGIVEN: Duration = Duration::from_secs(600);

/// What is held against one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Record {
    strikes: u32,
    /// How often it was kept away.
    stays: u32,
    /// When it may be forgotten.
    until: Option<Instant>,
}

impl Record {
    /// An engine crashed while it was in the function's code.
    pub(super) fn strike(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Self::default();
        }
        self.strikes += 1;
        if self.stays > 0 {
            // It was tried again, and this is what came of it.
            self.strikes = self.strikes.max(STRIKES);
        }
        self.until = Some(now + FORGIVEN);
    }

    /// Crashes that are held against it.
    pub(super) fn strikes(&self) -> u32 {
        self.strikes
    }

    /// It is kept away: for how long.
    pub(super) fn keep_away(&mut self, now: Instant) -> Duration {
        let pause = (PAUSE.0 * 2u32.pow(self.stays.min(16))).min(PAUSE.1);
        self.stays += 1;
        self.strikes = 0;
        self.until = Some(now + pause + FORGIVEN);
        pause
    }
}

/// Those of the functions that an engine was in when it crashed which are to be kept away, by what is held against them.
pub(super) fn guilty<T: Clone>(suspects: &[(T, Record)]) -> Vec<T> {
    let most = suspects.iter().map(|(_, record)| record.strikes).max();
    let most = most.unwrap_or_default();
    let with_most = suspects.iter().filter(|(_, record)| record.strikes == most);
    let names: Vec<T> = with_most.map(|(name, _)| name.clone()).collect();
    let enough = match names.len() {
        1 => STRIKES,
        _ => STRIKES_OF_SEVERAL,
    };
    if most >= enough { names } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Crashes one after the other, each with the functions that ran then: who is kept away after which.
    fn check(crashes: &[&str], expected: &[(usize, &str)]) {
        let now = Instant::now();
        let mut records: BTreeMap<char, Record> = BTreeMap::new();
        let mut kept = Vec::new();
        for (at, running) in crashes.iter().enumerate() {
            let mut suspects = Vec::new();
            for name in running.chars() {
                let record = records.entry(name).or_default();
                record.strike(now);
                suspects.push((name, *record));
            }
            let names = guilty(&suspects);
            for name in &names {
                records.get_mut(name).unwrap().keep_away(now);
            }
            if !names.is_empty() {
                kept.push((at + 1, names.into_iter().collect::<String>()));
            }
        }
        let expected: Vec<_> = expected
            .iter()
            .map(|(at, names)| (*at, (*names).to_owned()))
            .collect();
        assert_eq!(kept, expected, "{crashes:?}");
    }

    #[test]
    fn the_one_that_is_always_there_is_kept_away() {
        check(&["p", "p"], &[]);
        check(&["p", "p", "p"], &[(3, "p")]);
        check(&["pa", "pb", "pa"], &[(3, "p")]);
        check(&["pa", "pa", "p"], &[(3, "p")]);
        check(&["", "p", "", "p", "p"], &[(5, "p")]);
        check(&["ab", "cd", "ef"], &[]);
    }

    #[test]
    fn those_that_cannot_be_told_apart_are_kept_away_later() {
        check(&["pa"; 5], &[]);
        check(&["pa", "pa", "pa", "p"], &[(4, "p")]);
        check(&["ap"; 6], &[(6, "ap")]);
    }

    #[test]
    fn one_crash_is_enough_for_one_that_comes_back() {
        check(&["p", "p", "p", "p", "pa"], &[(3, "p"), (4, "p"), (5, "p")]);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_time_forgives() {
        let now = Instant::now();
        let mut record = Record::default();
        let pauses: Vec<_> = (0..8).map(|_| record.keep_away(now).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        let mut late = record;
        late.strike(now + PAUSE.1 + FORGIVEN);
        assert_eq!((late.strikes(), late.stays), (1, 0));
        record.strike(now + PAUSE.1 + FORGIVEN - Duration::from_secs(1));
        assert_eq!(record.strikes(), STRIKES);
    }
}
