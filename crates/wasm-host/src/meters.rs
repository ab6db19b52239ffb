//! Where calls and instances are counted: a function's own, and those of the code that it loads, all of it together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hearth_contract::{FunctionKey, Outcome, StartKind, latency, proto};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::metrics::Metrics;

/// Ended calls since the process started, by outcome and start and by how long they took. Outlives a change of the
/// function's generation.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [[AtomicU64; StartKind::ALL.len()]; Outcome::ALL.len()],
    durations: [AtomicU64; latency::BUCKETS + 1],
}

impl Tally {
    fn count(&self, outcome: Outcome, start: StartKind, duration: Duration) {
        self.counts[outcome as usize][start as usize].fetch_add(1, Ordering::Relaxed);
        self.durations[latency::bucket(duration)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn durations(&self) -> Vec<u64> {
        let counts = self
            .durations
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let mut counts: Vec<_> = counts.collect();
        while counts.pop_if(|last| *last == 0).is_some() {}
        counts
    }

    pub(crate) fn report(&self) -> Vec<proto::CallCount> {
        let mut calls = Vec::new();
        for outcome in Outcome::ALL {
            for start in StartKind::ALL {
                let count = self.counts[*outcome as usize][*start as usize].load(Ordering::Relaxed);
                if count > 0 {
                    let (outcome, start) = (outcome.as_str().to_owned(), start.as_str().to_owned());
                    calls.push(proto::CallCount {
                        outcome,
                        start,
                        count,
                    });
                }
            }
        }
        calls
    }
}

/// Handles of the metrics of one function. Looking one up by its labels takes longer than counting.
pub(crate) struct Meters {
    key: FunctionKey,
    pub(crate) warm: IntGauge,
    pub(crate) in_use: IntGauge,
    pub(crate) queued: IntGauge,
    pub(crate) refill_failures: IntCounter,
    pub(crate) tally: Arc<Tally>,
    all_calls: IntCounterVec,
    all_durations: HistogramVec,
    calls: [[OnceLock<IntCounter>; StartKind::ALL.len()]; Outcome::ALL.len()],
    durations: [OnceLock<Histogram>; StartKind::ALL.len()],
}

impl Meters {
    /// Those of a function itself.
    pub(crate) fn of_function(metrics: &Metrics, key: &FunctionKey, tally: Arc<Tally>) -> Self {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        let instances = |state| {
            let labels = [labels[0], labels[1], state];
            metrics.instances.with_label_values(&labels)
        };
        Self {
            key: key.clone(),
            warm: instances("warm"),
            in_use: instances("in_use"),
            queued: metrics.queued.with_label_values(&labels),
            refill_failures: metrics.refill_failures.with_label_values(&labels),
            tally,
            all_calls: metrics.calls.clone(),
            all_durations: metrics.duration.clone(),
            calls: Default::default(),
            durations: Default::default(),
        }
    }

    /// Those of the code that a function loads.
    pub(crate) fn of_loaded(metrics: &Metrics, key: &FunctionKey) -> Self {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        let instances = |state| {
            let labels = [labels[0], labels[1], state];
            metrics.loaded_instances.with_label_values(&labels)
        };
        Self {
            warm: instances("warm"),
            in_use: instances("in_use"),
            all_calls: metrics.loaded_calls.clone(),
            all_durations: metrics.loaded_duration.clone(),
            ..Self::of_function(metrics, key, Arc::default())
        }
    }

    /// Counts an ended call.
    pub(crate) fn count(&self, outcome: Outcome, start: StartKind, duration: Duration) {
        let (namespace, name) = (self.key.namespace.as_str(), self.key.name.as_str());
        self.calls[outcome as usize][start as usize]
            .get_or_init(|| {
                let labels = [namespace, name, outcome.as_str(), start.as_str()];
                self.all_calls.with_label_values(&labels)
            })
            .inc();
        self.durations[start as usize]
            .get_or_init(|| {
                let labels = [namespace, name, start.as_str()];
                self.all_durations.with_label_values(&labels)
            })
            .observe(duration.as_secs_f64());
        self.tally.count(outcome, start, duration);
    }
}
