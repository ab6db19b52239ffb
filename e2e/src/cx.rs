//! What a case works with: a client, the cluster, a namespace of its own.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hearth_api::v1alpha1::AgentFunction;
use hearth_cluster::Cluster;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, LogParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use crate::wait::{Seen, until};

/// Long enough for a bundle that compiles for ten seconds on a busy machine.
pub const SETTLE: Duration = Duration::from_secs(90);

/// Waits until no namespace is on its way out.
pub async fn namespaces_ended(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    until("deleted namespaces to end", SETTLE, || async {
        let ending: Vec<_> = namespaces
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
            .map(|namespace| (namespace.name_any(), namespace.status))
            .collect();
        Ok(Seen::when(ending.is_empty(), (), format!("{ending:?}")))
    })
    .await
}

/// The cluster and a namespace that only this case uses.
pub struct Cx {
    /// The API server, as an administrator.
    pub client: Client,
    /// The machine's side: nodes, parts, registry.
    pub cluster: Cluster,
    /// Made for this case, deleted after it.
    pub namespace: String,
}

impl Cx {
    /// Connects, and makes the namespace `name`-something.
    pub async fn new(name: &str) -> Result<Self> {
        let cluster =
            Cluster::open().context("the cluster is not up; `cargo xtask up` starts it")?;
        let client = Client::try_default()
            .await
            .context("KUBECONFIG; `cargo xtask e2e` sets it")?;
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let made = Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let cx = Self {
            client,
            cluster,
            namespace: made.name_any(),
        };
        cx.takes_pods().await?;
        Ok(cx)
    }

    /// Waits until the namespace has the service account without which the API server refuses every pod. Its controller
    /// is at work again only some time after the API server was away.
    async fn takes_pods(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        until("the namespace's service account", SETTLE, || async {
            let account = accounts.get_opt("default").await?;
            Ok(Seen::when(account.is_some(), (), "none".to_owned()))
        })
        .await
    }

