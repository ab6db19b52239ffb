//! `hearth-operator verify`, what `helm test` runs: a function of its own is applied, called, scaled and deleted, in the namespace
//! that it runs in, with the means that users have.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Name of the function, and of its pool: nobody else's is used, and nothing is left.
const NAME: &str = "hearth-test";
/// What it answers.
const ANSWER: &str = "verified";
/// How long each step may take. The first function of a node waits for its JavaScript environment to be compiled.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Applies a function, calls it, scales it and deletes it; then ends.
#[derive(Debug, Clone, Args)]
pub(crate) struct Verify {
    /// Namespace to do it in.
    #[arg(long, env = "VERIFY_NAMESPACE")]
    namespace: String,
}

impl Verify {
    /// Runs all steps.
    ///
    /// # Errors
    /// Names the step that failed, and what was seen instead.
    pub(crate) async fn run(&self) -> Result<()> {
        let client = Client::try_default().await.context("find the API server")?;
        let functions: Api<AgentFunction> = Api::namespaced(client.clone(), &self.namespace);
        let pools: Api<AgentPool> = Api::namespaced(client.clone(), &self.namespace);
        // What an earlier run left that was cut short.
        gone(&functions).await?;
        gone(&pools).await?;
        let outcome = steps(&client, &self.namespace, &functions, &pools).await;
        let cleared = gone(&functions).await.and(gone(&pools).await);
        outcome.and(cleared)
    }
}

async fn steps(
    client: &Client,
    namespace: &str,
    functions: &Api<AgentFunction>,
    pools: &Api<AgentPool>,
) -> Result<()> {
    let pool = AgentPool::new(NAME, Default::default());
    let pool = pools.create(&PostParams::default(), &pool).await;
    pool.context("make an AgentPool")?;
    let spec = json!({
        "bundle": {"source": {"javascript": format!("export default {{ fetch() {{ return new Response({ANSWER:?}); }} }};")}},
        "pool": {"name": NAME},
        "replicas": 1,
    });
    let function = AgentFunction::new(NAME, serde_json::from_value(spec)?);
    let function = functions.create(&PostParams::default(), &function).await;
    function.context("make an AgentFunction")?;
    until("the function to be Ready", || async {
        let status = functions.get(NAME).await?.status.unwrap_or_default();
        let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready");
        Ok(match ready {
            Some(ready) if ready.status == "True" => Ok(()),
            ready => {
                Err(ready.map_or_else(String::new, |c| format!("{}: {}", c.reason, c.message)))
            }
        })
    })
    .await?;
    println!("applied, and Ready");

    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let address = services.get(NAME).await.context("read its Service")?;
    let address = address.spec.and_then(|spec| spec.cluster_ip);
    let address = address.context("its Service has no address")?;
    until("its answer", || async {
        Ok(match call(&address).await {
            Ok(body) if body == ANSWER => Ok(()),
            Ok(body) => Err(format!("{body:?}")),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    println!("called at {address}, and answered");

    scale(functions, 2).await?;
    println!("scaled to 2, and warm");
    Ok(())
}

async fn scale(functions: &Api<AgentFunction>, replicas: i32) -> Result<()> {
    let patch: Patch<Value> = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    functions
        .patch_scale(NAME, &PatchParams::default(), &patch)
        .await
        .context("scale it")?;
    until("its instances to be warm", || async {
        let status = functions.get(NAME).await?.status.unwrap_or_default();
        Ok(match status.replicas == replicas {
            true => Ok(()),
            false => Err(format!("{} of {replicas}", status.replicas)),
        })
    })
    .await
}

/// One call to port 80 of an address: the answer's body.
async fn call(address: &str) -> Result<String> {
    let stream = TcpStream::connect((address, 80));
    let stream = tokio::time::timeout(Duration::from_secs(5), stream)
        .await
        .context("nobody accepts; maybe a NetworkPolicy is in the way")??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get("/").header(http::header::HOST, NAME);
    let answer = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    ensure!(status == http::StatusCode::OK, "{status}: {body}");
    Ok(body)
}

/// Deletes the object of this name, and waits until it is gone.
async fn gone<K>(api: &Api<K>) -> Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.delete(NAME, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        deleted => drop(deleted.with_context(|| format!("delete {NAME}"))?),
    }
    until("its end", || async {
        let there = api.get_opt(NAME).await?;
        Ok(there.map_or(Ok(()), |_| Err("it is there".to_owned())))
    })
    .await
}

/// Looks until something holds. What is there instead stands in the error.
async fn until<F>(what: &str, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<std::result::Result<(), String>, kube::Error>>,
{
    let started = Instant::now();
    loop {
        match look().await.with_context(|| format!("look for {what}"))? {
            Ok(()) => return Ok(()),
            Err(instead) if started.elapsed() > PATIENCE => {
                bail!("waited {PATIENCE:?} for {what}; there is {instead}")
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
