//! What the operator is told, read once and checked at once.

use clap::Parser;

/// Reconciles AgentFunctions and AgentPools, and tells pool pods what to hold.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Config {
    /// Image of pool pods; it only names them, nothing of it runs.
    #[arg(long)]
    pub(crate) pool_image: String,
    /// Name of the PriorityClass of pool pods. Without it, they have the cluster's default.
    #[arg(long)]
    pub(crate) pool_priority_class: Option<String>,
    /// Name of the Service, in the operator's namespace, that pool pods dial.
    #[arg(long, default_value = "hearth-operator")]
    pub(crate) stream_service: String,
    /// Port of the pools' stream.
    #[arg(long, default_value_t = 8443)]
    pub(crate) stream_port: u16,
    /// Port of /metrics, /livez and /readyz.
    #[arg(long, default_value_t = 8080)]
    pub(crate) http_port: u16,
    /// Port of custom.metrics.k8s.io. Without it, that API is not served.
    #[arg(long)]
    pub(crate) metrics_api_port: Option<u16>,
    /// Name of this replica's pod.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: String,
    /// Namespace of this replica's pod.
    #[arg(long, env = "POD_NAMESPACE")]
    pub(crate) pod_namespace: String,
}
