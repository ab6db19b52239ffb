//! `hearth why NAME`: why a function has as many warm instances as it has. All of it stands in the cluster's objects; nothing is
//! asked of the operator.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use clap::Args;
use hearth_api::v1alpha1::{AgentFunction, ScalingDecision, ScalingPolicy};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp, Unit};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::cluster::{Access, Cluster};

/// Events that are shown, the last ones.
const EVENTS: usize = 5;

/// Explain how many instances of a function are kept warm: what decided it, and what it was found from.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Name of the AgentFunction.
    name: String,
    #[command(flatten)]
    access: Access,
}

/// What is looked at.
struct Looked {
    function: AgentFunction,
    /// All of the namespace.
    autoscalers: Vec<HorizontalPodAutoscaler>,
    /// All about the function.
    events: Vec<Event>,
}

impl Why {
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let looked = runtime.block_on(self.look())?;
        print!("{}", explain(&looked, Timestamp::now()));
        Ok(())
    }

    async fn look(&self) -> Result<Looked> {
        let cluster = self.access.connect().await?;
        let function = cluster.function(&self.name).await?;
        let Cluster { client, namespace } = cluster;
        let autoscalers = Api::namespaced(client.clone(), &namespace)
            .list(&ListParams::default())
            .await
            .context("list HorizontalPodAutoscalers")?;
        let about = format!(
            "involvedObject.kind=AgentFunction,involvedObject.name={}",
            self.name
        );
        let events = Api::namespaced(client, &namespace)
            .list(&ListParams::default().fields(&about))
            .await
            .context("list events")?;
        Ok(Looked {
            function,
            autoscalers: autoscalers.items,
            events: events.items,
        })
    }
}

fn explain(looked: &Looked, now: Timestamp) -> String {
    let function = &looked.function;
    let mut text = String::new();
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let name = function.name_any();
    let namespace = function.namespace().unwrap_or_default();
    let status = function.status.clone().unwrap_or_default();
    let Some(wanted) = status.wanted else {
        say(&format!(
            "AgentFunction {namespace}/{name} has not been planned yet: an operator that leads does that within a second."
        ));
        return text;
    };
    say(&format!(
        "AgentFunction {namespace}/{name}: {wanted} warm instances are wanted, {} are warm, {} pods serve it.",
        status.replicas, status.pods
    ));
    let generation = function.metadata.generation;
    if status.observed_generation != generation {
        say("The operator has not seen the last change of the spec yet.");
    }
    say("");
    match (&status.scaling, &function.spec.scaling) {
        (Some(decision), Some(scaling)) => {
            let by = status.wanted_by.as_deref().unwrap_or_default();
            let before = decision.before.map_or_else(String::new, |before| {
                format!("; before that {before} were wanted")
            });
            say(&format!(
                "{by} decided that {}{before}. What it was found from, as it was then:",
                ago(decision.time.0, now)
            ));
            say("");
            say(&table(function, decision, by, scaling.policy));
        }
        _ => say(&format!(
            "spec.replicas says so{}; there is no spec.scaling.",
            writer(function, now)
        )),
    }
    for condition in &status.conditions {
        if condition.type_ == "Warm" && condition.status != "True" {
            say(&format!("{}: {}.", condition.reason, condition.message));
        }
        if condition.type_ == "Ready" && condition.status != "True" {
            say(&format!(
                "It is not Ready, {}: {}.",
                condition.reason, condition.message
            ));
        }
    }
    let ours = looked.autoscalers.iter().filter(|autoscaler| {
        let spec = autoscaler.spec.as_ref();
        spec.is_some_and(|spec| {
            let target = &spec.scale_target_ref;
            (target.kind.as_str(), &target.name) == ("AgentFunction", &name)
        })
    });
    for autoscaler in ours {
        say(&autoscaled(autoscaler, function, now));
    }
    let mut events: Vec<_> = looked
        .events
        .iter()
        .filter_map(|event| Some((seen_last(event)?, event)))
        .collect();
    events.sort_by_key(|(at, _)| *at);
    if !events.is_empty() {
        say("\nLast events:");
    }
    for (at, event) in &events[events.len().saturating_sub(EVENTS)..] {
        say(&format!(
            "  {:<16} {:<12} {}",
            ago(*at, now),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default()
        ));
    }
    text
}

