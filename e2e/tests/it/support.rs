//! What several groups use: the example bundles, and what is printed when a case fails.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use hearth_api::RUNTIME_CLASS;
use hearth_api::v1alpha1::AgentFunction;
use hearth_cluster::pods::Traces;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use tokio::task::JoinSet;

/// The C example, pushed by `cargo xtask up`.
pub(crate) const HELLO: &str = "localhost:5000/examples/hello-c:dev";

/// What the support agents call, in the case's namespace, until it is ready.
pub(crate) fn support_tools(cx: &Cx) -> Result<()> {
    let repository = cx.cluster.layout().repository();
    let manifest = repository.join("examples/support-agent/server.yaml");
    cx.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cx.kubectl(&[
        "rollout",
        "status",
        "deployment/support-tools",
        "--timeout=60s",
    ])?;
    Ok(())
}

/// Port of the engine's metrics in a pool pod.
pub(crate) const METRICS: u16 = hearth_contract::METRICS_PORT;

/// Warm instances of a function, as the engines of the namespace's pool pods say themselves.
pub(crate) async fn warm_in_engines(cx: &Cx, function: &str) -> Result<f64> {
    let mut warm = 0.0;
    for pod in cx.pool_pods().await? {
        let labels = [&format!("function=\"{function}\"")[..], "state=\"warm\""];
        warm += cx
            .metric(&pod, METRICS, "hearth_instances", &labels)
            .await?;
    }
    Ok(warm)
}

/// Waits until a function's status and the engines both hold `warm` instances.
pub(crate) async fn is_warm(cx: &Cx, function: &str, warm: i32) -> Result<()> {
    let functions = cx.functions();
    until(&format!("{warm} to be warm"), SETTLE, || async {
        let status = functions.get(function).await?.status;
        let replicas = status.map_or(0, |status| status.replicas);
        Ok(match warm_in_engines(cx, function).await {
            Ok(held) if replicas == warm && held == f64::from(warm) => Seen::Yes(()),
            Ok(held) => Seen::NotYet(format!("status {replicas}, engines {held}")),
            // Of a pod that is starting.
            Err(error) => Seen::NotYet(format!("status {replicas}, engines: {error:#}")),
        })
    })
    .await
}

/// Since when a function is Ready without a break.
pub(crate) fn ready_since(function: &AgentFunction) -> Result<String> {
    let conditions = function.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    let ready = ready.next().context("a Ready condition")?;
    Ok(format!("{:?}", ready.last_transition_time))
}

/// What the nodes hold once they hold it for pods that exist, and for no others.
pub(crate) async fn traces_before(cx: &Cx) -> Result<Traces> {
    cx.others_ended().await?;
    let pods: Api<Pod> = Api::all(cx.client.clone());
    until("a shim for each pod, and no other", SETTLE, || async {
        let all = pods.list(&ListParams::default()).await?;
        let class = |pod: &Pod| pod.spec.as_ref()?.runtime_class_name.clone();
        let ours = all
            .iter()
            .filter(|pod| class(pod).as_deref() == Some(RUNTIME_CLASS))
            .count();
        let traces = cx.cluster.traces()?;
        let instead = format!("{ours} pods, {traces:?}");
        Ok(Seen::when(traces.shims == ours, traces, instead))
    })
    .await
}

