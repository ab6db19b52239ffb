//! Version v1alpha1 of the API group `hearth.dev`.

mod function;
mod pool;

pub use function::{
    AgentFunction, AgentFunctionSpec, AgentFunctionStatus, Bundle, BundleStatus, ConfigMapKey,
    Egress, EnvVar, FunctionLimits, Loader, LoaderCache, LoaderEndpoint, LoaderLimits, OpenWindow,
    PoolRef, QueueLimits, Reuse, Scaling, ScalingDecision, ScalingPolicy, ScalingWindow,
    ServiceSpec, Source, TrafficDistribution,
};
pub use pool::{
    AgentPool, AgentPoolSpec, AgentPoolStatus, Isolation, PoolResources, PoolToleration,
    TolerationEffect, TolerationOperator,
};
