//! Pools and nodes: pool pods come and go with the nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use hearth_api::{FUNCTION_LABEL, NODE_READY_LABEL};
use hearth_cluster::http;
use hearth_cluster::layout::{NodeNumber, node_name};
use hearth_e2e::load::{Ongoing, Steady};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::Api;

use crate::support::{Callers, HELLO, METRICS, is_warm, mischief, ready_since};

/// The function of this group.
const NAME: &str = "everywhere";

pub(crate) async fn a_changed_pool_is_replaced_without_a_failed_call(cx: &Cx) -> Result<()> {
    cx.ready_function(NAME, HELLO, "  replicas: 2").await?;
    is_warm(cx, NAME, 2).await?;
    let since = ready_since(&cx.condition(NAME, "Ready", "True").await?)?;
    let before = uids(&cx.pool_pods().await?);
    let calls = Steady::start(&cx.route(NAME).await?, LOAD);
    // A pod's resources are part of what it is made of.
    let patch = r#"{"spec": {"resources": {"requests": {"cpu": "10m"}}}}"#;
    cx.kubectl(&["patch", "agentpool", "default", "--type=merge", "-p", patch])?;
    until("all pool pods to be others", SETTLE, || async {
        let pods = cx.pool_pods().await?;
        let now = uids(&pods);
        let is_replaced = now.len() == before.len() && now.is_disjoint(&before);
        Ok(Seen::when(
            is_replaced,
            (),
            format!("{before:?}, now {now:?}"),
        ))
    })
    .await?;
    is_warm(cx, NAME, 2).await?;
    calls.end().await?.none_failed()?;
    let function = cx.condition(NAME, "Ready", "True").await?;
    ensure!(ready_since(&function)? == since, "{:?}", function.status);
    Ok(())
}

