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
