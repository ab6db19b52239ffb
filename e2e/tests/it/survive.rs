//! What may go away while calls go on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_api::LEADER_LABEL;
use hearth_e2e::load::{Ongoing, Steady};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};

use crate::pods;
use crate::support::{self, Backdoor, Callers, HELLO, METRICS, is_warm, mischief, restarts};

/// The engine's program, and where it is on a node.
pub(crate) const ENGINE: &str = "hearth-engine";
const BIN: &str = hearth_cluster::node::BIN_DIRECTORY;

/// Where the operator is.
const NAMESPACE: &str = "hearth-system";
/// Name of its Deployment and of its Lease.
pub(crate) const OPERATOR: &str = "hearth-operator";
/// Calls go on without a leader, and nothing else does. A follower may take so long when the leader says nothing any more, and
/// so long when it says that it goes.
const SILENT: Duration = Duration::from_secs(15);
const POLITE: Duration = Duration::from_secs(3);

pub(crate) async fn another_operator_leads_when_the_leader_leaves_and_when_it_is_killed(
    cx: &Cx,
) -> Result<()> {
    and_operators_as_before(cx, hand_over(cx)).await
}

/// Does what scales the operator. After a failure too there are as many as before: other cases expect them.
async fn and_operators_as_before(cx: &Cx, case: impl Future<Output = Result<()>>) -> Result<()> {
    let deployment = format!("deployment/{OPERATOR}");
    let before = operators_kubectl(cx, &["get", &deployment, "-o=jsonpath={.spec.replicas}"])?;
    let before = before.trim().parse()?;
    let outcome = case.await;
    let restored = scale_to_lead(cx, before).await;
    outcome.and(restored.map(drop))
}

async fn hand_over(cx: &Cx) -> Result<()> {
    let leader = scale_to_lead(cx, 2).await?;
    cx.ready_function("old", HELLO, "  replicas: 2").await?;
    is_warm(cx, "old", 2).await?;
    let scaling = "  replicas: 1\n  limits: {deadlineMilliseconds: 2000}\n  reuse: {calls: 100}\n  scaling: {maxReplicas: 8, policy: Reactive}";
    cx.ready_function("busy", &mischief(cx)?, scaling).await?;
    let callers = Callers::start(&cx.route("busy").await?, CALLERS);
    let calls = Ongoing::start(&cx.route("old").await?, "/");
    until("calls to raise the number", SETTLE, || async {
        let wanted = wanted(cx).await?;
        Ok(Seen::when(wanted > CALLERS, (), wanted.to_string()))
    })
    .await?;
    let lowest = Lowest::start(cx);

    // The Deployment brings another replica meanwhile.
    let polite = DeleteParams::default();
    operators(cx).delete(&leader.name_any(), &polite).await?;
    let second = leader_other_than(cx, Some(&leader), POLITE).await?;
    is_told(cx, "second").await?;

    // With a follower that is ready to.
    scale(cx, 2).await?;
    kill(cx, &second).await?;
    leader_other_than(cx, Some(&second), SILENT).await?;
    // The new leader carries out what is new, and reaches the pool pods that the old one had.
    is_told(cx, "third").await?;
    cx.kubectl(&["scale", "agentfunction/old", "--replicas=5"])?;
    is_warm(cx, "old", 5).await?;

    // Neither forgot how many the calls needed.
    let lowest = lowest.end().await?;
    ensure!(lowest >= CALLERS, "a leader wanted {lowest}");
    callers.end().await?;
    calls.end().await?.none_failed()
}

/// A network that parts the leader from the API server and from nothing else: pool pods reach it as before.
pub(crate) async fn a_leader_that_the_api_server_does_not_hear_leads_no_more(
    cx: &Cx,
) -> Result<()> {
    and_operators_as_before(cx, cut_off(cx)).await
}