/// From pods that it shares to pods of its own, to those of another pool, and to other nodes: each time pods that were there
/// answer until others do.
pub(crate) async fn a_function_goes_elsewhere_without_a_failed_call(cx: &Cx) -> Result<()> {
    cx.ready_function(NAME, HELLO, "  replicas: 2").await?;
    cx.ready_function("other", HELLO, "  replicas: 1").await?;
    is_warm(cx, NAME, 2).await?;
    let since = ready_since(&cx.condition(NAME, "Ready", "True").await?)?;
    let calls = Steady::start(&cx.route(NAME).await?, LOAD);

    let shared = uids(&cx.pool_pods().await?);
    let dedicated = r#"{"spec": {"isolation": "Dedicated"}}"#;
    cx.kubectl(&[
        "patch",
        "agentpool",
        "default",
        "--type=merge",
        "-p",
        dedicated,
    ])?;
    // One for each function on each node.
    let many = 2 * cx.cluster.nodes()? as usize;
    others_are_there(cx, &shared, many).await?;
    each_function_has_its_own_pods(cx).await?;
    is_warm(cx, NAME, 2).await?;

    cx.apply(
        "apiVersion: hearth.dev/v1alpha1\nkind: AgentPool\nmetadata:\n  name: second\nspec: {}\n",
    )?;
    let there = r#"{"spec": {"pool": {"name": "second"}}}"#;
    cx.kubectl(&["patch", "agentfunction", NAME, "--type=merge", "-p", there])?;
    let before = uids(&of_function(cx, NAME).await?);
    others_are_there(cx, &before, many).await?;
    is_warm(cx, NAME, 2).await?;

    // Nodes that are not there yet: who answers goes on.
    let nowhere = r#"{"spec": {"nodeSelector": {"hearth.test/zone": "a"}}}"#;
    cx.kubectl(&[
        "patch",
        "agentpool",
        "second",
        "--type=merge",
        "-p",
        nowhere,
    ])?;
    let no_node = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=NoNode";
    cx.kubectl(&[
        "wait",
        "agentpool/second",
        &format!("--for={no_node}"),
        "--timeout=60s",
    ])?;
    let answer = call::get(&cx.route(NAME).await?, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let anywhere = r#"[{"op": "remove", "path": "/spec/nodeSelector"}]"#;
    cx.kubectl(&[
        "patch",
        "agentpool",
        "second",
        "--type=json",
        "-p",
        anywhere,
    ])?;
    cx.kubectl(&[
        "wait",
        "agentpool/second",
        "--for=condition=Ready",
        "--timeout=60s",
    ])?;

    let load = calls.end().await?;
    load.none_failed()?;
    let function = cx.condition(NAME, "Ready", "True").await?;
    ensure!(ready_since(&function)? == since, "{:?}", function.status);
    Ok(())
}

pub(crate) async fn a_namespace_has_no_more_warm_instances_than_its_quota(cx: &Cx) -> Result<()> {
    let quota = |most: u32| {
        cx.apply(&format!(
            "apiVersion: v1\nkind: ResourceQuota\nmetadata:\n  name: agents\nspec:\n  hard: {{hearth.dev/warm-instances: \"{most}\"}}\n"
        ))
    };
    quota(6)?;
    cx.ready_function(NAME, HELLO, "  replicas: 8").await?;
    // Who wants little gets all of it, and the rest is for who wants more.
    cx.ready_function("other", HELLO, "  replicas: 2").await?;
    let short = cx.condition(NAME, "Warm", "False").await?;
    let conditions = short.status.iter().flat_map(|status| &status.conditions);
    let warm = conditions.into_iter().find(|c| c.type_ == "Warm");
    let warm = warm.context("a condition Warm")?;
    ensure!(
        warm.reason == "Insufficient" && warm.message.contains("ResourceQuota"),
        "{warm:?}"
    );
    is_warm(cx, NAME, 4).await?;
    is_warm(cx, "other", 2).await?;
    let answer = call::get(&cx.route(NAME).await?, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    quota(10)?;
    cx.condition(NAME, "Warm", "True").await?;
    is_warm(cx, NAME, 8).await
}

/// Calls a second, most over connections that are kept.
const LOAD: u32 = 100;

/// Waits until the namespace has so many pool pods, and none of those of before.
async fn others_are_there(cx: &Cx, before: &BTreeSet<String>, many: usize) -> Result<()> {
    until("all pool pods to be others", SETTLE, || async {
        let pods = cx.pool_pods().await?;
        let now = uids(&pods);
        let is_replaced = now.len() == many && now.is_disjoint(before);
        Ok(Seen::when(
            is_replaced,
            (),
            format!("{before:?}, now {now:?}"),
        ))
    })
    .await
}

/// No engine of a Dedicated pool holds another function than its own.
async fn each_function_has_its_own_pods(cx: &Cx) -> Result<()> {
    for (function, other) in [(NAME, "other"), ("other", NAME)] {
        let pods = of_function(cx, function).await?;
        ensure!(pods.len() == cx.cluster.nodes()? as usize, "{pods:?}");
        for pod in pods {
            let labels = [&format!("function=\"{other}\"")[..]];
            let held = cx
                .metric(&pod, METRICS, "hearth_instances", &labels)
                .await?;
            ensure!(held == 0.0, "{} holds {held} of {other}", pod.name_any());
        }
    }
    Ok(())
}

/// Pods that are one function's own.
async fn of_function(cx: &Cx, function: &str) -> Result<Vec<Pod>> {
    let mut pods = cx.pool_pods().await?;
    pods.retain(|pod| pod.labels().get(FUNCTION_LABEL).map(String::as_str) == Some(function));
    Ok(pods)
}

fn uids(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(ResourceExt::uid).collect()
}

pub(crate) async fn a_node_joins_is_drained_and_leaves_and_no_call_fails(cx: &Cx) -> Result<()> {
    let before = cx.cluster.nodes()?;
    let joined = before + 1;
    let outcome = joins_and_leaves(cx, joined).await;
    // After a failure too: other cases expect the cluster as it was.
    let removed = match cx.cluster.nodes()? > before {
        true => cx.cluster.remove_node(joined),
        false => Ok(()),
    };
    outcome.and(removed)
}

async fn joins_and_leaves(cx: &Cx, joined: NodeNumber) -> Result<()> {
    let (few, many) = (names(1..joined), names(1..=joined));
    // Two for each node once all are there.
    let replicas = 2 * i32::try_from(joined)?;
    let spec = format!("  replicas: {replicas}");
    cx.ready_function(NAME, HELLO, &spec).await?;
    endpoints_are_on(cx, &few).await?;
    is_warm(cx, NAME, replicas).await?;
    let since = ready_since(&cx.condition(NAME, "Ready", "True").await?)?;
    let calls = Ongoing::start(&cx.route(NAME).await?, "/");

    cx.cluster.add_node()?;
    is_labelled(cx, &node_name(joined)).await?;
    endpoints_are_on(cx, &many).await?;
    is_warm(cx, NAME, replicas).await?;
    all_are_held(cx, replicas).await?;
    for pod in cx.pool_pods().await? {
        is_called(cx, &pod).await?;
    }
    each_pod_follows_its_own_calls(cx, joined).await?;
    callers_are_answered_on_their_node(cx, joined).await?;

    // An administrator's `kubectl drain`: what runs there is evicted, and comes back when the node does.
    let node = node_name(joined);
    cx.kubectl(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"])?;
    endpoints_are_on(cx, &few).await?;
    is_warm(cx, NAME, replicas).await?;
    cx.kubectl(&["uncordon", &node])?;
    endpoints_are_on(cx, &many).await?;
    is_warm(cx, NAME, replicas).await?;

    cx.cluster.remove_node(joined)?;
    endpoints_are_on(cx, &few).await?;
    is_warm(cx, NAME, replicas).await?;
    let function = cx.condition(NAME, "Ready", "True").await?;
    calls.end().await?.none_failed()?;
    ensure!(
        ready_since(&function)? == since,
        "the function was not Ready in between: {:?}",
        function.status
    );
    Ok(())
}

/// Calls to the pool pod of one node raise what that pod holds, and no other.
async fn each_pod_follows_its_own_calls(cx: &Cx, node: NodeNumber) -> Result<()> {
    const BUSY: &str = "busy";
    const CALLERS: i32 = 4;
    let spec = "  replicas: 1\n  limits: {deadlineMilliseconds: 2000}\n  reuse: {calls: 100}\n  scaling: {maxReplicas: 16, policy: Reactive}";
    let function = cx.ready_function(BUSY, &mischief(cx)?, spec).await?;
    let port = function.status.and_then(|status| status.port);
    let port = port.context("a function that is Ready has a port")?;
    let node = node_name(node);
    let is_there = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref()) == Some(&node)
    };
    let pods = cx.pool_pods().await?;
    let called = pods.iter().find(|pod| is_there(pod));
    let called = called.and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
    let address = format!("{}:{port}", called.context("a pod on the node")?);
    let callers = Callers::start(&address, CALLERS);
    until("each pod to hold what it is called", SETTLE, || async {
        let (mut there, mut elsewhere) = (0.0, 0.0_f64);
        for pod in &pods {
            let labels = [&format!("function=\"{BUSY}\"")[..]];
            let held = cx.metric(pod, METRICS, "hearth_instances", &labels).await?;
            match is_there(pod) {
                true => there = held,
                false => elsewhere = elsewhere.max(held),
            }
        }
        // Those that are in a call, and one for the next.
        let is_sized = there > f64::from(CALLERS) && elsewhere <= 1.0;
        Ok(Seen::when(
            is_sized,
            (),
            format!("{there} there, {elsewhere} elsewhere"),
        ))
    })
    .await?;
    callers.end().await?;
    cx.kubectl(&["delete", "agentfunction", BUSY, "--timeout=60s"])
        .map(drop)
}

/// A Service that prefers the caller's node has each node's callers answered there, and anywhere when it no longer does.
async fn callers_are_answered_on_their_node(cx: &Cx, nodes: NodeNumber) -> Result<()> {
    const NEAR: &str = "near";
    let spec = "  service: {trafficDistribution: PreferSameNode}";
    cx.ready_function(NEAR, HELLO, spec).await?;
    let address = cx.route(NEAR).await?.parse()?;
    for node in 1..=nodes {
        let name = node_name(node);
        until(
            &format!("{name} to be answered by itself"),
            SETTLE,
            || async {
                let answered = answered_by(cx, NEAR, node, address).await?;
                let is_own = answered == BTreeSet::from([name.clone()]);
                Ok(Seen::when(is_own, (), format!("answered by {answered:?}")))
            },
        )
        .await?;
    }
    let patch = r#"{"spec": {"service": null}}"#;
    cx.kubectl(&["patch", "agentfunction", NEAR, "--type=merge", "-p", patch])?;
    until("all pods to answer again", SETTLE, || async {
        let answered = answered_by(cx, NEAR, 1, address).await?;
        let are_all = answered == names(1..=nodes);
        Ok(Seen::when(are_all, (), format!("answered by {answered:?}")))
    })
    .await?;
    cx.kubectl(&["delete", "agentfunction", NEAR, "--timeout=60s"])
        .map(drop)
}

/// The nodes whose pool pods answer 20 calls that come from a node.
async fn answered_by(
    cx: &Cx,
    function: &str,
    node: NodeNumber,
    address: SocketAddr,
) -> Result<BTreeSet<String>> {
    let labels = [
        &format!("function=\"{function}\"")[..],
        "outcome=\"answered\"",
    ];
    let pods = cx.pool_pods().await?;
    let mut before = Vec::new();
    for pod in &pods {
        before.push(
            cx.metric(pod, METRICS, "hearth_calls_total", &labels)
                .await?,
        );
    }
    let request = http::Request {
        method: "GET",
        path: "/",
        headers: &[],
        body: &[],
    };
    cx.cluster.enter_netns(node, || {
        for _ in 0..20 {
            let answer = http::send(address, function, request)?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        }
        Ok(())
    })?;
    let mut answered = BTreeSet::new();
    for (pod, before) in pods.iter().zip(before) {
        let calls = cx
            .metric(pod, METRICS, "hearth_calls_total", &labels)
            .await?;
        if calls > before {
            answered.extend(pod.spec.as_ref().and_then(|spec| spec.node_name.clone()));
        }
    }
    Ok(answered)
}

/// Waits until pool pods hold as many warm instances as are wanted, and each at least one: more where there are more callers.
/// One that is in a call is none that is warm, until there is another for it.
async fn all_are_held(cx: &Cx, replicas: i32) -> Result<()> {
    until(&format!("{replicas} to be held"), SETTLE, || async {
        let mut held = Vec::new();
        for pod in cx.pool_pods().await? {
            let labels = [&format!("function=\"{NAME}\"")[..], "state=\"warm\""];
            let warm = cx.metric(&pod, METRICS, "hearth_instances", &labels);
            held.push(warm.await?);
        }
        let all: f64 = held.iter().sum();
        Ok(Seen::when(
            all == f64::from(replicas) && held.iter().all(|warm| *warm >= 1.0),
            (),
            format!("{held:?}"),
        ))
    })
    .await
}

fn names(nodes: impl Iterator<Item = NodeNumber>) -> BTreeSet<String> {
    nodes.map(node_name).collect()
}

/// Waits until the installer says that a node can run pool pods.
async fn is_labelled(cx: &Cx, node: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(cx.client.clone());
    until(&format!("{node} to be labelled"), SETTLE, || async {
        let node = nodes.get(node).await?;
        let label = node.labels().get(NODE_READY_LABEL).cloned();
        Ok(Seen::when(
            label.as_deref() == Some("true"),
            (),
            format!("{label:?}"),
        ))
    })
    .await
}

/// Waits until pool pods run on these nodes, the function's Service has an endpoint on each, and neither is anywhere else.
async fn endpoints_are_on(cx: &Cx, nodes: &BTreeSet<String>) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(cx.client.clone(), &cx.namespace);
    until(&format!("endpoints on {nodes:?}"), SETTLE, || async {
        let endpoints = slices.get(NAME).await?.endpoints;
        let endpoints: Vec<_> = endpoints
            .into_iter()
            .filter_map(|endpoint| endpoint.node_name)
            .collect();
        let pods = cx.pool_pods().await?;
        let pods: Vec<_> = pods
            .into_iter()
            .filter_map(|pod| pod.spec?.node_name)
            .collect();
        let is_one_on_each = |places: &[String]| {
            places.len() == nodes.len() && places.iter().all(|place| nodes.contains(place))
        };
        Ok(Seen::when(
            is_one_on_each(&endpoints) && is_one_on_each(&pods),
            (),
            format!("endpoints on {endpoints:?}, pods on {pods:?}"),
        ))
    })
    .await
}

/// Waits until a pool pod has answered calls.
async fn is_called(cx: &Cx, pod: &Pod) -> Result<()> {
    let labels = [&format!("function=\"{NAME}\"")[..], "outcome=\"answered\""];
    until(&format!("calls to {}", pod.name_any()), SETTLE, || async {
        let calls = cx
            .metric(pod, METRICS, "hearth_calls_total", &labels)
            .await?;
        Ok(Seen::when(calls > 0.0, (), "none"))
    })
    .await
}
