//! One replica leads: it holds the Lease, and its pod carries the label that the stream's Service selects.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_api::LEADER_LABEL;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube_lease_manager::LeaseManagerBuilder;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::world::World;

/// A leader that is silent this long is replaced.
const LEASE_SECONDS: u64 = 12;
/// The leader renews this long before.
const GRACE_SECONDS: u64 = 8;
/// The leader's Lease.
const LEASE: &str = "hearth-operator";
/// Time between two looks of the leader at its Lease, and how long one may take.
const LOOK: Duration = Duration::from_secs(2);
/// A leader stops so long before its Lease ends: clocks differ, and a write may be on its way.
const MARGIN: SignedDuration = SignedDuration::from_secs(1);

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
/// A leader that cannot renew its Lease, because the API server does not answer, does not lead from when the Lease ends: another
/// replica may. It goes on when the Lease proves to be its own still.
///
/// # Errors
/// When the Lease cannot be used, or is another's: the process then ends and starts anew as a follower.
pub(crate) async fn run(
    client: Client,
    me: Identity,
    world: Arc<World>,
    metrics: Metrics,
    stop: CancellationToken,
    led: impl Fn(),
) -> Result<()> {
    let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(&me.namespace)
        .with_identity(&me.pod)
        .with_duration(LEASE_SECONDS)
        .with_grace(GRACE_SECONDS)
        .build()
        .await
        .context("the Lease hearth-operator")?;
    let (mut leads, task) = manager.watch().await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &me.namespace);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether the Lease was given to this replica, and when it ends, as far as that is known.
    let (mut holds, mut ends) = (false, None);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = leads.changed() => match changed {
                Ok(()) => {
                    let is_holder = *leads.borrow_and_update();
                    anyhow::ensure!(is_holder || !holds, "the Lease was lost; starting anew as a follower");
                    if is_holder && !holds {
                        label(&client, &me).await.context("label the leader's pod")?;
                    }
                    holds = is_holder;
                }
                Err(_) => break,
            },
            _ = looks.tick(), if holds => {}
            () = tokio::time::sleep(left(ends)), if world.is_leading() => {}
        }
        if !holds {
            continue;
        }
        let bound = match world.is_leading() {
            true => LOOK.min(left(ends)),
            false => LOOK,
        };
        match tokio::time::timeout(bound, leases.get(LEASE)).await {
            Ok(Ok(lease)) => ends = Some(end(&lease, &me.pod)?),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be read"),
            Err(_) => tracing::warn!("the API server does not say how the Lease is"),
        }
        let is_valid = !left(ends).is_zero();
        if is_valid == world.is_leading() {
            continue;
        }
        world.set_leading(is_valid);
        metrics.leader.set(is_valid.into());
        if is_valid {
            tracing::info!("leading");
            led();
        } else {
            tracing::warn!("the Lease could not be renewed; not leading until it is");
        }
    }
    world.set_leading(false);
    metrics.leader.set(0);
    // Closing the channel releases the Lease, so that a follower need not wait for it to run out.
    drop(leads);
    let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    Ok(())
}

/// How long a Lease that ends then may be relied on.
fn left(ends: Option<Timestamp>) -> Duration {
    let left = ends.map(|ends| ends.duration_since(Timestamp::now()) - MARGIN);
    left.map_or(Duration::ZERO, |left| left.try_into().unwrap_or_default())
}

/// When a Lease ends that `holder` holds.
///
/// # Errors
/// When it is another's.
fn end(lease: &Lease, holder: &str) -> Result<Timestamp> {
    let spec = lease.spec.clone().unwrap_or_default();
    anyhow::ensure!(
        spec.holder_identity.as_deref() == Some(holder),
        "the Lease is held by {:?}; starting anew as a follower",
        spec.holder_identity.unwrap_or_default()
    );
    let renewed = spec.renew_time.or(spec.acquire_time);
    let renewed = renewed.context("a Lease without a time")?.0;
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Ok(renewed + SignedDuration::from_secs(seconds.into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_when_it_was_not_renewed_and_is_lost_when_another_has_it() {
        let lease = |holder: &str| -> Lease {
            serde_json::from_value(json!({
                "metadata": {"name": LEASE},
                "spec": {
                    "holderIdentity": holder,
                    "leaseDurationSeconds": 12,
                    "renewTime": "2026-03-02T08:00:00.000000Z",
                },
            }))
            .unwrap()
        };
        let expected: Timestamp = "2026-03-02T08:00:12Z".parse().unwrap();
        assert_eq!(end(&lease("me"), "me").unwrap(), expected);
        let error = end(&lease("you"), "me").unwrap_err();
        assert!(error.to_string().contains("you"), "{error}");
    }
}
