//! When an AgentFunction is Ready, and what its conditions say. Pure.

use hearth_api::condition::{ConditionType, Reason, Wanted};
use hearth_contract::{FailureReason, proto};
use hearth_planner::Short;

use crate::fleet::{self, Host, PodInfo};

/// What reconciling saw of a function.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Generation of the spec.
    pub(crate) generation: i64,
    /// Warm instances wanted.
    pub(crate) replicas: u32,
    /// Why fewer are planned than wanted, and how many are.
    pub(crate) short: Option<(Short, u32)>,
    /// Why the spec cannot be used, if so.
    pub(crate) invalid: Option<String>,
    /// The pool that the spec names does not exist.
    pub(crate) missing_pool: Option<String>,
    /// Nodes that could run the pool; `None` while the pool is being made.
    pub(crate) nodes: Option<usize>,
    /// Why the Service could not be written, if so.
    pub(crate) service_problem: Option<ServiceProblem>,
    /// No port was free.
    pub(crate) without_port: bool,
    /// The image was resolved for an earlier generation already.
    pub(crate) is_pinned: bool,
    /// Connected pods that hold or should hold the function, with what they said.
    pub(crate) hosts: Vec<Host>,
}

/// Why a Service is not as it should be, which trying again does not mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServiceProblem {
    /// One of that name belongs to somebody else.
    Conflict,
    /// The API server said so.
    Refused(String),
}

impl Seen {
    /// Pods that answer calls, whatever generation.
    pub(crate) fn serving(&self) -> Vec<PodInfo> {
        let serving = self.hosts.iter().filter(|host| {
            let answers = host.report.as_ref().is_some_and(|report| report.answers);
            answers && !host.pod.address.is_empty()
        });
        serving.map(|host| host.pod.clone()).collect()
    }

    /// Instances that are warm or in a call, at most as many as are wanted.
    pub(crate) fn warm(&self) -> u32 {
        let held = |host: &Host| {
            let report = host.report.as_ref();
            report.map_or(0, |report| fleet::held(report, host.target))
        };
        let held: u32 = self.hosts.iter().map(held).sum();
        held.min(self.replicas)
    }

    /// Digest that a pod serves for this generation.
    pub(crate) fn digest(&self) -> Option<String> {
        self.reports()
            .filter(|r| {
                r.generation == self.generation
                    && r.state() == proto::State::Serving
                    && !r.digest.is_empty()
            })
            .map(|r| r.digest.clone())
            .next()
    }

    fn reports(&self) -> impl Iterator<Item = &proto::FunctionReport> {
        self.hosts.iter().filter_map(|host| host.report.as_ref())
    }

