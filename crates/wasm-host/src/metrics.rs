//! Every metric of the data plane, named once. Labels are closed lists, besides namespace and function.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_contract::proto::Placement;
use hearth_contract::{FunctionKey, Outcome, StartKind, latency};
use prometheus::{
    GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets, histogram_opts,
};

use crate::capability::loader::Reason;
use crate::limits::MemoryBudget;

/// How long the counters of a function that is gone stay: scrapers that look once a minute have its last increases.
const LINGER: Duration = Duration::from_secs(300);

/// The data plane's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Since when functions are gone, by namespace and name, until their counters go.
    gone: Arc<Mutex<HashMap<(String, String), Instant>>>,
    budget: Arc<MemoryBudget>,
    pub(crate) calls: IntCounterVec,
    pub(crate) duration: HistogramVec,
    pub(crate) instances: IntGaugeVec,
    pub(crate) queued: IntGaugeVec,
    pub(crate) refill_failures: IntCounterVec,
    pub(crate) dropped_lines: IntCounterVec,
    pub(crate) loaded_calls: IntCounterVec,
    pub(crate) loaded_duration: HistogramVec,
    pub(crate) loaded_instances: IntGaugeVec,
    pub(crate) loaded_code: IntGaugeVec,
    pub(crate) loaded_bytes: IntGaugeVec,
    pub(crate) forgotten: IntCounterVec,
    pull: GaugeVec,
    compile: GaugeVec,
    artifact: IntGaugeVec,
    memory: IntGauge,
}

/// How calls that are lost with a process were started: nobody can say any more.
const LOST: [&str; 2] = [Outcome::EngineLost.as_str(), StartKind::Hit.as_str()];

