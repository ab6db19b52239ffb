//! The chart's release: Hearth goes and comes back with it, and a new revision fails no call.
//!
//! These cases are the last to run: they change what all others use.

use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hearth_cluster::layout::{NodeNumber, node_name};
use hearth_cluster::node::CONTAINERD_SOCKET;
use hearth_cluster::process::Part;
use hearth_cluster::tools::Containerd;
use hearth_e2e::load::Steady;
use hearth_e2e::{Cx, SETTLE, call};
use hearth_installer::cri::{Cri, Wanted};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::Api;

use crate::support::{HELLO, contains, helm, is_warm, nothing_left, ready_since, traces_before};

/// Name of the release.
const RELEASE: &str = "hearth";
/// Where it is.
const NAMESPACE: &str = "hearth-system";
/// What installs Hearth on nodes.
const INSTALLER: &str = "daemonset/hearth-node";
/// What leads.
const OPERATOR: &str = "deployment/hearth-operator";

/// Below a node's directory: where an installation puts files, and nobody else does.
const PLACES: [&str; 3] = ["containerd/conf.d", "opt/hearth", "var/lib/hearth"];
/// What it leaves on a node: parts of what [`found_on`] finds.
const TRACES: [&str; 6] = [
    "opt/hearth/bin/containerd-shim-hearth-v1",
    "opt/hearth/bin/hearth-engine",
    "opt/hearth/bin/hearth-javascript.wasm",
    "opt/hearth/shim.toml",
    ".cwasm",
    "hearth.dev/ready",
];
/// The runtime, where containerd is configured in version 3 or 4.
const DROP_IN: [&str; 2] = ["containerd/conf.d/hearth.toml", "imports = "];
/// The runtime, in the version that containerd 1.7 reads.
const IN_PLACE: [&str; 1] = ["containerd.runtimes.hearth]"];

pub(crate) async fn hearth_is_removed_without_a_trace_and_comes_back(cx: &Cx) -> Result<()> {
    and_back(cx, goes_and_comes(cx)).await
}

pub(crate) async fn a_chart_upgrade_keeps_functions_answering(cx: &Cx) -> Result<()> {
    and_back(cx, is_upgraded_and_rolled_back(cx)).await
}

/// `helm uninstall` first, without a word to the nodes: what runs goes on, and another release takes it over.
pub(crate) async fn a_release_is_uninstalled_and_another_takes_over_what_runs(
    cx: &Cx,
) -> Result<()> {
    let note = cx.cluster.layout().installed_file();
    let installed = fs::read(&note)
        .context("what is installed is not what was; `cargo xtask up` installs it again")?;
    let values = helm(cx, &["get", "values", RELEASE, "--output=json"])?;
    let file = note.with_file_name("values.json");
    fs::write(&file, &values)?;
    fs::remove_file(&note)?;
    let outcome = goes_on_without(cx, &file).await;
    // After a failure too: other cases expect what `cargo xtask up` installed.
    let back = is_installed(cx, &file).and_then(|()| Ok(fs::write(&note, installed)?));
    fs::remove_file(&file)?;
    outcome.and(back)
}

async fn goes_on_without(cx: &Cx, values: &Path) -> Result<()> {
    cx.ready_function("steady", HELLO, "  replicas: 2").await?;
    is_warm(cx, "steady", 2).await?;
    let calls = Steady::start(&cx.route("steady").await?, 100);

    helm(cx, &["uninstall", RELEASE, "--wait", "--timeout=120s"])?;
    let left = kubectl(cx, &["get", "deployments,daemonsets", "--output=name"])?;
    ensure!(left.trim().is_empty(), "left: {left}");
    // Functions and pods are whose they were, and nodes have what they had.
    cx.functions().get("steady").await?;
    for pod in cx.pool_pods().await? {
        ensure!(is_untouched(&pod), "{:?}", pod.status);
    }
    for node in 1..=cx.cluster.nodes()? {
        let found = found_on(cx, node).await?.join("\n");
        contains(&node_name(node), &found, "opt/hearth/bin/hearth-engine")?;
    }

    is_installed(cx, values)?;
    cx.kubectl(&["scale", "agentfunction/steady", "--replicas=3"])?;
    is_warm(cx, "steady", 3).await?;
    cx.ready_function("new", HELLO, "  replicas: 1").await?;
    answers(&cx.route("new").await?).await?;
    calls.end().await?.none_failed()
}

