//! The certificate authority in the APIService: the operator makes it, so the chart cannot know it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::answer::{GROUP, VERSION};
use crate::world::World;

/// Between two looks once it is as it should be: somebody may write over it.
const LOOK: Duration = Duration::from_secs(60);
/// Between two looks until then.
const HASTE: Duration = Duration::from_secs(2);

/// What the APIService should say.
pub(crate) struct Registration {
    /// The API server.
    pub(crate) client: Client,
    /// Namespace and name of our Service.
    pub(crate) service: (String, String),
    /// PEM certificate of the authority that signed ours.
    pub(crate) ca: String,
}

impl Registration {
    /// Keeps the APIService as it should be while this replica leads, until `stop`.
    pub(crate) async fn run(self, world: Arc<World>, stop: CancellationToken) {
        loop {
            let pause = match world.is_leading() {
                true => match self.apply().await {
                    Ok(()) => LOOK,
                    Err(error) => {
                        tracing::warn!(%error, "the APIService of custom.metrics.k8s.io");
                        HASTE
                    }
                },
                false => HASTE,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn apply(&self) -> Result<(), kube::Error> {
        let services: Api<APIService> = Api::all(self.client.clone());
        let name = format!("{VERSION}.{GROUP}");
        let there = services.get(&name).await?;
        let spec = there.spec.unwrap_or_default();
        let service = spec.service.unwrap_or_default();
        let (namespace, service) = (service.namespace, service.name);
        let is_ours = namespace.as_ref() == Some(&self.service.0)
            && service.as_ref() == Some(&self.service.1);
        let ca = ByteString(self.ca.clone().into_bytes());
        if !is_ours || spec.ca_bundle.as_ref() == Some(&ca) {
            return Ok(());
        }
        let patch = json!({"spec": {"caBundle": ca}});
        services
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        tracing::info!(name, "custom metrics are registered");
        Ok(())
    }
}
