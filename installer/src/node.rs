//! The Node object: the label that lets pods come, and the version that was installed.

use std::time::Duration;

use anyhow::{Context, Result};
use hearth_api::NODE_READY_LABEL;
use k8s_openapi::api::core::v1;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::timeout;

/// Annotation: the version that the installer put on the node.
pub const VERSION_ANNOTATION: &str = "hearth.dev/version";
/// Time for one call of the API server.
const CALL: Duration = Duration::from_secs(30);

/// This node's object.
#[derive(Debug, Clone)]
pub struct Node {
    api: Api<v1::Node>,
    name: String,
}

impl Node {
    /// The node of a name.
    pub fn new(client: kube::Client, name: &str) -> Self {
        Self {
            api: Api::all(client),
            name: name.to_owned(),
        }
    }

    /// Lets pods come.
    pub async fn mark_ready(&self) -> Result<()> {
        self.patch(json!("true"), json!(env!("CARGO_PKG_VERSION")))
            .await
    }

    /// Keeps pods away. Those that run go on.
    pub async fn mark_unready(&self) -> Result<()> {
        self.patch(json!(null), json!(null)).await
    }

    async fn patch(&self, label: serde_json::Value, version: serde_json::Value) -> Result<()> {
        let patch = json!({"metadata": {"labels": {NODE_READY_LABEL: label}, "annotations": {VERSION_ANNOTATION: version}}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let call = self.api.patch_metadata(&self.name, &parameters, &patch);
        let result = timeout(CALL, call)
            .await
            .context("the API server gave no answer in time")?;
        result.with_context(|| format!("label node {}", self.name))?;
        Ok(())
    }
}
