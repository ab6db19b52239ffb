//! What calls of each function do, over the last seconds: what autoscalers are shown.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_contract::{StartKind, latency, proto};

/// Ticks between two entries of the past.
const STRIDE: u64 = 3;
/// Entries of the past: together with [`STRIDE`], what a reading looks back at.
const PAST: usize = 5;
/// A window that a reading looks at is not longer than this.
pub(crate) const WINDOW: Duration = Duration::from_secs(STRIDE * PAST as u64);

/// What happened between two looks at a function in one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Calls that ended.
    pub(crate) calls: u64,
    /// Those of them for which no warm instance waited.
    pub(crate) non_hits: u64,
    /// Calls that ended, by how long they took.
    pub(crate) durations: Vec<u64>,
    /// Calls that came.
    pub(crate) came: u64,
    /// The most calls that came between two reports.
    pub(crate) burst: u64,
    /// The most calls that ran at once.
    pub(crate) in_use: u32,
}

impl Counted {
    /// Takes up a report that follows another. An engine that was started anew counts from zero.
    pub(crate) fn add(&mut self, before: &proto::FunctionReport, now: &proto::FunctionReport) {
        let is_anew = ended(now) < ended(before);
        let came = match is_anew {
            true => ended(now) + inside(now),
            // The numbers of one report are not read at one instant.
            false => (ended(now) + inside(now)).saturating_sub(ended(before) + inside(before)),
        };
        self.calls += more(ended(before), ended(now));
        self.non_hits += more(non_hits(before), non_hits(now));
        self.came += came;
        self.burst = self.burst.max(came);
        self.in_use = self.in_use.max(now.in_use);
        if self.durations.len() < now.durations.len() {
            self.durations.resize(now.durations.len(), 0);
        }
        for (index, count) in now.durations.iter().enumerate() {
            let before = before.durations.get(index).copied().unwrap_or(0);
            self.durations[index] += more(before, *count);
        }
    }
}

fn more(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn ended(report: &proto::FunctionReport) -> u64 {
    report.calls.iter().map(|calls| calls.count).sum()
}

/// Calls that came and have not ended.
fn inside(report: &proto::FunctionReport) -> u64 {
    u64::from(report.in_use) + u64::from(report.queued)
}

fn non_hits(report: &proto::FunctionReport) -> u64 {
    let calls = report.calls.iter();
    let others = calls.filter(|calls| calls.start != StartKind::Hit.as_str());
    others.map(|calls| calls.count).sum()
}

/// A function in one pod at a tick.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Since the tick before.
    pub(crate) counted: Counted,
    /// Calls that run now.
    pub(crate) in_use: u32,
    /// Calls that wait now.
    pub(crate) queued: u32,
}

/// Sums since a function was first called.
#[derive(Debug, Clone, Default)]
struct Sums {
    seconds: f64,
    calls: u64,
    non_hits: u64,
    durations: [u64; latency::BUCKETS + 1],
    /// Seconds that calls ran, all calls together.
    in_use: f64,
    /// Seconds that calls waited, all calls together.
    queued: f64,
}

#[derive(Debug, Default)]
struct Metered {
    sums: Sums,
    past: VecDeque<Sums>,
    /// Ticks without a call.
    quiet: u64,
}

/// What an autoscaler is shown of a function. All over [`WINDOW`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Reading {
    /// Calls that ran at once, on average.
    pub(crate) in_flight: f64,
    /// Calls that waited for a place at once, on average.
    pub(crate) queued: f64,
    /// Calls that ended, per second.
    pub(crate) calls_per_second: f64,
    /// Share (0..=1) of calls for which no warm instance waited.
    pub(crate) non_hit_share: f64,
    /// 99 of 100 calls took no longer, in seconds.
    pub(crate) p99: f64,
}

/// A metric: its name, what it says, where it stands in a reading.
pub(crate) type Metric = (&'static str, &'static str, fn(&Reading) -> f64);

/// The metrics that autoscalers and Prometheus read. The names are a contract with users.
pub(crate) const METRICS: [Metric; 5] = [
    (
        "hearth_in_flight",
        "Calls that run at once, on average over 15 s",
        |reading| reading.in_flight,
    ),
    (
        "hearth_queued",
        "Calls that wait for a place at once, on average over 15 s",
        |reading| reading.queued,
    ),
    (
        "hearth_calls_per_second",
        "Calls that end, per second, over 15 s",
        |reading| reading.calls_per_second,
    ),
    (
        "hearth_non_hit_share",
        "Share of calls, 0 to 1, for which nothing warm waited, over 15 s",
        |reading| reading.non_hit_share,
    ),
    (
        "hearth_p99_seconds",
        "99 of 100 calls take no longer, over 15 s",
        |reading| reading.p99,
    ),
];