async fn cut_off(cx: &Cx) -> Result<()> {
    let leader = scale_to_lead(cx, 2).await?;
    let uid = leader.uid().context("a pod has a UID")?;
    cx.ready_function("old", HELLO, "  replicas: 2").await?;
    is_warm(cx, "old", 2).await?;
    let calls = Ongoing::start(&cx.route("old").await?, "/");
    let services: Api<Service> = Api::namespaced(cx.client.clone(), "default");
    let api = services.get("kubernetes").await?.spec;
    let api = api.and_then(|spec| spec.cluster_ip).context("an address")?;

    let wall = cx.cluster.cut_off_pod(&uid, OPERATOR, api.parse()?)?;
    let stops = until("the old leader to stop", SETTLE, || async {
        let leads = cx.metric(&leader, OPERATOR_METRICS, "hearth_operator_leader", &[]);
        let leads = leads.await?;
        Ok(Seen::when(leads == 0.0, Timestamp::now(), "it leads"))
    });
    let (stopped, leads) = tokio::join!(stops, leader_other_than(cx, Some(&leader), SILENT));
    leads?;
    // Nothing is written by two: it had stopped when the other one began, but for the time between two looks.
    let began = lease(cx).await?.acquire_time.context("a time")?.0;
    let overlap = stopped?.duration_since(began);
    ensure!(overlap < LOOKS, "both led for {overlap:?}");
    // Pool pods have found the new one: what is new is carried out.
    is_told(cx, "later").await?;
    cx.kubectl(&["scale", "agentfunction/old", "--replicas=4"])?;
    is_warm(cx, "old", 4).await?;

    drop(wall);
    // It follows.
    scale(cx, 2).await?;
    let name = leader.name_any();
    until("the Lease to be another's", SETTLE, || async {
        let holder = lease(cx).await?.holder_identity;
        Ok(Seen::when(holder.as_ref() != Some(&name), (), name.clone()))
    })
    .await?;
    calls.end().await?.none_failed()
}

/// A metric is asked for more often than that.
const LOOKS: SignedDuration = SignedDuration::from_millis(500);
/// Port of the operator's metrics.
const OPERATOR_METRICS: u16 = 8080;

/// Callers of the function that scales.
const CALLERS: i32 = 4;

