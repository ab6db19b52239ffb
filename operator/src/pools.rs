//! Reconciling an AgentPool: a pool pod on every node that it wants, as soon as a function uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_api::condition::{ConditionType, Reason, Wanted};
use hearth_api::v1alpha1::{AgentPool, AgentPoolStatus, Isolation};
use hearth_api::{MANAGER, NODE_READY_LABEL, condition};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::fleet::GroupKey;
use crate::objects::{self, PoolSettings};
use crate::pace::Pace;
use crate::retry::{self, Retries};
use crate::succession::{self, Slot, There};
use crate::world::World;

/// A look at what nobody told us about.
const RESYNC: Duration = Duration::from_secs(300);
/// Looks again at a pod that waits for its successor to answer.
const SUCCESSION_LOOK: Duration = Duration::from_secs(1);

/// What reconciling works with.
pub(crate) struct Context {
    /// The API server.
    pub(crate) client: Client,
    /// Everything that is known.
    pub(crate) world: Arc<World>,
    /// What pool pods are made of.
    pub(crate) settings: PoolSettings,
    /// Backoff per object.
    pub(crate) retries: Retries,
    /// Whose numbers are written when.
    pub(crate) pace: Pace,
}

/// Names of the nodes that get a pod of the pool: Ready, verified by the installer, matching the selector; sorted.
pub(crate) fn nodes(world: &World, pool: &AgentPool) -> BTreeSet<String> {
    let matching = world
        .stores
        .nodes
        .state()
        .into_iter()
        .filter(|node| is_usable(node, pool))
        .map(|node| node.name_any());
    let most = pool
        .spec
        .max_pods
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    matching
        .collect::<BTreeSet<_>>()
        .into_iter()
        .take(most)
        .collect()
}

fn is_usable(node: &Node, pool: &AgentPool) -> bool {
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True");
    let labels = node.labels();
    let cordoned = node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true));
    ready
        && !cordoned
        && labels
            .get(NODE_READY_LABEL)
            .is_some_and(|value| value == "true")
        && is_selected(node, pool)
}

/// One pass over one pool.
pub(crate) async fn reconcile(
    pool: Arc<AgentPool>,
    context: Arc<Context>,
) -> Result<Action, kube::Error> {
    if !context.world.is_leading() || pool.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let result = pass(&pool, &context).await;
    if result.is_ok() {
        context.retries.reset(&pool.uid().unwrap_or_default());
    }
    result
}

/// What to do after an error: try again, each time later.
pub(crate) fn on_error(pool: Arc<AgentPool>, error: &kube::Error, context: Arc<Context>) -> Action {
    let pause = context.retries.next(&pool.uid().unwrap_or_default());
    if retry::is_of_ending_namespace(error) {
        tracing::debug!(pool = %pool.name_any(), %error, ?pause, "its namespace is being deleted");
    } else {
        tracing::warn!(pool = %pool.name_any(), %error, ?pause, "reconcile failed");
    }
    Action::requeue(pause)
}