    /// The first failure of this generation: where, which reason, which message.
    pub(crate) fn failure(&self) -> Option<(Reason, String)> {
        self.hosts.iter().find_map(|host| {
            let report = host
                .report
                .as_ref()
                .filter(|r| r.generation == self.generation && r.state() == proto::State::Failed)?;
            let failure = report.failure.clone().unwrap_or_default();
            let reason =
                FailureReason::from_word(&failure.reason).unwrap_or(FailureReason::NodeFault);
            Some((
                Reason::Node(reason),
                format!("node {}: {}", host.pod.node, failure.message),
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
        let warm = self.warm_condition();
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
            wanted(ConditionType::Warm, warm.0, warm.1, warm.2),
            wanted(ConditionType::ServiceReady, service.0, service.1, service.2),
        ]
    }

    fn warm_condition(&self) -> (Option<bool>, Reason, String) {
        let (warm, replicas) = (self.warm(), self.replicas);
        let said = format!("{warm} of {replicas} instances are warm");
        let why = match self.short {
            // Without pods nothing is missing that Placed does not say.
            None | Some((Short::Pods, _)) if warm >= replicas => {
                return (Some(true), Reason::AllWarm, said);
            }
            None | Some((Short::Pods, _)) => return (Some(false), Reason::Warming, said),
            Some((Short::Memory, planned)) => format!(
                "the pool pods' memory has room for {planned}; raise the AgentPool's spec.resources.limits.memory, or use more nodes"
            ),
            Some((Short::Quota, planned)) => format!(
                "the namespace's ResourceQuota {} leaves {planned}",
                hearth_api::QUOTA
            ),
        };
        (Some(false), Reason::Insufficient, format!("{said}; {why}"))
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
            (0, Some(0)) => {
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
        // Another number of instances, or other limits, of a bundle that serves: nothing is prepared.
        let has_spoken = self.reports().any(|r| r.generation == self.generation);
        if self.is_pinned && !has_spoken && !self.serving().is_empty() {
            let message = "the image is the one that serves".to_owned();
            return (Some(true), Reason::Resolved, message);
        }
        (
            None,
            Reason::Preparing,
            "a node pulls or compiles the bundle".to_owned(),
        )
    }

    fn service(&self) -> (Option<bool>, Reason, String) {
        match &self.service_problem {
            None => {}
            Some(ServiceProblem::Conflict) => {
                let message = "a Service of this name exists and belongs to somebody else; rename the function, or delete the Service";
                return (Some(false), Reason::ServiceConflict, message.to_owned());
            }
            Some(ServiceProblem::Refused(message)) => {
                return (Some(false), Reason::ServiceRefused, message.clone());
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::GroupKey;
    use hearth_contract::proto::{Failure, FunctionReport, State};

    fn pod(name: &str) -> PodInfo {
        PodInfo {
            uid: name.to_owned(),
            name: name.to_owned(),
            node: format!("node-of-{name}"),
            address: "10.0.0.1".to_owned(),
            group: GroupKey {
                namespace: "n".to_owned(),
                pool: "default".to_owned(),
                function: None,
            },
        }
    }

    fn report(generation: i64, state: State, answers: bool) -> FunctionReport {
        FunctionReport {
            generation,
            state: state.into(),
            answers,
            digest: format!("sha256:{generation}"),
            warm: 2,
            ..FunctionReport::default()
        }
    }

    fn seen(reports: Vec<FunctionReport>) -> Seen {
        let names = ["a", "b", "c"];
        Seen {
            generation: 2,
            replicas: 2,
            short: None,
            invalid: None,
            missing_pool: None,
            nodes: Some(1),
            service_problem: None,
            without_port: false,
            is_pinned: false,
            hosts: names
                .into_iter()
                .zip(reports)
                .map(|(name, report)| Host {
                    pod: pod(name),
                    target: 2,
                    report: Some(report),
                })
                .collect(),
        }
    }

    /// Status and reason of a condition.
    fn says(seen: &Seen, kind: ConditionType) -> (Option<bool>, Reason) {
        let conditions = seen.conditions();
        let found = conditions.iter().find(|wanted| wanted.kind == kind);
        found.map(|wanted| (wanted.holds, wanted.reason)).unwrap()
    }

    #[test]
    fn ready_is_the_first_part_that_does_not_hold() {
        let failed = FunctionReport {
            failure: Some(Failure {
                reason: "CoreModule".to_owned(),
                message: "m".to_owned(),
            }),
            ..report(2, State::Failed, false)
        };
        let broken = Reason::Node(FailureReason::CoreModule);
        for (seen, expected) in [
            (
                seen(vec![report(2, State::Serving, true)]),
                (Some(true), Reason::Serving),
            ),
            (
                seen(vec![report(2, State::Compiling, false)]),
                (Some(false), Reason::Preparing),
            ),
            // The old generation answers: endpoints stay, and the object says that it is not there yet.
            (
                seen(vec![report(1, State::Serving, true)]),
                (Some(false), Reason::Preparing),
            ),
            (seen(vec![failed.clone()]), (Some(false), broken)),
            (
                seen(vec![failed, report(2, State::Serving, true)]),
                (Some(true), Reason::Serving),
            ),
            // Unless only numbers changed.
            (
                Seen {
                    is_pinned: true,
                    ..seen(vec![report(1, State::Serving, true)])
                },
                (Some(true), Reason::Serving),
            ),
            (seen(Vec::new()), (Some(false), Reason::WaitingForPool)),
            (
                Seen {
                    nodes: Some(0),
                    ..seen(Vec::new())
                },
                (Some(false), Reason::NoNode),
            ),
            // The pool is being made: nobody knows of nodes yet.
            (
                Seen {
                    nodes: None,
                    ..seen(Vec::new())
                },
                (Some(false), Reason::WaitingForPool),
            ),
            (
                Seen {
                    service_problem: Some(ServiceProblem::Conflict),
                    ..seen(vec![report(2, State::Serving, true)])
                },
                (Some(false), Reason::ServiceConflict),
            ),
            (
                Seen {
                    service_problem: Some(ServiceProblem::Refused("no".to_owned())),
                    ..seen(vec![report(2, State::Serving, true)])
                },
                (Some(false), Reason::ServiceRefused),
            ),
        ] {
            assert_eq!(says(&seen, ConditionType::Ready), expected, "{seen:?}");
        }
    }

    #[test]
    fn endpoints_are_the_pods_that_answer_whatever_they_prepare() {
        let seen = seen(vec![
            report(2, State::Compiling, true),
            report(2, State::Failed, true),
            report(2, State::Compiling, false),
        ]);
        let names: Vec<_> = seen.serving().into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_digest_is_known_once_its_bundle_serves() {
        assert_eq!(seen(vec![report(2, State::Compiling, true)]).digest(), None);
        assert_eq!(seen(vec![report(1, State::Serving, true)]).digest(), None);
        let serving = seen(vec![report(2, State::Serving, true)]);
        assert_eq!(serving.digest().as_deref(), Some("sha256:2"));
    }

    #[test]
    fn what_finds_no_room_is_not_awaited() {
        let seen = Seen {
            replicas: 9,
            short: Some((Short::Memory, 4)),
            ..seen(vec![report(2, State::Serving, true); 2])
        };
        let insufficient = (Some(false), Reason::Insufficient);
        assert_eq!(says(&seen, ConditionType::Warm), insufficient);
        assert_eq!(
            says(&seen, ConditionType::Ready),
            (Some(true), Reason::Serving)
        );
        let warm = seen
            .conditions()
            .into_iter()
            .find(|c| c.kind == ConditionType::Warm);
        assert!(
            warm.unwrap()
                .message
                .starts_with("4 of 9 instances are warm; ")
        );
    }

    #[test]
    fn more_warm_than_wanted_is_not_said() {
        let seen = seen(vec![report(2, State::Serving, true); 2]);
        assert_eq!(seen.warm(), 2);
        assert_eq!(
            says(&seen, ConditionType::Warm),
            (Some(true), Reason::AllWarm)
        );
    }
}