    /// Deletes the namespace, without waiting for its end: Kubernetes takes five seconds for that.
    pub async fn close(self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until nothing is left of the namespaces of cases before this one.
    pub async fn others_ended(&self) -> Result<()> {
        namespaces_ended(&self.client).await
    }

    /// The namespace's functions.
    pub fn functions(&self) -> Api<AgentFunction> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace's pods.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `kubectl apply` of a manifest in this namespace. Standard error stands in the error.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.cluster.kubectl_stdin(
            &["--namespace", &self.namespace, "apply", "-f", "-"],
            manifest,
        )
    }

    /// Any `kubectl` command in this namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args: Vec<&str> = ["--namespace", &self.namespace]
            .iter()
            .chain(args)
            .copied()
            .collect();
        self.cluster.kubectl(&args)
    }

    /// Pushes bytes as a wasm OCI artifact and returns the image reference.
    pub fn push_artifact(&self, name: &str, wasm: &[u8]) -> Result<String> {
        self.cluster.push_image(
            &format!("e2e/{name}:1"),
            &hearth_cluster::Image::wasm_artifact(wasm),
        )
    }

    /// Waits until a function's condition of type `kind` has `status`, and gives the function.
    pub async fn condition(&self, name: &str, kind: &str, status: &str) -> Result<AgentFunction> {
        let functions = self.functions();
        until(
            &format!("{kind}={status} on agentfunction {name}"),
            SETTLE,
            || async {
                let function = functions.get(name).await?;
                let conditions = function
                    .status
                    .as_ref()
                    .map(|status| status.conditions.as_slice())
                    .unwrap_or_default();
                let current = Some(function.metadata.generation)
                    == conditions
                        .iter()
                        .find(|c| c.type_ == kind)
                        .map(|c| c.observed_generation);
                let holds = conditions
                    .iter()
                    .any(|c| c.type_ == kind && c.status == status);
                let said = conditions
                    .iter()
                    .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message))
                    .collect::<Vec<_>>()
                    .join("; ");
                Ok(Seen::when(current && holds, function, said))
            },
        )
        .await
    }

    /// Applies a function of `image` with more of a spec below it (YAML, indented by two), and waits until it is Ready.
    pub async fn ready_function(
        &self,
        name: &str,
        image: &str,
        spec: &str,
    ) -> Result<AgentFunction> {
        self.apply(&manifest(name, image, spec))?;
        self.condition(name, "Ready", "True").await
    }

    /// `address:port` of a function's or pod's Service.
    pub async fn service_address(&self, name: &str) -> Result<String> {
        let services: Api<k8s_openapi::api::core::v1::Service> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let service = services.get(name).await?;
        let spec = service.spec.context("a Service has a spec")?;
        let port = spec
            .ports
            .unwrap_or_default()
            .first()
            .map_or(80, |port| port.port);
        Ok(format!(
            "{}:{port}",
            spec.cluster_ip.context("the Service has no address")?
        ))
    }

    /// [`Cx::service_address`], once kube-proxy routes it: a Service's endpoints take up to a second to reach a node.
    pub async fn route(&self, name: &str) -> Result<String> {
        let address = self.service_address(name).await?;
        until(&format!("a route to {name}"), SETTLE, || async {
            Ok(match tokio::net::TcpStream::connect(&address).await {
                Ok(_) => Seen::Yes(()),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })
        .await?;
        Ok(address)
    }

    /// The pool pods of this namespace.
    pub async fn pool_pods(&self) -> Result<Vec<Pod>> {
        Ok(self
            .pods()
            .list(&ListParams::default().labels("hearth.dev/pool"))
            .await?
            .items)
    }

    /// The first of them: the only one where there is one node and one pool.
    ///
    /// # Errors
    /// When there is none.
    pub async fn pool_pod(&self) -> Result<Pod> {
        let pods = self.pool_pods().await?;
        pods.into_iter().next().context("a pool pod")
    }

    /// The log of a pod, as `kubectl logs` shows it.
    pub async fn logs(&self, pod: &str) -> Result<String> {
        Ok(self.pods().logs(pod, &LogParams::default()).await?)
    }

    /// Waits for an event about `object` whose reason or message contains `text`.
    pub async fn event(&self, object: &str, text: &str) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        until(
            &format!("an event about {object} with {text:?}"),
            SETTLE,
            || async {
                let all = events.list(&ListParams::default()).await?.items;
                let about: Vec<String> = all
                    .into_iter()
                    .filter(|event| event.involved_object.name.as_deref() == Some(object))
                    .map(|event| {
                        format!(
                            "{}: {}",
                            event.reason.unwrap_or_default(),
                            event.message.unwrap_or_default()
                        )
                    })
                    .collect();
                let found = about.iter().find(|line| line.contains(text)).cloned();
                Ok(found.map_or_else(|| Seen::NotYet(about.join(" | ")), Seen::Yes))
            },
        )
        .await
    }

    /// One value of a pod's `/metrics`: the sum of all series of `name` whose labels contain each of `labels`.
    pub async fn metric(&self, pod: &Pod, port: u16, name: &str, labels: &[&str]) -> Result<f64> {
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone())
            .context("the pod has no address")?;
        let answer = crate::call::get(&format!("{address}:{port}"), "/metrics").await?;
        if answer.status != 200 {
            bail!("/metrics answered {}: {}", answer.status, answer.body);
        }
        Ok(sum_of_series(&answer.body, name, labels))
    }
}

/// An AgentFunction manifest: `spec` is YAML that follows `bundle`, indented by two.
pub fn manifest(name: &str, image: &str, spec: &str) -> String {
    format!(
        "apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata:\n  name: {name}\nspec:\n  bundle:\n    image: {image}\n{spec}\n"
    )
}

/// The sum of all series of `name` in the text of a `/metrics` whose labels contain each of `labels`.
pub fn sum_of_series(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (family, set) = series.split_once('{').unwrap_or((series, ""));
            (family == name && labels.iter().all(|label| set.contains(label)))
                .then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let text = "# HELP a x\na{f=\"one\",o=\"ok\"} 2\na{f=\"one\",o=\"bad\"} 3\na{f=\"two\",o=\"ok\"} 5\nab 7\nc 9\n";
        assert_eq!(sum_of_series(text, "a", &[]), 10.0);
        assert_eq!(sum_of_series(text, "a", &["f=\"one\""]), 5.0);
        assert_eq!(sum_of_series(text, "a", &["f=\"one\"", "o=\"ok\""]), 2.0);
        assert_eq!(sum_of_series(text, "c", &[]), 9.0);
    }
}
