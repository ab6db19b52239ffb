//! `hearth doctor`: what is wrong with a cluster, its nodes, its functions, or a bundle, and what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth_api::v1alpha1::AgentFunction;
use hearth_api::{NODE_READY_LABEL, POOL_LABEL};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::bundler::{Bundler, described};
use crate::cluster::{Access, Cluster, block_on};
use crate::output::Output;
use crate::project::Project;

/// Annotation of a node: the version that its installer put there.
const VERSION: &str = "hearth.dev/version";
/// What the chart installs.
const RUNTIME_CLASS: &str = "hearth";
const DEFINITIONS: [&str; 2] = ["agentfunctions.hearth.dev", "agentpools.hearth.dev"];

/// Look for what is wrong: with a cluster that runs Hearth, or with an agent's folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth doctor                     the cluster of the kubeconfig
  hearth doctor --bundle .          the project in this folder

Exit codes: 0 nothing is wrong, 1 it could not be looked for, 2 wrong options, 3 something is wrong.")]
pub(crate) struct Doctor {
    /// Look at a project in place of a cluster.
    #[arg(long, value_name = "FOLDER")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

/// What was looked at.
#[derive(Debug, Default)]
struct Findings {
    all: Vec<Finding>,
}

#[derive(Debug)]
struct Finding {
    what: String,
    /// What is wrong, and what to do.
    problem: Option<String>,
}

impl Findings {
    fn good(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.all.push(Finding {
            what,
            problem: None,
        });
    }

    fn bad(&mut self, what: impl Into<String>, problem: impl Into<String>) {
        self.all.push(Finding {
            what: what.into(),
            problem: Some(problem.into()),
        });
    }

    fn check(&mut self, is_good: bool, what: impl Into<String>, problem: impl Into<String>) {
        match is_good {
            true => self.good(what),
            false => self.bad(what, problem),
        }
    }
}

impl Doctor {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode> {
        let mut findings = Findings::default();
        match &self.bundle {
            Some(path) => bundle(path, &mut findings)?,
            None => block_on(async {
                let cluster = self.access.connect().await?;
                look(&cluster, &mut findings).await
            })?,
        }
        for Finding { what, problem } in &findings.all {
            match (output, problem) {
                (Output::Json, _) => {}
                (Output::Text, None) => println!("ok     {what}"),
                (Output::Text, Some(problem)) => println!("WRONG  {what}: {problem}"),
            }
        }
        if output == Output::Json {
            let all: Vec<_> = (findings.all.iter())
                .map(|Finding { what, problem }| json!({"what": what, "problem": problem}))
                .collect();
            println!("{}", json!(all));
        }
        let is_well = findings.all.iter().all(|finding| finding.problem.is_none());
        Ok(if is_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(3)
        })
    }
}

fn bundle(path: &Path, findings: &mut Findings) -> Result<()> {
    let project = Project::find(path)?;
    findings.good(format!("the code begins in {}", project.entry.display()));
    let bundle = Bundler::start()?.build(&project, false)?;
    let problems = described("error", &bundle.errors);
    findings.check(
        bundle.errors.is_empty(),
        "it can be bundled",
        problems.trim_end(),
    );
    for import in &bundle.absent {
        let problem = format!(
            "{} is not there, and {} may ask for it while it runs; an exception is what it gets",
            import.name,
            import.importers.join(", ")
        );
        findings.bad(format!("the import of {}", import.name), problem);
    }
    Ok(())
}

