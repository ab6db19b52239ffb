//! One replica leads: it holds the Lease, and its pod carries the label that the stream's Service selects.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_api::LEADER_LABEL;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube_lease_manager::LeaseManagerBuilder;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::world::World;

/// A leader that is silent this long is replaced.
const LEASE_SECONDS: u64 = 12;
/// The leader renews this long before.
const GRACE_SECONDS: u64 = 4;

/// Who this replica is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Name of its pod.
    pub(crate) pod: String,
    /// Namespace of its pod.
    pub(crate) namespace: String,
}

/// Follows the Lease until `stop`, then gives it back. `led` is called each time this replica begins to lead.
///
/// # Errors
/// When the Lease cannot be used, or was lost: the process then ends and starts anew as a follower.
pub(crate) async fn run(
    client: Client,
    me: Identity,
    world: Arc<World>,
    metrics: Metrics,
    stop: CancellationToken,
    led: impl Fn(),
) -> Result<()> {
    let manager = LeaseManagerBuilder::new(client.clone(), "hearth-operator")
        .with_namespace(&me.namespace)
        .with_identity(&me.pod)
        .with_duration(LEASE_SECONDS)
        .with_grace(GRACE_SECONDS)
        .build()
        .await
        .context("the Lease hearth-operator")?;
    let (mut leads, task) = manager.watch().await;
    let mut was_leading = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = leads.changed() => if changed.is_err() { break },
        }
        let leading = *leads.borrow_and_update();
        anyhow::ensure!(
            !was_leading || leading,
            "the Lease was lost; starting anew as a follower"
        );
        if leading && !was_leading {
            label(&client, &me)
                .await
                .context("label the leader's pod")?;
            tracing::info!("leading");
            world.set_leading(true);
            metrics.leader.set(1);
            led();
        }
        was_leading = leading;
    }
    world.set_leading(false);
    metrics.leader.set(0);
    // Closing the channel releases the Lease, so that a follower need not wait for it to run out.
    drop(leads);
    let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    Ok(())
}

/// Puts the label on our pod and takes it from any other.
async fn label(client: &Client, me: &Identity) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &me.namespace);
    let labelled = pods
        .list(&ListParams::default().labels(&format!("{LEADER_LABEL}=true")))
        .await?;
    for other in labelled
        .items
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| name != &me.pod)
    {
        let patch = json!({"metadata": {"labels": {LEADER_LABEL: null}}});
        match pods
            .patch(&other, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result?),
        }
    }
    let patch = json!({"metadata": {"labels": {LEADER_LABEL: "true"}}});
    pods.patch(&me.pod, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}