/// Waits until the nodes hold no more than `before`, and nothing of a pod that is gone.
pub(crate) async fn nothing_left(cx: &Cx, before: Traces) -> Result<()> {
    let pods: Api<Pod> = Api::all(cx.client.clone());
    until("nothing to be left on the nodes", SETTLE, || async {
        let traces = cx.cluster.traces()?;
        // Pods of other runtimes, which come and go beside, have groups and mounts of their own.
        let mut there: Vec<String> = traces.sandboxes.iter().cloned().collect();
        for pod in pods.list(&ListParams::default()).await? {
            there.extend(pod.uid());
            there.extend(containers(&pod));
        }
        let is_left = |path: &&PathBuf| {
            let text = path.to_string_lossy();
            !is_network(path) && !there.iter().any(|id| text.contains(id))
        };
        // Kubelet has groups for all pods, which come and go too.
        let groups = traces.control_groups.difference(&before.control_groups);
        let groups = groups.filter(|path| path.to_string_lossy().contains("/pod"));
        let mounts = traces.mounts.difference(&before.mounts);
        let left: Vec<_> = groups.chain(mounts).filter(is_left).collect();
        let counts = |traces: &Traces| {
            let networks = traces.mounts.iter().filter(is_network).count();
            [
                traces.shims,
                traces.engines,
                traces.sockets,
                traces.bundles,
                networks,
                traces.leases,
                traces.drafts,
            ]
        };
        let (now, then) = (counts(&traces), counts(&before));
        Ok(Seen::when(
            now.iter().zip(&then).all(|(now, then)| now <= then) && left.is_empty(),
            (),
            format!(
                "shims, engines, sockets, bundles, network namespaces, leases, drafts {now:?}, before: {then:?}; groups and mounts {left:?}"
            ),
        ))
    })
    .await
}

/// Whether a network namespace is mounted there: their names say nothing of whose they are.
fn is_network(mount: &&PathBuf) -> bool {
    mount.to_string_lossy().contains("netns/cni-")
}

/// Ids of a pod's containers at the container runtime.
fn containers(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let status = pod.status.iter();
    let statuses = status.flat_map(|status| {
        let ordinary = status.container_statuses.iter().flatten();
        ordinary.chain(status.init_container_statuses.iter().flatten())
    });
    let ids = statuses.filter_map(|status| status.container_id.as_deref());
    ids.filter_map(|id| Some(id.split_once("://")?.1.to_owned()))
}

/// Calls to a path that is answered when the deadline is over, one after the other, until they are ended.
pub(crate) struct Callers {
    is_enough: Arc<AtomicBool>,
    calls: JoinSet<Result<()>>,
}

impl Callers {
    /// As many callers as said, each of which waits for an answer all the time.
    pub(crate) fn start(address: &str, count: i32) -> Self {
        let (is_enough, mut calls) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..count {
            let (address, enough) = (address.to_owned(), is_enough.clone());
            calls.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let answer = call::get(&address, "/never").await?;
                    ensure!(answer.status == 504, "{answer:?}");
                }
                Ok(())
            });
        }
        Self { is_enough, calls }
    }

    /// Every call was answered so.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.is_enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.calls.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Restarts of a pod's containers.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses);
    statuses.flatten().map(|status| status.restart_count).sum()
}

/// The engine with a door for tests, in the place of each node's, until this is dropped. New pods have it at once, and others
/// when it is their turn.
pub(crate) struct Backdoor {
    engines: Vec<PathBuf>,
}

impl Backdoor {
    pub(crate) fn install(cx: &Cx) -> Result<Self> {
        let own = cx.cluster.binary("backdoored-engine");
        let mut backdoor = Self {
            engines: Vec::new(),
        };
        for node in 1..=cx.cluster.nodes()? {
            let directory = cx.cluster.node_directory(node);
            let bin = directory.join("opt/hearth/bin");
            let (engine, new) = (bin.join("hearth-engine"), bin.join("hearth-engine.new"));
            // The same file comes back: pods that did not change to another need not change back.
            match std::fs::hard_link(&engine, kept(&engine)) {
                // A run that was cut off kept it.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                linked => linked.context("keep the node's engine")?,
            }
            backdoor.engines.push(engine.clone());
            std::fs::copy(&own, &new)
                .with_context(|| format!("copy {}; `cargo xtask e2e` builds it", own.display()))?;
            std::fs::rename(&new, &engine).context("put the engine with a door in its place")?;
        }
        Ok(backdoor)
    }

    /// Puts the nodes' own engines back, and waits until nobody runs the other one.
    pub(crate) async fn remove(mut self, cx: &Cx) -> Result<()> {
        let other = self.engines.first().map(std::fs::metadata).transpose()?;
        let file = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        self.restore()?;
        // This case's are of it until they are gone.
        for kind in ["agentfunctions", "pods"] {
            cx.kubectl(&["delete", kind, "--all", "--timeout=60s"])?;
        }
        until("the nodes' own engines alone", SETTLE, || async {
            let pids = cx.cluster.pids_on_nodes("hearth-engine")?;
            let programs = pids.iter().map(|pid| format!("/proc/{pid}/exe"));
            let running = programs.filter_map(|exe| std::fs::metadata(exe).ok());
            let others = running.filter(|program| {
                other
                    .as_ref()
                    .is_some_and(|other| file(other) == file(program))
            });
            let others = others.count();
            Ok(Seen::when(others == 0, (), format!("{others} others")))
        })
        .await
    }