async fn look(cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    let client = || cluster.client.clone();
    let version = client().apiserver_version().await.context(
        "ask the API server for its version; is the cluster up, and does the kubeconfig name it?",
    )?;
    findings.good(format!(
        "the API server answers: Kubernetes {}.{}",
        version.major, version.minor
    ));
    let definitions: Api<CustomResourceDefinition> = Api::all(client());
    for name in DEFINITIONS {
        let found = definitions
            .get_opt(name)
            .await
            .with_context(|| format!("read {name}"))?;
        findings.check(
            found.is_some(),
            name,
            "it is not defined: helm install hearth charts/hearth",
        );
    }
    let runtime = Api::<RuntimeClass>::all(client())
        .get_opt(RUNTIME_CLASS)
        .await?;
    findings.check(
        runtime.is_some(),
        "the RuntimeClass hearth",
        "it is not there, and no pool pod can start: helm upgrade puts it back",
    );
    operators(&client(), findings).await?;
    nodes(&client(), findings).await?;
    for function in cluster
        .functions()
        .list(&ListParams::default())
        .await?
        .items
    {
        check_function(&function, findings);
    }
    for pod in cluster
        .pods()
        .list(&ListParams::default().labels(POOL_LABEL))
        .await?
        .items
    {
        let what = format!("pool pod {}", pod.name_any());
        findings.check(
            is_ready(&pod),
            what,
            "it is not ready: kubectl describe pod tells why",
        );
    }
    Ok(())
}

async fn operators(client: &kube::Client, findings: &mut Findings) -> Result<()> {
    let labels = ListParams::default().labels("app.kubernetes.io/name=hearth");
    let deployments = Api::<Deployment>::all(client.clone())
        .list(&labels)
        .await?
        .items;
    findings.check(
        !deployments.is_empty(),
        "the operator is installed",
        "no Deployment has the label app.kubernetes.io/name=hearth: helm install hearth charts/hearth",
    );
    for deployment in deployments {
        let ready = deployment
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas);
        let what = format!("Deployment {}", deployment.name_any());
        let namespace = deployment.namespace().unwrap_or_default();
        findings.check(
            ready.unwrap_or(0) > 0,
            what,
            format!(
                "none of its pods is ready: kubectl --namespace {namespace} logs deployment/{}",
                deployment.name_any()
            ),
        );
    }
    Ok(())
}

async fn nodes(client: &kube::Client, findings: &mut Findings) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items;
    let installed: Vec<&Node> = (nodes.iter())
        .filter(|node| {
            node.labels()
                .get(NODE_READY_LABEL)
                .is_some_and(|value| value == "true")
        })
        .collect();
    findings.check(
        !installed.is_empty(),
        "a node can run agents",
        format!("no node has the label {NODE_READY_LABEL}=true, which the installer sets when it is done: the log of its DaemonSet says why not"),
    );
    for node in installed {
        let version = node.annotations().get(VERSION).map_or("", String::as_str);
        let ours = env!("CARGO_PKG_VERSION");
        findings.check(
            version == ours,
            format!("node {} has Hearth {version}", node.name_any()),
            format!("this program is of {ours}: upgrade the one or the other"),
        );
    }
    Ok(())
}