impl Metrics {
    /// Registers them in a registry of their own. `budget` is read at each scrape.
    ///
    /// # Panics
    /// Never: the names are constants and differ.
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        let registry = Registry::new();
        let function = ["namespace", "function"];
        let calls = IntCounterVec::new(
            Opts::new(
                "hearth_calls_total",
                "Ended calls, by how they ended and what it took to start them",
            ),
            &["namespace", "function", "outcome", "start"],
        );
        let buckets = exponential_buckets(latency::FIRST.as_secs_f64(), 2.0, latency::BUCKETS)
            .expect("a positive start and a factor above 1");
        let duration = HistogramVec::new(
            histogram_opts!(
                "hearth_call_duration_seconds",
                "Time of a call, from its head to its last byte",
                buckets.clone()
            ),
            &["namespace", "function", "start"],
        );
        let loaded_calls = IntCounterVec::new(
            Opts::new(
                "hearth_loader_calls_total",
                "Ended calls of code that a function loaded, by how they ended and what it took to start them: compile is code that was not known",
            ),
            &["namespace", "function", "outcome", "start"],
        );
        let loaded_duration = HistogramVec::new(
            histogram_opts!(
                "hearth_loader_call_duration_seconds",
                "Time of a call of code that a function loaded, from its head to its last byte",
                buckets
            ),
            &["namespace", "function", "start"],
        );
        let loaded_instances = IntGaugeVec::new(
            Opts::new(
                "hearth_loader_instances",
                "Instances of code that a function loaded, now: warm (waiting for a call) or in_use",
            ),
            &["namespace", "function", "state"],
        );
        let loaded_code = IntGaugeVec::new(
            Opts::new(
                "hearth_loader_code",
                "Distinct code that a function loaded and that is kept now",
            ),
            &function,
        );
        let loaded_bytes = IntGaugeVec::new(
            Opts::new(
                "hearth_loader_code_bytes",
                "Memory of the code that a function loaded and that is kept now, in bytes",
            ),
            &function,
        );
        let forgotten = IntCounterVec::new(
            Opts::new(
                "hearth_loader_forgotten_total",
                "Code that a function loaded and that is no longer kept: for its age, or for memory",
            ),
            &["namespace", "function", "reason"],
        );
        let instances = IntGaugeVec::new(
            Opts::new(
                "hearth_instances",
                "Instances now: warm (waiting for a call) or in_use",
            ),
            &["namespace", "function", "state"],
        );
        let queued = IntGaugeVec::new(
            Opts::new("hearth_queued_calls", "Calls that wait for a place now"),
            &function,
        );
        let refill_failures = IntCounterVec::new(
            Opts::new(
                "hearth_refill_failures_total",
                "Warm instances that could not be made",
            ),
            &function,
        );
        let dropped_lines = IntCounterVec::new(
            Opts::new(
                "hearth_log_dropped_lines_total",
                "Log lines that were dropped: above limits.logBytesPerSecond, or nobody read them",
            ),
            &function,
        );
        let pull = GaugeVec::new(
            Opts::new(
                "hearth_bundle_pull_seconds",
                "Time that pulling the function's bundle took on this node; 0 when it was there",
            ),
            &function,
        );
        let compile = GaugeVec::new(
            Opts::new(
                "hearth_bundle_compile_seconds",
                "Time that compiling the function's bundle took on this node; 0 when it was compiled before",
            ),
            &function,
        );
        let artifact = IntGaugeVec::new(
            Opts::new(
                "hearth_bundle_artifact_bytes",
                "Size of the function's compiled bundle on this node, in bytes",
            ),
            &function,
        );
        let memory = IntGauge::new(
            "hearth_linear_memory_bytes",
            "Linear memory that all instances hold now, in bytes",
        );
        let metrics = Self {
            registry,
            gone: Arc::default(),
            budget,
            calls: calls.expect("valid name"),
            duration: duration.expect("valid name"),
            instances: instances.expect("valid name"),
            queued: queued.expect("valid name"),
            refill_failures: refill_failures.expect("valid name"),
            dropped_lines: dropped_lines.expect("valid name"),
            loaded_calls: loaded_calls.expect("valid name"),
            loaded_duration: loaded_duration.expect("valid name"),
            loaded_instances: loaded_instances.expect("valid name"),
            loaded_code: loaded_code.expect("valid name"),
            loaded_bytes: loaded_bytes.expect("valid name"),
            forgotten: forgotten.expect("valid name"),
            pull: pull.expect("valid name"),
            compile: compile.expect("valid name"),
            artifact: artifact.expect("valid name"),
            memory: memory.expect("valid name"),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let collectors: [Box<dyn prometheus::core::Collector>; 16] = [
            Box::new(self.calls.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.instances.clone()),
            Box::new(self.queued.clone()),
            Box::new(self.refill_failures.clone()),
            Box::new(self.dropped_lines.clone()),
            Box::new(self.loaded_calls.clone()),
            Box::new(self.loaded_duration.clone()),
            Box::new(self.loaded_instances.clone()),
            Box::new(self.loaded_code.clone()),
            Box::new(self.loaded_bytes.clone()),
            Box::new(self.forgotten.clone()),
            Box::new(self.pull.clone()),
            Box::new(self.compile.clone()),
            Box::new(self.artifact.clone()),
            Box::new(self.memory.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector).expect("the names differ");
        }
    }

    /// Says what it took to have a function's bundle here.
    pub(crate) fn placed(&self, key: &FunctionKey, placement: &Placement) {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        self.gone()
            .remove(&(key.namespace.clone(), key.name.clone()));
        let seconds = |milliseconds: u32| f64::from(milliseconds) / 1000.0;
        let (pull, compile) = (
            self.pull.with_label_values(&labels),
            self.compile.with_label_values(&labels),
        );
        pull.set(seconds(placement.pull_ms));
        compile.set(seconds(placement.compile_ms));
        let bytes = i64::try_from(placement.artifact_bytes).unwrap_or(i64::MAX);
        self.artifact.with_label_values(&labels).set(bytes);
    }

    /// Counts calls to a function that ended with processes before this one, which are `calls` in all. The counter is there
    /// from the function's first placement on, at 0 too: one that appears at 1 has not increased for a scraper. A function
    /// that is placed once more is not counted once more.
    pub(crate) fn lost(&self, key: &FunctionKey, calls: u64) {
        let [outcome, start] = LOST;
        let labels = [key.namespace.as_str(), key.name.as_str(), outcome, start];
        let counter = self.calls.with_label_values(&labels);
        counter.inc_by(calls.saturating_sub(counter.get()));
    }