/// Installs the release where there is none.
fn is_installed(cx: &Cx, values: &Path) -> Result<()> {
    let releases = helm(cx, &["list", "--short"])?;
    if !releases.lines().any(|name| name == RELEASE) {
        let chart = cx.cluster.layout().repository().join("charts/hearth");
        let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
        helm(cx, &["install", RELEASE, &chart, "--values", &values])?;
    }
    is_rolled_out(cx)
}

async fn goes_and_comes(cx: &Cx) -> Result<()> {
    let before = traces_before(cx).await?;
    let nodes = 1..=cx.cluster.nodes()?;
    let runtime: &[&str] = match cx.cluster.containerd()? {
        Containerd::V2 | Containerd::V2_3 | Containerd::V2_2 => &DROP_IN,
        Containerd::V1_7 => &IN_PLACE,
    };
    cx.ready_function("old", HELLO, "  replicas: 1").await?;
    let address = cx.route("old").await?;
    for node in nodes.clone() {
        let found = found_on(cx, node).await?.join("\n");
        for trace in TRACES.iter().chain(runtime) {
            contains(&node_name(node), &found, trace)?;
        }
    }

    upgrade(cx, "node.mode=uninstall")?;
    for node in nodes.clone() {
        let found = found_on(cx, node).await?;
        ensure!(found.is_empty(), "{} has {found:?}", node_name(node));
        offers_the_runtime(cx, node, false).await?;
        an_ordinary_pod_runs(cx, node).await?;
    }
    // What runs goes on until it is deleted, and can be deleted.
    answers(&address).await?;
    for pod in cx.pool_pods().await? {
        ensure!(is_untouched(&pod), "{:?}", pod.status);
    }
    cx.kubectl(&["delete", "agentfunction", "old", "--timeout=60s"])?;
    nothing_left(cx, before).await?;

    upgrade(cx, "node.mode=install")?;
    for node in nodes {
        let found = found_on(cx, node).await?.join("\n");
        contains(&node_name(node), &found, "hearth.dev/ready")?;
        offers_the_runtime(cx, node, true).await?;
    }
    cx.ready_function("new", HELLO, "  replicas: 1").await?;
    answers(&cx.route("new").await?).await
}

async fn is_upgraded_and_rolled_back(cx: &Cx) -> Result<()> {
    let former = revision(cx)?;
    cx.ready_function("steady", HELLO, "  replicas: 2").await?;
    is_warm(cx, "steady", 2).await?;
    let since = ready_since(&cx.condition("steady", "Ready", "True").await?)?;
    let calls = Steady::start(&cx.route("steady").await?, 100);

    upgrade(cx, "metrics.prometheusAnnotations=false")?;
    ensure!(!is_scraped(cx)?, "the operator's pods were not changed");
    kubectl(cx, &["rollout", "restart", INSTALLER])?;
    is_rolled_out(cx)?;
    // The operator that came reaches the pool pods that are there.
    cx.kubectl(&["scale", "agentfunction/steady", "--replicas=3"])?;
    is_warm(cx, "steady", 3).await?;

    roll_back(cx, &former)?;
    ensure!(is_scraped(cx)?, "the operator's pods were not changed back");
    cx.kubectl(&["scale", "agentfunction/steady", "--replicas=4"])?;
    is_warm(cx, "steady", 4).await?;

    let function = cx.condition("steady", "Ready", "True").await?;
    calls.end().await?.none_failed()?;
    ensure!(
        ready_since(&function)? == since,
        "the function was not Ready in between: {:?}",
        function.status
    );
    Ok(())
}

/// Does what changes the release, and goes back to the revision from before it, after a failure too: other cases expect what
/// `cargo xtask up` installed. `up` does not take that for installed before it is there again.
async fn and_back(cx: &Cx, change: impl Future<Output = Result<()>>) -> Result<()> {
    let before = revision(cx)?;
    let note = cx.cluster.layout().installed_file();
    let installed = fs::read(&note)
        .context("what is installed is not what was; `cargo xtask up` installs it again")?;
    fs::remove_file(&note)?;
    let outcome = change.await;
    let back = roll_back(cx, &before).and_then(|()| Ok(fs::write(&note, installed)?));
    outcome.and(back)
}

