//! AgentFunction and AgentPool: what users write and what the operator answers. Types and rules only: no client, no I/O.
//!
//! Validation is the API server's work: schema bounds and CEL rules, generated into `crds/` by
//! `cargo xtask codegen`. [`convert`] turns a function into what a node is told.

pub mod condition;
pub mod convert;
pub mod v1alpha1;

/// Label on nodes that the installer verified: `"true"`.
pub const NODE_READY_LABEL: &str = "hearth.dev/ready";
/// Label on pool pods: the name of their AgentPool.
pub const POOL_LABEL: &str = "hearth.dev/pool";
/// Label on pool pods of a Dedicated pool: the name of the one function they host.
pub const FUNCTION_LABEL: &str = "hearth.dev/function";
/// Label: the ConfigMap holds code of functions. The operator reads no others.
pub const SOURCE_LABEL: &str = "hearth.dev/source";
/// Label on the operator's pods: `"true"` on the one that leads. The stream's Service selects by it.
pub const LEADER_LABEL: &str = "hearth.dev/leader";
/// Value of `app.kubernetes.io/managed-by` (and of `endpointslice.kubernetes.io/managed-by`) on what the operator
/// makes, and its field manager.
pub const MANAGER: &str = "hearth-operator";
/// Annotation on pool pods: a hash of what the operator wanted of them. Another hash is another pod.
pub const TEMPLATE_ANNOTATION: &str = "hearth.dev/template";
/// Finalizer of an AgentFunction: it is removed when no node holds anything of the function.
pub const FINALIZER: &str = "hearth.dev/placement";
/// Key in `spec.hard` of a ResourceQuota: warm instances that the namespace's functions may have together.
pub const QUOTA: &str = "hearth.dev/warm-instances";
/// Name of the RuntimeClass, and of containerd's runtime handler.
pub const RUNTIME_CLASS: &str = "hearth";
/// Name of the pool that a function without `spec.pool` uses.
pub const DEFAULT_POOL: &str = "default";
