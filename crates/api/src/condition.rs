//! Condition types and reasons: the words are a contract with users and their alerts.

use hearth_contract::FailureReason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Types of conditions. An AgentFunction has all of them, an AgentPool only `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The summary: calls to the Service are answered.
    Ready,
    /// Pool pods to run in exist and are connected.
    Placed,
    /// The image was found, is a bundle and was compiled.
    BundleResolved,
    /// As many instances are warm as `spec.replicas` asks for.
    Warm,
    /// The Service is ours and has endpoints.
    ServiceReady,
}

impl ConditionType {
    /// The word in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Placed => "Placed",
            Self::BundleResolved => "BundleResolved",
            Self::Warm => "Warm",
            Self::ServiceReady => "ServiceReady",
        }
    }
}

/// Reasons of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Calls are answered.
    Serving,
    /// A pool pod hosts the function.
    Hosted,
    /// The bundle is on a node, compiled.
    Resolved,
    /// All wanted instances are warm.
    AllWarm,
    /// The Service has endpoints.
    Published,
    /// No node is Ready, carries `hearth.dev/ready=true` and matches the pool's selector.
    NoNode,
    /// Pool pods start, or connect.
    WaitingForPool,
    /// A node pulls or compiles.
    Preparing,
    /// Instances are being made.
    Warming,
    /// Memory of the pool pods or the namespace's quota has no room for all that are wanted.
    Insufficient,
    /// A Service of that name belongs to somebody else.
    ServiceConflict,
    /// The API server refuses the Service.
    ServiceRefused,
    /// The pool that `spec.pool.name` names does not exist.
    PoolNotFound,
    /// All of a pool's ports are taken.
    NoPort,
    /// The object says something that the schema could not refuse.
    InvalidSpec,
    /// A node says why it cannot serve.
    Node(FailureReason),
}

impl Reason {
    /// The word in `status.conditions[].reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "Serving",
            Self::Hosted => "Hosted",
            Self::Resolved => "Resolved",
            Self::AllWarm => "AllWarm",
            Self::Published => "Published",
            Self::NoNode => "NoNode",
            Self::WaitingForPool => "WaitingForPool",
            Self::Preparing => "Preparing",
            Self::Warming => "Warming",
            Self::Insufficient => "Insufficient",
            Self::ServiceConflict => "ServiceConflict",
            Self::ServiceRefused => "ServiceRefused",
            Self::PoolNotFound => "PoolNotFound",
            Self::NoPort => "NoPort",
            Self::InvalidSpec => "InvalidSpec",
            Self::Node(reason) => reason.as_str(),
        }
    }
}

/// What a condition should say, before it has a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which condition.
    pub kind: ConditionType,
    /// Whether it holds; `None` is `Unknown`.
    pub holds: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// A sentence for people.
    pub message: String,
}

/// Makes the conditions of a status from what they should say and what they said: a transition time moves only when
/// `status` moves, so that an unchanged truth is an unchanged object.
pub fn merge(
    wanted: Vec<Wanted>,
    current: &[Condition],
    generation: i64,
    now: &Time,
) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|wanted| {
            let status = match wanted.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = current
                .iter()
                .find(|condition| {
                    condition.type_ == wanted.kind.as_str() && condition.status == status
                })
                .map_or_else(
                    || now.clone(),
                    |condition| condition.last_transition_time.clone(),
                );
            Condition {
                type_: wanted.kind.as_str().to_owned(),
                status: status.to_owned(),
                reason: wanted.reason.as_str().to_owned(),
                message: wanted.message,
                observed_generation: Some(generation),
                last_transition_time: since,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(holds: bool, message: &str) -> Vec<Wanted> {
        vec![Wanted {
            kind: ConditionType::Ready,
            holds: Some(holds),
            reason: Reason::Serving,
            message: message.to_owned(),
        }]
    }

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let early: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
        let late: Time = serde_json::from_str("\"2026-01-02T00:00:00Z\"").unwrap();
        let first = merge(wanted(true, "a"), &[], 1, &early);
        let same = merge(wanted(true, "b"), &first, 2, &late);
        assert_eq!(same[0].last_transition_time, early);
        assert_eq!(
            (same[0].message.as_str(), same[0].observed_generation),
            ("b", Some(2))
        );
        let other = merge(wanted(false, "c"), &same, 2, &late);
        assert_eq!(other[0].last_transition_time, late);
    }
}