fn check_function(function: &AgentFunction, findings: &mut Findings) {
    let what = format!("AgentFunction {}", function.name_any());
    let conditions = function.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => findings.good(what),
        Some(ready) => findings.bad(what, format!("{}, {}", ready.reason, ready.message)),
        None => findings.bad(what, "the operator has not looked at it: is it running?"),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref());
    conditions
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    /// Where definitions of kinds are.
    const DEFINED: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

    /// A cluster whose API server knows these paths and no others: lists are empty there, and objects absent.
    fn cluster(objects: &[(&str, Value)]) -> Cluster {
        let objects: BTreeMap<String, Value> = objects
            .iter()
            .map(|(path, object)| ((*path).to_owned(), object.clone()))
            .collect();
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path();
            let is_named = [DEFINED, "/apis/node.k8s.io/v1/runtimeclasses"]
                .iter()
                .any(|kind| path.starts_with(kind));
            let answer = match objects.get(path) {
                Some(object) => Response::new(object.clone()),
                None if is_named => {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": "not found", "reason": "NotFound", "code": 404});
                    let mut response = Response::new(status);
                    *response.status_mut() = http::StatusCode::NOT_FOUND;
                    response
                }
                None => Response::new(json!({"metadata": {}, "items": []})),
            };
            let answer = answer.map(|object| Body::from(object.to_string().into_bytes()));
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        Cluster {
            client: Client::new(service, "agents"),
            namespace: "agents".to_owned(),
        }
    }

    fn version() -> (&'static str, Value) {
        let version = json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        ("/version", version)
    }

    /// What is wrong, and what to do about it.
    async fn wrong(objects: &[(&str, Value)]) -> Vec<String> {
        let mut findings = Findings::default();
        look(&cluster(objects), &mut findings).await.unwrap();
        let line = |finding: Finding| Some(format!("{}: {}", finding.what, finding.problem?));
        findings.all.into_iter().filter_map(line).collect()
    }

    fn node(name: &str, version: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {NODE_READY_LABEL: "true"}, "annotations": {VERSION: version}}})
    }

    #[tokio::test]
    async fn a_cluster_without_hearth_lacks_each_part_and_is_told_how_to_get_it() {
        let wrong = wrong(&[version()]).await;
        let parts = [
            ("agentfunctions.hearth.dev", "helm install"),
            ("agentpools.hearth.dev", "helm install"),
            ("the RuntimeClass hearth", "helm upgrade"),
            ("the operator is installed", "helm install"),
            ("a node can run agents", "DaemonSet"),
        ];
        assert_eq!(wrong.len(), parts.len(), "{wrong:#?}");
        for ((what, remedy), line) in parts.iter().zip(&wrong) {
            assert!(line.starts_with(what) && line.contains(remedy), "{line}");
        }
    }

    #[tokio::test]
    async fn what_is_there_and_does_not_work_is_named() {
        let definition = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"group": "hearth.dev", "scope": "Namespaced",
                "names": {"kind": "A", "plural": "a"}, "versions": []}})
        };
        let paths = DEFINITIONS.map(|name| format!("{DEFINED}/{name}"));
        let functions = json!({"metadata": {}, "items": [
            {"metadata": {"name": "well"}, "spec": {"bundle": {"image": "a"}}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": "2026-03-02T08:00:00Z"}]}},
            {"metadata": {"name": "ill"}, "spec": {"bundle": {"image": "a"}}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "reason": "PullFailed", "message": "no such image", "lastTransitionTime": "2026-03-02T08:00:00Z"}]}},
            {"metadata": {"name": "new"}, "spec": {"bundle": {"image": "a"}}},
        ]});
        let deployments = json!({"metadata": {}, "items": [
            {"metadata": {"name": "hearth-operator", "namespace": "hearth-system"}, "status": {"readyReplicas": 0}},
        ]});
        let ours = env!("CARGO_PKG_VERSION");
        let nodes = json!({"metadata": {}, "items": [node("same", ours), node("older", "0.0.9"), {"metadata": {"name": "without"}}]});
        let pods = json!({"metadata": {}, "items": [
            {"metadata": {"name": "pool-a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "pool-b"}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}},
        ]});
        let runtime = json!({"metadata": {"name": "hearth"}, "handler": "hearth"});
        let wrong = wrong(&[
            version(),
            (paths[0].as_str(), definition(DEFINITIONS[0])),
            (paths[1].as_str(), definition(DEFINITIONS[1])),
            ("/apis/node.k8s.io/v1/runtimeclasses/hearth", runtime),
            ("/apis/apps/v1/deployments", deployments),
            ("/api/v1/nodes", nodes),
            (
                "/apis/hearth.dev/v1alpha1/namespaces/agents/agentfunctions",
                functions,
            ),
            ("/api/v1/namespaces/agents/pods", pods),
        ])
        .await;
        let expected = [
            "Deployment hearth-operator: none of its pods is ready: kubectl --namespace hearth-system logs deployment/hearth-operator".to_owned(),
            format!("node older has Hearth 0.0.9: this program is of {ours}: upgrade the one or the other"),
            "AgentFunction ill: PullFailed, no such image".to_owned(),
            "AgentFunction new: the operator has not looked at it: is it running?".to_owned(),
            "pool pod pool-b: it is not ready: kubectl describe pod tells why".to_owned(),
        ];
        assert_eq!(wrong, expected);
    }
}