    fn restore(&mut self) -> Result<()> {
        for engine in self.engines.drain(..) {
            std::fs::rename(kept(&engine), &engine).context("put the node's engine back")?;
        }
        Ok(())
    }
}

fn kept(engine: &Path) -> PathBuf {
    engine.with_extension("kept")
}

impl Drop for Backdoor {
    /// After a failure too: other cases expect the engine as it is installed.
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("a node keeps the engine with a door: {error:#}");
        }
    }
}

/// Image of the component of many behaviours, chosen by path, pushed when the registry lacks it.
pub(crate) fn mischief(cx: &Cx) -> Result<String> {
    guest(cx, "mischief")
}

/// Image of a test guest, as a wasm artifact.
pub(crate) fn guest(cx: &Cx, name: &str) -> Result<String> {
    let path = cx.cluster.guest(name);
    let wasm = std::fs::read(&path)
        .with_context(|| format!("read {}; `cargo xtask e2e` builds it", path.display()))?;
    cx.push_artifact(name, &wasm)
}

/// Waits until a function is not Ready for `reason`, which its condition's message and an event explain with `words`.
pub(crate) async fn fails(
    cx: &Cx,
    name: &str,
    reason: &str,
    words: &[&str],
) -> Result<AgentFunction> {
    let what = format!("{name} not to be Ready for the reason {reason}");
    let (function, message) = until(&what, SETTLE, || async {
        let function = cx.functions().get(name).await?;
        let status = function.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.iter();
        let ready =
            conditions.find(|c| c.type_ == "Ready" && c.status == "False" && c.reason == reason);
        let message = ready.map(|ready| ready.message.clone());
        Ok(message.map_or_else(
            || Seen::NotYet(format!("{:?}", status.conditions)),
            |message| Seen::Yes((function, message)),
        ))
    })
    .await?;
    for word in words {
        contains("the condition's message", &message, word)?;
    }
    let event = cx.event(name, reason).await?;
    contains(
        "the event",
        &event,
        words.first().copied().unwrap_or_default(),
    )?;
    Ok(function)
}

/// Prints what an engineer would ask for first.
pub(crate) async fn report(cx: &Cx, error: &anyhow::Error) {
    eprintln!("--- failed: {error:#}");
    for args in [
        &[
            "get",
            "agentfunctions,agentpools,pods,services,endpointslices",
            "-o",
            "wide",
        ][..],
        &["get", "events", "--sort-by=.lastTimestamp"][..],
        &["describe", "agentfunctions"][..],
    ] {
        match cx.kubectl(args) {
            Ok(text) => eprintln!("--- kubectl {}\n{text}", args.join(" ")),
            Err(error) => eprintln!("--- kubectl {}: {error:#}", args.join(" ")),
        }
    }
    if let Ok(text) = cx.cluster.kubectl(&[
        "--namespace",
        "hearth-system",
        "logs",
        "deployment/hearth-operator",
        "--tail=40",
    ]) {
        eprintln!("--- operator\n{text}");
    }
}

/// Helm, in the namespace of Hearth's release.
pub(crate) fn helm(cx: &Cx, words: &[&str]) -> Result<String> {
    let mut helm = cx.cluster.command(1, cx.cluster.layout().tool("helm"));
    let output = helm
        .args(words)
        .args(["--namespace", "hearth-system"])
        .output();
    let output = output.context("run helm")?;
    ensure!(
        output.status.success(),
        "helm {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Checks that a text contains a part, and shows both when it does not.
pub(crate) fn contains(what: &str, text: &str, part: &str) -> Result<()> {
    anyhow::ensure!(text.contains(part), "{what} lacks {part:?}: {text:?}");
    Ok(())
}