/// The numbers that were compared, the highest of which counts, up to the maximum.
fn table(
    function: &AgentFunction,
    decision: &ScalingDecision,
    by: &str,
    policy: Option<ScalingPolicy>,
) -> String {
    let window = decision.window.as_ref();
    let start =
        std::time::Duration::from_micros(decision.start_microseconds.try_into().unwrap_or(0));
    let made = match decision.start_microseconds {
        0 => "none was made yet".to_owned(),
        _ => format!("an instance is made in {start:?}"),
    };
    let is_fixed = policy == Some(ScalingPolicy::Fixed);
    let is_predictive = matches!(policy, None | Some(ScalingPolicy::Predictive));
    let rows = [
        (
            "Replicas",
            decision.replicas,
            format!("spec.replicas{}", unset(function)),
        ),
        (
            "Window",
            window.map_or(0, |window| window.replicas),
            window.map_or_else(
                || "no window of spec.scaling.windows is open".to_owned(),
                |window| format!("spec.scaling.windows, {}", window.name),
            ),
        ),
        (
            "Calls",
            decision.calls,
            match is_fixed {
                true => "not asked by the policy Fixed".to_owned(),
                false => format!(
                    "{} calls in the second before, {made}",
                    decision.calls_per_second
                ),
            },
        ),
        (
            "Forecast",
            decision.forecast,
            match is_predictive {
                true => "needed at this time on both days before".to_owned(),
                false => "not asked by this policy".to_owned(),
            },
        ),
        (
            "Maximum",
            decision.maximum,
            "spec.scaling.maxReplicas, never more".to_owned(),
        ),
    ];
    let mut text = String::from("    RULE      INSTANCES  FROM\n");
    for (rule, count, from) in rows {
        let mark = if rule == by { '>' } else { ' ' };
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {mark} {rule:<9} {count:>9}  {from}");
    }
    text
}

fn unset(function: &AgentFunction) -> &'static str {
    match function.spec.replicas {
        Some(_) => "",
        None => ", which is not set",
    }
}

/// Who wrote `spec.replicas` last, as the object itself remembers it.
fn writer(function: &AgentFunction, now: Timestamp) -> String {
    let entries = function.managed_fields().iter();
    let wrote = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| !fields.0["f:spec"]["f:replicas"].is_null())
    });
    let last = wrote.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    let Some(entry) = last else {
        return unset(function).to_owned();
    };
    let manager = entry.manager.as_deref().unwrap_or("somebody");
    let time = entry.time.as_ref();
    let time = time.map_or_else(String::new, |time| format!(" {}", ago(time.0, now)));
    format!(", written by {manager}{time}")
}

/// What an autoscaler of the function does.
fn autoscaled(
    autoscaler: &HorizontalPodAutoscaler,
    function: &AgentFunction,
    now: Timestamp,
) -> String {
    let (spec, status) = (autoscaler.spec.as_ref(), autoscaler.status.as_ref());
    let least = spec.and_then(|spec| spec.min_replicas).unwrap_or(1);
    let most = spec.map_or(0, |spec| spec.max_replicas);
    let desired = status.map_or(0, |status| status.desired_replicas);
    let mut text = format!(
        "HorizontalPodAutoscaler {} sets spec.replicas between {least} and {most}; it wants {desired} now.",
        autoscaler.name_any()
    );
    let conditions = status.and_then(|status| status.conditions.as_ref());
    for condition in conditions.into_iter().flatten() {
        // ScalingLimited is bad news when it is True.
        let is_news = (condition.type_ == "ScalingLimited") == (condition.status == "True");
        if is_news && let Some(message) = &condition.message {
            let _ = write!(text, "\n  {}: {message}", condition.type_);
        }
    }
    if function.spec.scaling.is_some() {
        text.push_str("\n  With spec.scaling too, it moves the lower bound only; use one of them.");
    } else {
        let _ = write!(text, "\n  spec.replicas{}.", writer(function, now));
    }
    text
}

