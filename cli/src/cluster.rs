//! The cluster that a command means.

use anyhow::{Context, Result};
use clap::Args;
use hearth_api::v1alpha1::AgentFunction;
use hearth_api::{DEFAULT_POOL, POOL_LABEL};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Which cluster, and where in it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Access {
    /// Namespace. Unset: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Context of the kubeconfig. Unset: the current one.
    #[arg(long)]
    context: Option<String>,
}

/// A client, and the namespace that is meant.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Access {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// When there is none, or not that context.
    pub(crate) async fn connect(&self) -> Result<Cluster> {
        let config = match &self.context {
            None => Config::infer()
                .await
                .context("find a cluster; KUBECONFIG names the file that says where it is")?,
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.clone()),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(Kubeconfig::read()?, &options)
                    .await
                    .with_context(|| format!("the kubeconfig's context {context}"))?
            }
        };
        let namespace = self.namespace.as_ref().unwrap_or(&config.default_namespace);
        Ok(Cluster {
            namespace: namespace.clone(),
            client: Client::try_from(config)?,
        })
    }
}

impl Cluster {
    /// The namespace's functions.
    pub(crate) fn functions(&self) -> Api<AgentFunction> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One of them.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) async fn function(&self, name: &str) -> Result<AgentFunction> {
        self.functions().get(name).await.with_context(|| {
            format!(
                "read AgentFunction {name} of namespace {}; `kubectl get agentfunctions --all-namespaces` lists all",
                self.namespace
            )
        })
    }

    /// Pods that may hold instances of a function: those of its pool.
    pub(crate) async fn pods_of(&self, function: &AgentFunction) -> Result<Vec<Pod>> {
        let pool = function
            .spec
            .pool
            .as_ref()
            .map_or(DEFAULT_POOL, |pool| &pool.name);
        let labels = ListParams::default().labels(&format!("{POOL_LABEL}={pool}"));
        let pods = self
            .pods()
            .list(&labels)
            .await
            .context("list the pool's pods")?;
        Ok(pods.items)
    }

    /// The namespace's pods.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Runs what talks to a cluster.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(work)
}
