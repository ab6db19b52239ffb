//! The operator's own metrics.

use std::time::Duration;

use prometheus::{
    Histogram, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets, histogram_opts,
};

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
        };
        let registry = &metrics.registry;
        registry
            .register(Box::new(metrics.reconciliations.clone()))
            .expect("the names differ");
        registry
            .register(Box::new(metrics.duration.clone()))
            .expect("the names differ");
        for gauge in [&metrics.leader, &metrics.streams, &metrics.functions] {
            registry
                .register(Box::new(gauge.clone()))
                .expect("the names differ");
        }
        metrics
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