async fn pass(pool: &AgentPool, context: &Context) -> Result<Action, kube::Error> {
    let namespace = pool.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let there: Vec<_> = context
        .world
        .stores
        .pods
        .state()
        .into_iter()
        .filter(|pod| {
            pod.namespace().as_ref() == Some(&namespace)
                && objects::group_of(pod).is_some_and(|group| group.pool == pool.name_any())
        })
        .collect();
    let used = groups(pool, &context.world);
    let known = context.world.stores.nodes.state();
    let mut wanted = BTreeMap::new();
    for group in &used {
        for node in nodes(&context.world, pool) {
            let pod = objects::pool_pod(pool, group, &node, &context.settings);
            wanted.insert((group.clone(), node), pod);
        }
    }
    let staying = there
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let staying: Vec<_> = staying
        .map(|pod| seen(pod, pool, &wanted, &used, &known, context))
        .collect();
    let steps = succession::steps(wanted.keys(), &staying);
    for name in &steps.delete {
        tracing::info!(pod = %name, "delete pool pod");
        ignore_absent(api.delete(name, &DeleteParams::default()).await.map(drop))?;
    }
    for slot in &steps.make {
        let pod: Pod =
            serde_json::from_value(wanted[slot].clone()).map_err(kube::Error::SerdeError)?;
        match api
            .create(
                &PostParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PostParams::default()
                },
                &pod,
            )
            .await
        {
            Ok(_) => tracing::info!(pod = %pod.name_any(), "made pool pod"),
            // The cache is behind; the pod's own event comes.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    let wait = write_status(pool, &there, wanted.len(), context).await?;
    let look = match steps.is_waiting {
        true => SUCCESSION_LOOK,
        false => RESYNC,
    };
    Ok(Action::requeue(wait.map_or(look, |wait| wait.min(look))))
}

/// A pod as [`succession::steps`] sees it.
fn seen(
    pod: &Pod,
    pool: &AgentPool,
    wanted: &BTreeMap<Slot, serde_json::Value>,
    used: &BTreeSet<GroupKey>,
    known: &[Arc<Node>],
    context: &Context,
) -> There {
    let slot = objects::group_of(pod).zip(objects::node_of(pod).map(str::to_owned));
    let template = slot.as_ref().and_then(|slot| wanted.get(slot));
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let fleet = &context.world.fleet;
    let answers = fleet.answered_by(&pod.uid().unwrap_or_default());
    let is_asked = objects::group_of(pod)
        .is_some_and(|group| !used.contains(&group) && context.world.is_asked(&group));
    There {
        name: pod.name_any(),
        is_current: template.is_some_and(|wanted| objects::is_current(pod, wanted)),
        is_ended: matches!(phase, Some("Failed" | "Succeeded")),
        is_stuck: objects::is_unschedulable(pod),
        stays: stays(pod, pool, used, known),
        is_asked,
        is_unknown: answers.is_none() && objects::is_ready(pod) && !fleet.is_settled(),
        answers,
        slot,
    }
}

/// Whether a pod goes on although its node gets no new one: the node is cordoned, its kubelet is silent or its runtime
/// is being verified, and what runs there still answers. What is on other nodes goes when its functions are answered elsewhere
/// (`succession`), and nowhere does a pod stay that no function uses.
fn stays(pod: &Pod, pool: &AgentPool, used: &BTreeSet<GroupKey>, nodes: &[Arc<Node>]) -> bool {
    let is_used = objects::group_of(pod).is_some_and(|group| used.contains(&group));
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    is_used
        && nodes.iter().any(|node| {
            node.metadata.name == name && is_selected(node, pool) && !is_usable(node, pool)
        })
}

fn is_selected(node: &Node, pool: &AgentPool) -> bool {
    let labels = node.labels();
    pool.spec
        .node_selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn ignore_absent(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// The groups of a pool that some function uses.
fn groups(pool: &AgentPool, world: &World) -> BTreeSet<GroupKey> {
    let namespace = pool.namespace().unwrap_or_default();
    let dedicated = pool.spec.isolation == Some(Isolation::Dedicated);
    let functions = world.stores.functions.state();
    let used = functions.iter().filter(|f| {
        f.metadata.deletion_timestamp.is_none()
            && f.namespace().as_ref() == Some(&namespace)
            && crate::world::pool_name(f) == pool.name_any()
    });
    let group = |function: Option<String>| GroupKey {
        namespace: namespace.clone(),
        pool: pool.name_any(),
        function,
    };
    used.map(|function| group(dedicated.then(|| function.name_any())))
        .collect()
}

/// Writes the status where it says something else than before. Returns how long to wait where only numbers differ and it is
/// not their turn: of a thousand pods that connect, not each is a write.
async fn write_status(
    pool: &AgentPool,
    there: &[Arc<Pod>],
    wanted: usize,
    context: &Context,
) -> Result<Option<Duration>, kube::Error> {
    let connected = there
        .iter()
        .filter(|pod| {
            pod.uid()
                .is_some_and(|uid| context.world.fleet.is_connected(&uid))
        })
        .count();
    let before = pool.status.clone().unwrap_or_default();
    let (holds, reason, message) = match (wanted, connected) {
        (0, _) if nodes(&context.world, pool).is_empty() => (
            false,
            Reason::NoNode,
            "no Ready node carries the label hearth.dev/ready=true and matches the selector"
                .to_owned(),
        ),
        (0, _) => (
            true,
            Reason::Serving,
            "no function uses the pool".to_owned(),
        ),
        (wanted, connected) if connected >= wanted => (
            true,
            Reason::Serving,
            format!("{connected} pods are connected"),
        ),
        (wanted, connected) => (
            false,
            Reason::WaitingForPool,
            format!("{connected} of {wanted} pods are connected"),
        ),
    };
    let ready = Wanted {
        kind: ConditionType::Ready,
        holds: Some(holds),
        reason,
        message,
    };
    let generation = pool.metadata.generation.unwrap_or_default();
    let status = AgentPoolStatus {
        observed_generation: pool.metadata.generation,
        conditions: condition::merge(
            vec![ready],
            &before.conditions,
            generation,
            &Time(Timestamp::now()),
        ),
        pods: i32::try_from(there.len()).unwrap_or(i32::MAX),
        connected: i32::try_from(connected).unwrap_or(i32::MAX),
    };
    if status == before {
        return Ok(None);
    }
    let meaning = |status: &AgentPoolStatus| {
        let conditions = status.conditions.iter();
        let conditions: Vec<_> = conditions
            .map(|c| (c.status.clone(), c.reason.clone()))
            .collect();
        (conditions, status.observed_generation)
    };
    if meaning(&status) == meaning(&before)
        && let Err(wait) = context
            .pace
            .take(&pool.uid().unwrap_or_default(), Instant::now())
    {
        return Ok(Some(wait));
    }
    let pools: Api<AgentPool> = Api::namespaced(
        context.client.clone(),
        &pool.namespace().unwrap_or_default(),
    );
    let patch = json!({"apiVersion": "hearth.dev/v1alpha1", "kind": "AgentPool", "status": status});
    pools
        .patch_status(
            &pool.name_any(),
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(patch),
        )
        .await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(label: &str, cordoned: bool) -> Arc<Node> {
        let node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", NODE_READY_LABEL: label}},
            "spec": {"unschedulable": cordoned},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }));
        Arc::new(node.unwrap())
    }

    fn pool(zone: &str) -> AgentPool {
        let spec = serde_json::from_value(json!({"nodeSelector": {"zone": zone}}));
        AgentPool::new("p", spec.unwrap())
    }

    fn group(pool: &str) -> GroupKey {
        GroupKey {
            namespace: "ns".to_owned(),
            pool: pool.to_owned(),
            function: None,
        }
    }

    #[test]
    fn a_pod_stays_on_a_selected_node_that_gets_none_while_a_function_uses_it() {
        let pod = json!({
            "metadata": {"name": "p-1", "namespace": "ns", "labels": {hearth_api::POOL_LABEL: "p"}},
            "spec": {"nodeName": "n1", "containers": []},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let check = |nodes: &[Arc<Node>], zone: &str, used: &str, expected: bool| {
            let used = BTreeSet::from([group(used)]);
            let stays = stays(&pod, &pool(zone), &used, nodes);
            assert_eq!(stays, expected, "{nodes:?}, zone {zone}, used: {used:?}");
        };
        let (cordoned, unverified) = ([node("true", true)], [node("false", false)]);
        check(&cordoned, "a", "p", true);
        check(&unverified, "a", "p", true);
        // Nothing keeps a pod that no function uses.
        check(&cordoned, "a", "other", false);
        check(&unverified, "a", "other", false);
        // The node is gone, or the pool's no longer.
        check(&[], "a", "p", false);
        check(&unverified, "b", "p", false);
        // Whether it stays on a node that gets one is decided by what the node gets.
        check(&[node("true", false)], "a", "p", false);
    }
}