/// What of Hearth is on a node: files, lines of containerd's configuration, and what is written on the Node object.
async fn found_on(cx: &Cx, node: NodeNumber) -> Result<Vec<String>> {
    let directory = cx.cluster.node_directory(node);
    let mut found = Vec::new();
    for place in PLACES {
        find_files(&directory.join(place), &mut found)?;
    }
    let main = fs::read_to_string(directory.join("containerd/config.toml"))?;
    let ours = |line: &&str| line.starts_with("imports") || line.contains("runtimes.hearth");
    found.extend(main.lines().filter(ours).map(str::to_owned));
    let nodes: Api<Node> = Api::all(cx.client.clone());
    let node = nodes.get(&node_name(node)).await?;
    let marks = node.labels().keys().chain(node.annotations().keys());
    found.extend(
        marks
            .filter(|mark| mark.starts_with("hearth.dev/"))
            .cloned(),
    );
    Ok(found)
}

fn find_files(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("read {}", directory.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, found)?;
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Waits until a node's containerd offers the runtime, or no longer does. It is asked as the installer asks it: 1.7 does not
/// list its runtimes, so kubelet does not tell of them.
async fn offers_the_runtime(cx: &Cx, node: NodeNumber, offers: bool) -> Result<()> {
    // Through the node's own mounts: there the path is short enough for a socket.
    let supervisor = cx.cluster.pid(Part::Supervisor(node))?;
    let socket = PathBuf::from(format!("/proc/{supervisor}/root{CONTAINERD_SOCKET}"));
    let cri = Cri::new(&socket);
    let wanted = if offers {
        Wanted::Listed
    } else {
        Wanted::NotListed
    };
    cri.wait(wanted, SETTLE).await
}

/// Runs a container of another runtime to its end.
async fn an_ordinary_pod_runs(cx: &Cx, node: NodeNumber) -> Result<()> {
    let node = node_name(node);
    let name = format!("ordinary-{node}");
    cx.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  nodeName: {node}\n  restartPolicy: Never\n  containers:\n    - name: says\n      image: localhost:5000/busybox:1\n      command: [echo, as ever]\n"
    ))?;
    let pod = format!("pod/{name}");
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    cx.kubectl(&["wait", &pod, ended, "--timeout=60s"])?;
    contains("the pod's log", &cx.logs(&name).await?, "as ever")?;
    cx.kubectl(&["delete", &pod, "--timeout=60s"]).map(drop)
}

/// Whether a pod's containers are the first, and Ready.
fn is_untouched(pod: &Pod) -> bool {
    let statuses = pod.status.iter();
    let mut containers = statuses.flat_map(|status| status.container_statuses.iter().flatten());
    containers.all(|container| container.ready && container.restart_count == 0)
}

async fn answers(address: &str) -> Result<()> {
    let answer = call::get(address, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// Changes one value of the release, and waits until that is so everywhere.
fn upgrade(cx: &Cx, value: &str) -> Result<()> {
    let chart = cx.cluster.layout().repository().join("charts/hearth");
    let chart = chart.to_string_lossy();
    helm(
        cx,
        &["upgrade", RELEASE, &chart, "--reuse-values", "--set", value],
    )?;
    is_rolled_out(cx)
}

/// Goes back to a revision, and waits until that is so everywhere.
fn roll_back(cx: &Cx, revision: &str) -> Result<()> {
    helm(cx, &["rollback", RELEASE, revision])?;
    is_rolled_out(cx)
}

fn is_rolled_out(cx: &Cx) -> Result<()> {
    for object in [INSTALLER, OPERATOR] {
        let status = kubectl(cx, &["rollout", "status", object, "--timeout=120s"]);
        status.with_context(|| {
            let log = kubectl(cx, &["logs", object, "--tail=20"]);
            format!("{object} says {}", log.unwrap_or_default())
        })?;
    }
    Ok(())
}

/// Number of the release's revision.
fn revision(cx: &Cx) -> Result<String> {
    let metadata = helm(cx, &["get", "metadata", RELEASE, "--output=json"])?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    Ok(metadata["revision"].to_string())
}

/// Whether scrapers are asked to look at the operator, which a value of the chart says.
fn is_scraped(cx: &Cx) -> Result<bool> {
    let annotation =
        r"--output=jsonpath={.spec.template.metadata.annotations.prometheus\.io/scrape}";
    Ok(kubectl(cx, &["get", OPERATOR, annotation])? == "true")
}

fn kubectl(cx: &Cx, words: &[&str]) -> Result<String> {
    cx.cluster
        .kubectl(&[&["--namespace", NAMESPACE][..], words].concat())
}