fn seen_last(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref();
    let times = [
        series.and_then(|series| Some(series.last_observed_time.as_ref()?.0)),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max()
}

/// How long ago, in words.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(then).max(SignedDuration::ZERO);
    let rounded = match passed.as_secs() {
        0..60 => passed.round(Unit::Second),
        60..3600 => passed.round(Unit::Minute),
        _ => passed.round(Unit::Hour),
    };
    format!("{:#} ago", rounded.unwrap_or(passed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-03-02T08:10:00Z";

    fn function(spec: Value, status: Value) -> Value {
        let mut function = json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "AgentFunction",
            "metadata": {
                "name": "hello", "namespace": "shop", "generation": 3,
                "managedFields": [
                    {"manager": "kubectl-apply", "time": "2026-03-01T08:00:00Z", "fieldsV1": {"f:spec": {"f:bundle": {}, "f:replicas": {}}}},
                    {"manager": "kube-controller-manager", "subresource": "scale", "time": "2026-03-02T08:05:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
                    {"manager": "hearth-operator", "time": "2026-03-02T08:09:00Z", "fieldsV1": {"f:status": {}}},
                ],
            },
            "spec": spec,
            "status": status,
        });
        function["spec"]["bundle"] = json!({"image": "a"});
        function
    }

    fn explained(function: Value, autoscalers: Value, events: Value) -> String {
        let read = |what| serde_json::from_value(what).unwrap();
        let looked = Looked {
            function: serde_json::from_value(function).unwrap(),
            autoscalers: read(autoscalers),
            events: serde_json::from_value(events).unwrap(),
        };
        explain(&looked, NOW.parse().unwrap())
    }

    #[test]
    fn what_scales_shows_what_it_was_found_from() {
        let status = json!({
            "observedGeneration": 3, "replicas": 7, "pods": 2, "wanted": 8, "wantedBy": "Calls",
            "scaling": {
                "time": "2026-03-02T08:09:18Z", "before": 3, "replicas": 1, "window": {"name": "office", "replicas": 5},
                "calls": 8, "forecast": 6, "maximum": 40, "callsPerSecond": 41, "startMicroseconds": 300_000,
            },
            "conditions": [{
                "type": "Warm", "status": "False", "reason": "Warming", "message": "7 of 8 instances are warm",
                "lastTransitionTime": NOW,
            }],
        });
        let spec = json!({"replicas": 1, "scaling": {"maxReplicas": 40}});
        let events = json!([
            {"metadata": {"name": "b"}, "involvedObject": {}, "reason": "Scaled", "message": "3 to 8 by Calls", "eventTime": "2026-03-02T08:09:18.000000Z"},
            {"metadata": {"name": "a"}, "involvedObject": {}, "reason": "Ready", "message": "2 pods answer calls", "eventTime": "2026-03-02T06:10:00.000000Z"},
        ]);
        assert_eq!(
            explained(function(spec, status), json!([]), events),
            "\
AgentFunction shop/hello: 8 warm instances are wanted, 7 are warm, 2 pods serve it.

Calls decided that 42s ago; before that 3 were wanted. What it was found from, as it was then:

    RULE      INSTANCES  FROM
    Replicas          1  spec.replicas
    Window            5  spec.scaling.windows, office
  > Calls             8  41 calls in the second before, an instance is made in 300ms
    Forecast          6  needed at this time on both days before
    Maximum          40  spec.scaling.maxReplicas, never more

Warming: 7 of 8 instances are warm.

Last events:
  2h ago           Ready        2 pods answer calls
  42s ago          Scaled       3 to 8 by Calls
"
        );
    }

    #[test]
    fn what_an_autoscaler_sets_names_it() {
        let status = json!({"observedGeneration": 2, "replicas": 4, "pods": 1, "wanted": 4});
        let autoscaler = |target: &str| {
            json!({
                "metadata": {"name": format!("of-{target}")},
                "spec": {"minReplicas": 0, "maxReplicas": 4, "scaleTargetRef": {"apiVersion": "hearth.dev/v1alpha1", "kind": "AgentFunction", "name": target}},
                "status": {"desiredReplicas": 4, "conditions": [
                    {"type": "ScalingActive", "status": "True", "message": "found the metric"},
                    {"type": "ScalingLimited", "status": "True", "message": "the desired count is above the maximum"},
                ]},
            })
        };
        let autoscalers = json!([autoscaler("other"), autoscaler("hello")]);
        assert_eq!(
            explained(
                function(json!({"replicas": 4}), status),
                autoscalers,
                json!([])
            ),
            "\
AgentFunction shop/hello: 4 warm instances are wanted, 4 are warm, 1 pods serve it.
The operator has not seen the last change of the spec yet.

spec.replicas says so, written by kube-controller-manager 5m ago; there is no spec.scaling.
HorizontalPodAutoscaler of-hello sets spec.replicas between 0 and 4; it wants 4 now.
  ScalingLimited: the desired count is above the maximum
  spec.replicas, written by kube-controller-manager 5m ago.
"
        );
    }

    #[test]
    fn what_was_not_planned_says_so() {
        let text = explained(function(json!({}), json!({})), json!([]), json!([]));
        assert!(text.contains("has not been planned yet"), "{text}");
    }
}