    /// The text that `/metrics` answers.
    pub fn text(&self) -> String {
        self.drop_gone(Instant::now());
        self.memory
            .set(i64::try_from(self.budget.held()).unwrap_or(i64::MAX));
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn gone(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Instant>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a function's gauges; its counters stay for a while, so that no increase is lost.
    pub(crate) fn forget(&self, key: &FunctionKey) {
        let name = (key.namespace.clone(), key.name.clone());
        self.gone().insert(name, Instant::now());
        let (namespace, function) = (key.namespace.as_str(), key.name.as_str());
        for state in ["warm", "in_use"] {
            // An error only says that it was never there.
            let _ = self
                .instances
                .remove_label_values(&[namespace, function, state]);
            let _ = self
                .loaded_instances
                .remove_label_values(&[namespace, function, state]);
        }
        let labels = [namespace, function];
        let _ = self.queued.remove_label_values(&labels);
        let _ = self.loaded_code.remove_label_values(&labels);
        let _ = self.loaded_bytes.remove_label_values(&labels);
        let _ = self.pull.remove_label_values(&labels);
        let _ = self.compile.remove_label_values(&labels);
        let _ = self.artifact.remove_label_values(&labels);
    }

    /// Drops the counters of functions that were gone for long enough.
    fn drop_gone(&self, now: Instant) {
        self.gone().retain(|(namespace, function), since| {
            if now.duration_since(*since) < LINGER {
                return true;
            }
            let labels = [namespace.as_str(), function.as_str()];
            for start in StartKind::ALL.iter().map(|start| start.as_str()) {
                for outcome in Outcome::ALL.iter().map(|outcome| outcome.as_str()) {
                    let labels = [namespace, function, outcome, start];
                    let _ = self.calls.remove_label_values(&labels);
                    let _ = self.loaded_calls.remove_label_values(&labels);
                }
                let labels = [namespace, function, start];
                let _ = self.duration.remove_label_values(&labels);
                let _ = self.loaded_duration.remove_label_values(&labels);
            }
            for reason in Reason::ALL.map(Reason::as_str) {
                let labels = [namespace, function, reason];
                let _ = self.forgotten.remove_label_values(&labels);
            }
            let _ = self.refill_failures.remove_label_values(&labels);
            let _ = self.dropped_lines.remove_label_values(&labels);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::Meters;

    fn key(name: &str) -> FunctionKey {
        FunctionKey {
            uid: String::new(),
            namespace: "n".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_first_calls_that_are_lost_are_an_increase_between_two_scrapes() {
        let line = "hearth_calls_total{function=\"f\",namespace=\"n\",outcome=\"engine_lost\",start=\"hit\"} ";
        let scraped = |metrics: &Metrics| {
            let text = metrics.text();
            let value = text.lines().find_map(|found| found.strip_prefix(line));
            value.map(|value| value.parse::<u64>().unwrap())
        };
        // One process after the other, each told of all calls that were lost before it.
        for lost in [0, 2, 2, 5] {
            let metrics = Metrics::new(Arc::new(MemoryBudget::new(1)));
            metrics.lost(&key("f"), lost);
            assert_eq!(scraped(&metrics), Some(lost));
            // Removed and placed again, in the same process.
            metrics.forget(&key("f"));
            metrics.lost(&key("f"), lost);
            assert_eq!(scraped(&metrics), Some(lost));
        }
    }

    #[test]
    fn counters_of_a_function_that_is_gone_go_too() {
        let metrics = Metrics::new(Arc::new(MemoryBudget::new(1)));
        for name in ["gone", "back", "there"] {
            metrics.placed(&key(name), &Placement::default());
            metrics.lost(&key(name), 3);
            metrics
                .refill_failures
                .with_label_values(&["n", name])
                .inc();
            let loaded = Meters::of_loaded(&metrics, &key(name));
            loaded.count(Outcome::Answered, StartKind::Compile, Duration::ZERO);
            let labels = ["n", name, Reason::Memory.as_str()];
            metrics.forgotten.with_label_values(&labels).inc();
        }
        metrics.forget(&key("gone"));
        metrics.forget(&key("back"));
        metrics.placed(&key("back"), &Placement::default());
        let names = |text: &str| {
            let names = ["gone", "back", "there"].into_iter();
            let is_in = |name: &&str| text.contains(&format!("function=\"{name}\""));
            names.filter(is_in).collect::<Vec<_>>()
        };
        assert_eq!(names(&metrics.text()), ["gone", "back", "there"]);
        metrics.drop_gone(Instant::now() + LINGER);
        assert_eq!(names(&metrics.text()), ["back", "there"]);
    }
}
