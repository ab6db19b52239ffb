//! Pools and nodes: pool pods come and go with the nodes.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use hearth_api::NODE_READY_LABEL;
use hearth_cluster::layout::{NodeNumber, node_name};
use hearth_e2e::load::Ongoing;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::Api;

use crate::support::{HELLO, METRICS, is_warm, ready_since};

/// The function of this group.
const NAME: &str = "everywhere";

pub(crate) async fn a_node_joins_and_leaves_and_no_call_fails(cx: &Cx) -> Result<()> {
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
    let mut held = 0.0;
    for pod in cx.pool_pods().await? {
        let labels = [&format!("function=\"{NAME}\"")[..], "state=\"warm\""];
        let warm = cx
            .metric(&pod, METRICS, "hearth_instances", &labels)
            .await?;
        // More where there are more callers, and one at least.
        ensure!(warm >= 1.0, "{} holds none of {replicas}", pod.name_any());
        held += warm;
        is_called(cx, &pod).await?;
    }
    ensure!(held == f64::from(replicas), "{held} of {replicas} are held");

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