/// Sums of functions that were called lately, by UID.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    state: Mutex<(u64, HashMap<String, Metered>)>,
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<String, Metered>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what happened in the `seconds` since the tick before, by function and pod.
    pub(crate) fn tick<'a>(
        &self,
        seconds: f64,
        ticks: impl IntoIterator<Item = (&'a str, &'a Tick)>,
    ) {
        let mut state = self.lock();
        let (number, functions) = &mut *state;
        *number += 1;
        for (uid, tick) in ticks {
            let metered = match functions.get_mut(uid) {
                Some(metered) => metered,
                None => functions.entry(uid.to_owned()).or_insert_with(|| Metered {
                    // Until the window is full, it reaches back to the first call.
                    past: VecDeque::from([Sums::default()]),
                    ..Metered::default()
                }),
            };
            metered.quiet = 0;
            let sums = &mut metered.sums;
            sums.calls += tick.counted.calls;
            sums.non_hits += tick.counted.non_hits;
            sums.in_use += f64::from(tick.in_use) * seconds;
            sums.queued += f64::from(tick.queued) * seconds;
            for (sum, count) in sums.durations.iter_mut().zip(&tick.counted.durations) {
                *sum += count;
            }
        }
        for metered in functions.values_mut() {
            metered.quiet += 1;
            metered.sums.seconds += seconds;
            if number.is_multiple_of(STRIDE) {
                metered.past.push_back(metered.sums.clone());
                if metered.past.len() > PAST {
                    metered.past.pop_front();
                }
            }
        }
        // What is not there reads as zero.
        functions.retain(|_, metered| metered.quiet <= STRIDE * (PAST as u64 + 1));
    }

    /// What a function does.
    pub(crate) fn read(&self, uid: &str) -> Reading {
        let state = self.lock();
        let Some(metered) = state.1.get(uid) else {
            return Reading::default();
        };
        let (now, nothing) = (&metered.sums, Sums::default());
        let then = metered.past.front().unwrap_or(&nothing);
        let seconds = now.seconds - then.seconds;
        if seconds <= 0.0 {
            return Reading::default();
        }
        let calls = (now.calls - then.calls) as f64;
        let durations: Vec<_> = now
            .durations
            .iter()
            .zip(then.durations)
            .map(|(now, then)| now - then)
            .collect();
        let p99 = latency::quantile(&durations, 0.99);
        Reading {
            in_flight: (now.in_use - then.in_use) / seconds,
            queued: (now.queued - then.queued) / seconds,
            calls_per_second: calls / seconds,
            non_hit_share: (now.non_hits - then.non_hits) as f64 / calls.max(1.0),
            p99: p99.map_or(0.0, |p99| p99.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(hits: u64, others: u64, in_use: u32, durations: &[u64]) -> proto::FunctionReport {
        let calls = |start: &str, count| proto::CallCount {
            outcome: "answered".to_owned(),
            start: start.to_owned(),
            count,
        };
        proto::FunctionReport {
            calls: vec![calls("hit", hits), calls("instantiate", others)],
            in_use,
            durations: durations.to_vec(),
            ..proto::FunctionReport::default()
        }
    }

    #[test]
    fn reports_are_counted_from_one_to_the_next() {
        let mut counted = Counted::default();
        counted.add(&report(5, 1, 0, &[6]), &report(8, 2, 3, &[6, 4]));
        counted.add(&report(8, 2, 3, &[6, 4]), &report(9, 2, 1, &[7, 4]));
        // The engine was started anew.
        counted.add(&report(9, 2, 1, &[7, 4]), &report(2, 0, 1, &[2]));
        let expected = Counted {
            calls: 7,
            non_hits: 1,
            durations: vec![3, 4],
            came: 10,
            burst: 7,
            in_use: 3,
        };
        assert_eq!(counted, expected);
    }

    fn tick(calls: u64, non_hits: u64, in_use: u32) -> Tick {
        Tick {
            counted: Counted {
                calls,
                non_hits,
                durations: vec![0, calls],
                ..Counted::default()
            },
            in_use,
            queued: 1,
        }
    }

    #[test]
    fn a_steady_load_reads_as_it_is() {
        let meter = Meter::default();
        assert_eq!(meter.read("f"), Reading::default());
        for second in 0..60 {
            // Of two pods.
            meter.tick(1.0, [("f", &tick(30, 0, 2)), ("f", &tick(10, 4, 1))]);
            let expected = Reading {
                in_flight: 3.0,
                queued: 2.0,
                calls_per_second: 40.0,
                non_hit_share: 0.1,
                p99: 100e-6,
            };
            let read = meter.read("f");
            assert!(
                (read.p99 - expected.p99).abs() < 1e-9,
                "{read:?} at {second}"
            );
            assert_eq!(
                Reading {
                    p99: expected.p99,
                    ..read
                },
                expected,
                "at {second}"
            );
        }
        assert_eq!(meter.read("g"), Reading::default());
    }

    #[test]
    fn what_ended_is_forgotten_after_the_window() {
        let meter = Meter::default();
        meter.tick(1.0, [("f", &tick(15, 0, 3))]);
        for _ in 1..WINDOW.as_secs() + STRIDE {
            meter.tick(1.0, []);
        }
        assert_eq!(meter.read("f"), Reading::default());
        assert!(!meter.lock().1.is_empty());
        meter.tick(1.0, []);
        assert!(meter.lock().1.is_empty());
    }
}
