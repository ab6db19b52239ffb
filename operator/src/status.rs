//! When an AgentFunction is Ready, and what its conditions say. Pure.

use hearth_api::condition::{ConditionType, Reason, Wanted};
use hearth_contract::{FailureReason, proto};

use crate::fleet::PodInfo;

/// What reconciling saw of a function.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Generation of the spec.
    pub(crate) generation: i64,
    /// Warm instances wanted.
    pub(crate) replicas: u32,
    /// Why the spec cannot be used, if so.
    pub(crate) invalid: Option<String>,
    /// The pool that the spec names does not exist.
    pub(crate) missing_pool: Option<String>,
    /// Nodes that could run the pool.
    pub(crate) nodes: usize,
    /// A Service of that name belongs to somebody else.
    pub(crate) service_conflict: bool,
    /// No port was free.
    pub(crate) without_port: bool,
    /// Connected pods that hold or should hold the function, with what they said.
    pub(crate) hosts: Vec<(PodInfo, Option<proto::FunctionReport>)>,
}

impl Seen {
    /// Pods that answer calls, whatever generation.
    pub(crate) fn serving(&self) -> Vec<PodInfo> {
        let serving = self.hosts.iter().filter(|(pod, report)| {
            !pod.address.is_empty()
                && report
                    .as_ref()
                    .is_some_and(|r| r.state() == proto::State::Serving)
        });
        serving.map(|(pod, _)| pod.clone()).collect()
    }

    /// Instances that are warm or in a call, at most as many as are wanted.
    pub(crate) fn warm(&self) -> u32 {
        let held: u32 = self
            .reports()
            .map(|report| report.warm + report.in_use)
            .sum();
        held.min(self.replicas)
    }

    /// Digest that a pod resolved for this generation.
    pub(crate) fn digest(&self) -> Option<String> {
        self.reports()
            .filter(|r| r.generation == self.generation && !r.digest.is_empty())
            .map(|r| r.digest.clone())
            .next()
    }

    fn reports(&self) -> impl Iterator<Item = &proto::FunctionReport> {
        self.hosts.iter().filter_map(|(_, report)| report.as_ref())
    }

    /// The first failure of this generation: where, which reason, which message.
    pub(crate) fn failure(&self) -> Option<(Reason, String)> {
        self.hosts.iter().find_map(|(pod, report)| {
            let report = report
                .as_ref()
                .filter(|r| r.generation == self.generation && r.state() == proto::State::Failed)?;
            let failure = report.failure.clone().unwrap_or_default();
            let reason =
                FailureReason::from_word(&failure.reason).unwrap_or(FailureReason::NodeFault);
            Some((
                Reason::Node(reason),
                format!("node {}: {}", pod.node, failure.message),
            ))
        })
    }

    /// The conditions that are true of it.
    pub(crate) fn conditions(&self) -> Vec<Wanted> {
        let wanted = |kind, holds, reason, message: String| Wanted {
            kind,
            holds,
            reason,
            message,
        };
        let placed = self.placed();
        let bundle = self.bundle();
        let service = self.service();
        let (warm, replicas) = (self.warm(), self.replicas);
        let all_warm = warm >= replicas;
        let warm_reason = if all_warm {
            Reason::AllWarm
        } else {
            Reason::Warming
        };
        let parts = [&placed, &bundle, &service];
        let (ready, reason, message) = match parts.into_iter().find(|part| part.0 != Some(true)) {
            // A part that is not known yet is no readiness either.
            Some((_, reason, message)) => (Some(false), *reason, message.clone()),
            None => (
                Some(true),
                Reason::Serving,
                format!("{} pods answer calls", self.serving().len()),
            ),
        };
        vec![
            wanted(ConditionType::Ready, ready, reason, message),
            wanted(ConditionType::Placed, placed.0, placed.1, placed.2),
            wanted(ConditionType::BundleResolved, bundle.0, bundle.1, bundle.2),
            wanted(
                ConditionType::Warm,
                Some(all_warm),
                warm_reason,
                format!("{warm} of {replicas} instances are warm"),
            ),
            wanted(ConditionType::ServiceReady, service.0, service.1, service.2),
        ]
    }

    fn placed(&self) -> (Option<bool>, Reason, String) {
        if let Some(problem) = &self.invalid {
            return (Some(false), Reason::InvalidSpec, problem.clone());
        }
        if let Some(pool) = &self.missing_pool {
            let message = format!(
                "AgentPool {pool} does not exist in this namespace; make it, or leave spec.pool out to use the default one"
            );
            return (Some(false), Reason::PoolNotFound, message);
        }
        if self.without_port {
            return (
                Some(false),
                Reason::NoPort,
                "all ports of the pool are taken; use a second AgentPool".to_owned(),
            );
        }
        match (self.hosts.len(), self.nodes) {
            (0, 0) => {
                let message = "no Ready node carries the label hearth.dev/ready=true and matches the pool's nodeSelector; `kubectl -n hearth-system get pods -o wide` shows the node installer";
                (Some(false), Reason::NoNode, message.to_owned())
            }
            (0, _) => (
                Some(false),
                Reason::WaitingForPool,
                "pool pods start and connect".to_owned(),
            ),
            (pods, _) => (
                Some(true),
                Reason::Hosted,
                format!("{pods} pool pods host it"),
            ),
        }
    }

    fn bundle(&self) -> (Option<bool>, Reason, String) {
        let current = |state| {
            self.reports()
                .any(|r| r.generation == self.generation && r.state() == state)
        };
        if current(proto::State::Serving) {
            return (
                Some(true),
                Reason::Resolved,
                self.digest().unwrap_or_default(),
            );
        }
        if let Some((reason, message)) = self.failure() {
            return (Some(false), reason, message);
        }
        (
            None,
            Reason::Preparing,
            "a node pulls or compiles the bundle".to_owned(),
        )
    }

    fn service(&self) -> (Option<bool>, Reason, String) {
        if self.service_conflict {
            let message = "a Service of this name exists and belongs to somebody else; rename the function, or delete the Service";
            return (Some(false), Reason::ServiceConflict, message.to_owned());
        }
        match self.serving().len() {
            0 => (
                Some(false),
                Reason::Preparing,
                "no pod answers calls yet".to_owned(),
            ),
            pods => (Some(true), Reason::Published, format!("{pods} endpoints")),
        }
    }
}
