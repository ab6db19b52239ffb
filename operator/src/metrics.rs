//! The operator's own metrics.

use std::time::Duration;

use prometheus::{
    GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
    histogram_opts,
};

use crate::meter::{METRICS, Reading};

/// Registered once, shared by all parts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciliations: IntCounterVec,
    duration: Histogram,
    /// 1 on the replica that leads.
    pub(crate) leader: IntGauge,
    /// Connected pool pods.
    pub(crate) streams: IntGauge,
    /// AgentFunctions in the cache.
    pub(crate) functions: IntGauge,
    /// Statuses of AgentFunctions that were written.
    pub(crate) status_writes: IntCounter,
    /// What [`METRICS`] read, by namespace and function.
    readings: Vec<GaugeVec>,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Panics
    /// Never: the names are constants and differ.
    pub(crate) fn new() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("valid name");
        let buckets =
            exponential_buckets(0.001, 2.0, 14).expect("a positive start and a factor above 1");
        let metrics = Self {
            registry: Registry::new(),
            reconciliations: IntCounterVec::new(
                Opts::new(
                    "hearth_operator_reconciliations_total",
                    "Passes over AgentFunctions, by result",
                ),
                &["result"],
            )
            .expect("valid name"),
            duration: Histogram::with_opts(histogram_opts!(
                "hearth_operator_reconcile_duration_seconds",
                "Time of a pass",
                buckets
            ))
            .expect("valid name"),
            leader: gauge("hearth_operator_leader", "1 on the replica that leads"),
            streams: gauge("hearth_operator_streams", "Pool pods that are connected"),
            functions: gauge("hearth_operator_functions", "AgentFunctions that are known"),
            status_writes: IntCounter::new(
                "hearth_operator_status_writes_total",
                "Statuses of AgentFunctions that were written",
            )
            .expect("valid name"),
            readings: METRICS
                .iter()
                .map(|(name, help, _)| {
                    GaugeVec::new(Opts::new(*name, *help), &["namespace", "function"])
                        .expect("valid name")
                })
                .collect(),
        };
        let registry = &metrics.registry;
        registry
            .register(Box::new(metrics.reconciliations.clone()))
            .expect("the names differ");
        registry
            .register(Box::new(metrics.duration.clone()))
            .expect("the names differ");
        registry
            .register(Box::new(metrics.status_writes.clone()))
            .expect("the names differ");
        for gauge in [&metrics.leader, &metrics.streams, &metrics.functions] {
            registry
                .register(Box::new(gauge.clone()))
                .expect("the names differ");
        }
        for readings in &metrics.readings {
            registry
                .register(Box::new(readings.clone()))
                .expect("the names differ");
        }
        metrics
    }

    /// Replaces what was read of functions by what is read now: namespace, name, reading.
    pub(crate) fn read(&self, functions: &[(String, String, Reading)]) {
        for (readings, (_, _, read)) in self.readings.iter().zip(METRICS) {
            readings.reset();
            for (namespace, name, reading) in functions {
                readings
                    .with_label_values(&[namespace, name])
                    .set(read(reading));
            }
        }
    }

    /// Counts one pass.
    pub(crate) fn reconciled(&self, took: Duration, ok: bool) {
        self.reconciliations
            .with_label_values(&[if ok { "ok" } else { "error" }])
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// The text that `/metrics` answers.
    pub(crate) fn text(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
