//! What may go away while calls go on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_api::LEADER_LABEL;
use hearth_e2e::load::Ongoing;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};

use crate::support::{HELLO, is_warm};

/// Where the operator is.
const NAMESPACE: &str = "hearth-system";
/// Name of its Deployment and of its Lease.
const OPERATOR: &str = "hearth-operator";
/// What a follower may take beyond the Lease's time: it waits for up to a second, so that not all grasp for it at once.
const TAKEOVER: Duration = Duration::from_secs(5);

pub(crate) async fn another_operator_leads_when_the_leader_is_killed(cx: &Cx) -> Result<()> {
    let deployment = format!("deployment/{OPERATOR}");
    let before = operators_kubectl(cx, &["get", &deployment, "-o=jsonpath={.spec.replicas}"])?;
    let before = before.trim().parse()?;
    let outcome = hand_over(cx).await;
    // After a failure too: other cases expect the operators as they were.
    let restored = scale(cx, before).await;
    outcome.and(restored.map(drop))
}

async fn hand_over(cx: &Cx) -> Result<()> {
    let leader = scale(cx, 2).await?;
    cx.ready_function("old", HELLO, "  replicas: 2").await?;
    is_warm(cx, "old", 2).await?;
    let calls = Ongoing::start(&cx.route("old").await?, "/");

    let term = lease(cx).await?.lease_duration_seconds;
    let term = Duration::from_secs(term.context("the Lease has a duration")?.try_into()?);
    kill(cx, &leader).await?;
    leader_other_than(cx, Some(&leader), term + TAKEOVER).await?;

    // The new leader carries out what is new, and reaches the pool pods that the old one had.
    cx.ready_function("new", HELLO, "  replicas: 1").await?;
    let answer = call::get(&cx.route("new").await?, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    cx.kubectl(&["scale", "agentfunction/old", "--replicas=5"])?;
    is_warm(cx, "old", 5).await?;
    calls.end().await?.none_failed()
}

/// Ends the leader without a word: told to end, which deleting its pod would do, it gives the Lease back.
async fn kill(cx: &Cx, leader: &Pod) -> Result<()> {
    let uid = leader.uid().context("a pod has a UID")?;
    cx.cluster.kill9_in_pod(&uid, OPERATOR)?;
    // Else kubelet starts it again, and it goes on under the name that holds the Lease.
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let name = leader.name_any();
    operators(cx).delete(&name, &parameters).await?;
    Ok(())
}

/// Scales the operator, waits until as many run and one of them leads, and returns that one.
async fn scale(cx: &Cx, replicas: usize) -> Result<Pod> {
    let deployment = format!("deployment/{OPERATOR}");
    operators_kubectl(
        cx,
        &["scale", &deployment, &format!("--replicas={replicas}")],
    )?;
    until(&format!("{replicas} operators"), SETTLE, || async {
        let pods = operator_pods(cx).await?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let all = pods.len();
        Ok(Seen::when(
            (ready, all) == (replicas, replicas),
            (),
            format!("{ready} of {all} are Ready"),
        ))
    })
    .await?;
    leader_other_than(cx, None, SETTLE).await
}

/// Waits until a pod holds the Lease and carries the label that the stream's Service selects.
async fn leader_other_than(cx: &Cx, old: Option<&Pod>, deadline: Duration) -> Result<Pod> {
    let old = old.map(ResourceExt::name_any);
    until("an operator to lead", deadline, || async {
        let holder = lease(cx).await?.holder_identity;
        let pods = operator_pods(cx).await?;
        let leads = |pod: &&Pod| {
            let name = Some(pod.name_any());
            let label = pod.labels().get(LEADER_LABEL);
            name == holder && name != old && label.is_some_and(|value| value == "true")
        };
        let leader = pods.iter().find(leads).cloned();
        Ok(leader.map_or_else(
            || Seen::NotYet(format!("the Lease is held by {holder:?}")),
            Seen::Yes,
        ))
    })
    .await
}

async fn lease(cx: &Cx) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(cx.client.clone(), NAMESPACE);
    Ok(leases.get(OPERATOR).await?.spec.unwrap_or_default())
}

fn operators(cx: &Cx) -> Api<Pod> {
    Api::namespaced(cx.client.clone(), NAMESPACE)
}

async fn operator_pods(cx: &Cx) -> Result<Vec<Pod>> {
    let component = ListParams::default().labels("app.kubernetes.io/component=operator");
    Ok(operators(cx).list(&component).await?.items)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn operators_kubectl(cx: &Cx, words: &[&str]) -> Result<String> {
    cx.cluster
        .kubectl(&[&["--namespace", NAMESPACE][..], words].concat())
}