/// Applies a function and calls it.
async fn is_told(cx: &Cx, name: &str) -> Result<()> {
    cx.ready_function(name, HELLO, "  replicas: 1").await?;
    let answer = call::get(&cx.route(name).await?, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

async fn wanted(cx: &Cx) -> Result<i32> {
    let status = cx.functions().get("busy").await?.status;
    Ok(status.and_then(|status| status.wanted).unwrap_or(0))
}

/// The lowest number that was wanted while this looked.
struct Lowest(tokio::task::JoinHandle<Result<i32>>, Arc<AtomicBool>);

impl Lowest {
    fn start(cx: &Cx) -> Self {
        let (functions, is_enough) = (cx.functions(), Arc::new(AtomicBool::new(false)));
        let enough = is_enough.clone();
        let look = async move {
            let mut lowest = i32::MAX;
            while !enough.load(Ordering::Relaxed) {
                let status = functions.get("busy").await?.status;
                lowest = lowest.min(status.and_then(|status| status.wanted).unwrap_or(0));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(lowest)
        };
        Self(tokio::spawn(look), is_enough)
    }

    async fn end(self) -> Result<i32> {
        self.1.store(true, Ordering::Relaxed);
        self.0.await?
    }
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
async fn scale_to_lead(cx: &Cx, replicas: usize) -> Result<Pod> {
    scale(cx, replicas).await?;
    leader_other_than(cx, None, SETTLE).await
}

/// One operator, which leads.
pub(crate) async fn lead(cx: &Cx) -> Result<()> {
    scale_to_lead(cx, 1).await.map(drop)
}

/// The operator that leads.
pub(crate) async fn leader(cx: &Cx) -> Result<Pod> {
    leader_other_than(cx, None, SETTLE).await
}

/// Scales the operator and waits until as many run.
pub(crate) async fn scale(cx: &Cx, replicas: usize) -> Result<()> {
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
    .await
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

/// How long callers may wait for the next engine.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a pool may be less warm than its targets.
const WARM_AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn a_killed_engine_costs_the_calls_in_it_and_no_restart(cx: &Cx) -> Result<()> {
    const KILLS: u64 = 3;
    cx.apply(&pods::pod("plain", HELLO))?;
    let pod = pods::running(cx, "plain").await?;
    let uid = pod.uid().context("a pod has a UID")?;
    let address = pod.status.and_then(|status| status.pod_ip);
    let address = format!("{}:8080", address.context("an address")?);
    let calls = Ongoing::start(&address, "/");
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cx.cluster.kill9_in_pod(&uid, ENGINE)?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let load = calls.end().await?;
    let slowest = load.slowest();
    println!(
        "an engine was killed {KILLS} times: {} calls answered, {} failed, the slowest took {slowest:?}",
        load.micros.len(),
        load.failed
    );
    ensure!(
        load.failed <= KILLS,
        "{} of one caller's calls failed: {:?}",
        load.failed,
        load.problem
    );
    ensure!(
        slowest < AGAIN,
        "a call waited {slowest:?} for the next engine"
    );
    let pod = cx.pods().get("plain").await?;
    ensure!(restarts(&pod) == 0, "{:?}", pod.status);
    Ok(())
}

pub(crate) async fn a_killed_engine_of_a_pool_is_warm_again_and_counts_its_lost_calls(
    cx: &Cx,
) -> Result<()> {
    let image = support::mischief(cx)?;
    cx.ready_function("mischief", &image, "  replicas: 20")
        .await?;
    is_warm(cx, "mischief", 20).await?;
    let address = cx.route("mischief").await?;
    let pod = cx.pool_pod().await?;
    let uid = pod.uid().context("a pod has a UID")?;
    let hanging = tokio::spawn({
        let address = address.clone();
        async move { call::get(&address, "/never").await }
    });
    let in_use = ["function=\"mischief\"", "state=\"in_use\""];
    until("a call in the engine", SETTLE, || async {
        let calls = cx
            .metric(&pod, METRICS, "hearth_instances", &in_use)
            .await?;
        Ok(Seen::when(calls == 1.0, (), calls.to_string()))
    })
    .await?;
    // The engine's last word about it is at most so old.
    tokio::time::sleep(Duration::from_millis(200)).await;
    cx.cluster.kill9_in_pod(&uid, ENGINE)?;
    let since = Instant::now();
    let answer = call::get(&address, "/hello").await?;
    let again = since.elapsed();
    ensure!(answer.status == 200, "{answer:?}");
    until("20 to be warm", SETTLE, || async {
        Ok(match support::warm_in_engines(cx, "mischief").await {
            Ok(warm) => Seen::when(warm == 20.0, (), warm.to_string()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    let warm = since.elapsed();
    println!("a pool's engine was killed: answered after {again:?}, 20 warm after {warm:?}");
    ensure!(again < AGAIN, "answered after {again:?}");
    ensure!(warm < WARM_AGAIN, "warm after {warm:?}");
    ensure!(hanging.await?.is_err(), "the call was in the engine");
    let lost = ["function=\"mischief\"", "outcome=\"engine_lost\""];
    let lost = cx
        .metric(&pod, METRICS, "hearth_calls_total", &lost)
        .await?;
    ensure!(lost == 1.0, "{lost} calls were lost");
    let name = pod.name_any();
    ensure!(restarts(&cx.pods().get(&name).await?) == 0);
    Ok(())
}

pub(crate) async fn a_killed_shim_ends_its_pod_with_a_reason_and_no_other(cx: &Cx) -> Result<()> {
    let before = support::traces_before(cx).await?;
    for name in ["killed", "neighbour"] {
        cx.apply(&pods::pod(name, HELLO))?;
    }
    let pod = pods::running(cx, "killed").await?;
    let neighbour = pods::running(cx, "neighbour").await?;
    let address = neighbour.status.and_then(|status| status.pod_ip);
    let calls = Ongoing::start(&format!("{}:8080", address.context("an address")?), "/");
    cx.cluster
        .kill9_shim_of_pod(&pod.uid().context("a pod has a UID")?)?;
    let all = cx.pods();
    let said = until("the container to be started again", SETTLE, || async {
        let statuses = all.get("killed").await?.status;
        let statuses = statuses.and_then(|status| status.container_statuses);
        let status = statuses.unwrap_or_default().into_iter().next();
        let status = status.context("a container")?;
        let last = status.last_state.clone().and_then(|last| last.terminated);
        Ok(match (status.ready, last) {
            (true, Some(last)) => Seen::Yes(last),
            _ => Seen::NotYet(format!("{status:?}")),
        })
    })
    .await?;
    support::contains(
        "the reason",
        &said.message.unwrap_or_default(),
        "shim ended",
    )?;
    calls.end().await?.none_failed()?;
    ensure!(restarts(&all.get("neighbour").await?) == 0);
    cx.kubectl(&["delete", "pod", "killed", "neighbour", "--timeout=60s"])?;
    support::nothing_left(cx, before).await
}

pub(crate) async fn a_newer_engine_takes_over_and_no_call_fails(cx: &Cx) -> Result<()> {
    cx.apply(&pods::pod("plain", HELLO))?;
    let pod = pods::running(cx, "plain").await?;
    cx.ready_function("function", HELLO, "  replicas: 5")
        .await?;
    is_warm(cx, "function", 5).await?;
    let address = pod.status.clone().and_then(|status| status.pod_ip);
    let plain = Steady::start(&format!("{}:8080", address.context("an address")?), 250);
    let pool = Steady::start(&cx.route("function").await?, 250);
    let pool_pod = cx.pool_pods().await?.into_iter().next();
    let uids = [pod.uid(), pool_pod.and_then(|pod| pod.uid())];
    let mut before = Vec::new();
    for uid in uids {
        let uid = uid.context("a pod has a UID")?;
        before.push((cx.cluster.pids_in_pod(&uid, ENGINE)?, uid));
    }
    // As an installation does: another file takes the place of the program.
    for node in 1..=cx.cluster.nodes()? {
        let script = format!(
            "cp -p {BIN}/{ENGINE} {BIN}/{ENGINE}.new && mv {BIN}/{ENGINE}.new {BIN}/{ENGINE}"
        );
        let done = cx
            .cluster
            .command_on_node(node, "sh")?
            .args(["-c", &script])
            .status()?;
        ensure!(done.success(), "replace the engine of node {node}");
    }
    for (old, uid) in &before {
        until("another engine alone", SETTLE, || async {
            let now = cx.cluster.pids_in_pod(uid, ENGINE)?;
            let is_other = now.len() == 1 && now != *old;
            Ok(Seen::when(
                is_other,
                (),
                format!("{now:?}, before: {old:?}"),
            ))
        })
        .await?;
    }
    is_warm(cx, "function", 5).await?;
    plain.end().await?.none_failed()?;
    pool.end().await?.none_failed()
}

pub(crate) async fn a_function_that_engines_die_of_is_kept_away_and_the_others_run_on(
    cx: &Cx,
) -> Result<()> {
    let backdoor = Backdoor::install(cx)?;
    let image = support::guest(cx, "backdoor")?;
    cx.ready_function("good", HELLO, "  replicas: 2").await?;
    cx.ready_function("poison", &image, "  replicas: 2").await?;
    let (good, poison) = (cx.route("good").await?, cx.route("poison").await?);
    let functions = cx.functions();
    // Callers of it go on as long as somebody answers; each call ends an engine.
    let message = until("the function to be kept away", SETTLE, || async {
        // It fails with the engine; nobody may listen.
        let called = call::get(&poison, "/crash").await;
        let status = functions.get("poison").await?.status.unwrap_or_default();
        let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready");
        Ok(match ready {
            Some(ready) if ready.reason == "Quarantined" => Seen::Yes(ready.message),
            _ => Seen::NotYet(format!("{called:?}")),
        })
    })
    .await?;
    support::contains("the condition", &message, "engines ended in a row")?;
    let calls = Ongoing::start(&good, "/");
    // It comes back when its time is over, and whoever changes it does not wait for that.
    cx.kubectl(&[
        "patch",
        "agentfunction/poison",
        "--type=merge",
        "--patch={\"spec\":{\"limits\":{\"concurrency\":7}}}",
    ])?;
    cx.condition("poison", "Ready", "True").await?;
    let answer = call::get(&cx.route("poison").await?, "/others").await?;
    ensure!(
        (answer.status, answer.body.as_str()) == (200, ""),
        "{answer:?}"
    );
    calls.end().await?.none_failed()?;
    let pod = cx.pool_pod().await?;
    ensure!(restarts(&pod) == 0, "{:?}", pod.status);
    backdoor.remove(cx).await
}
