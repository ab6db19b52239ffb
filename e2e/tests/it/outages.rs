//! What stands around a function may stop, die, freeze or run out of space, under load.
//!
//! An outage takes [`OUTAGE`] here; `HEARTH_OUTAGE` says another number of seconds. 30 and 60 are what docs/shim.md speaks
//! of.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_cluster::Part;
use hearth_cluster::pods::Traces;
use hearth_cluster::tools::Containerd;
use hearth_e2e::load::{CONNECTIONS, Load, PATIENCE, Steady};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use rustix::process::Signal;

use crate::pods;
use crate::support::{self, HELLO, METRICS, is_warm, restarts};
use crate::survive::{self, ENGINE};

/// How long what goes away stays away.
const OUTAGE: Duration = Duration::from_secs(5);
/// Calls a second, to a function and a plain pod together.
const LOAD: u32 = 500;
/// Instances that are warm before, and after.
const WARM: i32 = 5;

fn outage() -> Result<Duration> {
    match std::env::var("HEARTH_OUTAGE") {
        Ok(seconds) => {
            let seconds = seconds
                .parse()
                .context("HEARTH_OUTAGE is a number of seconds")?;
            Ok(Duration::from_secs(seconds))
        }
        Err(_) => Ok(OUTAGE),
    }
}

/// A function and a plain pod that are called.
struct Called {
    loads: [Steady; 2],
    pool: Pod,
    plain: Pod,
}

impl Called {
    async fn start(cx: &Cx) -> Result<Self> {
        cx.apply(&pods::pod("plain", HELLO))?;
        cx.ready_function("called", HELLO, &format!("  replicas: {WARM}"))
            .await?;
        is_warm(cx, "called", WARM).await?;
        let plain = pods::running(cx, "plain").await?;
        let address = plain
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone());
        let address = format!("{}:8080", address.context("an address")?);
        let pool = cx.pool_pod().await?;
        Ok(Self {
            loads: [
                Steady::start(&cx.route("called").await?, LOAD / 2),
                Steady::start(&address, LOAD / 2),
            ],
            pool,
            plain,
        })
    }

    /// Ends the calls: none failed, no container was started again, and as many instances are warm as before.
    async fn end(self, cx: &Cx, what: &str) -> Result<Load> {
        let mut all = Load::default();
        for load in self.loads {
            let load = load.end().await?;
            println!(
                "{what}: {} calls answered, {:.0} a second, {} failed, the slowest took {:?}",
                load.micros.len(),
                load.rate(),
                load.failed,
                load.slowest()
            );
            load.none_failed()?;
            all.micros.extend(load.micros);
        }
        is_warm(cx, "called", WARM).await?;
        for pod in [&self.pool, &self.plain] {
            let now = cx.pods().get(&pod.name_any()).await?;
            ensure!(
                now.uid() == pod.uid() && restarts(&now) == 0,
                "{:?}",
                now.status
            );
        }
        Ok(all)
    }
}

pub(crate) async fn containerd_goes_and_comes_back_and_no_call_fails(cx: &Cx) -> Result<()> {
    let before = support::traces_before(cx).await?;
    let called = Called::start(cx).await?;
    let containerd = Part::Containerd(1);
    cx.cluster.stop(containerd)?;
    tokio::time::sleep(outage()?).await;
    cx.cluster.start(containerd)?;
    let pid = cx.cluster.pid(containerd)?;
    // Its supervisor starts the next one.
    cx.cluster.kill9(containerd)?;
    until("the next containerd", SETTLE, || async {
        let next = cx.cluster.pid(containerd).ok();
        Ok(Seen::when(
            next.is_some_and(|next| next != pid),
            (),
            format!("{next:?}"),
        ))
    })
    .await?;
    are_managed(cx, called, before, "containerd stopped and killed").await
}

/// Pods of before and after are managed: made, looked into, deleted without a trace.
async fn are_managed(cx: &Cx, called: Called, before: Traces, what: &str) -> Result<()> {
    cx.apply(&pods::pod("later", HELLO))?;
    pods::running(cx, "later").await?;
    cx.logs("plain").await?;
    called.end(cx, what).await?;
    cx.kubectl(&["delete", "agentfunction", "called", "--timeout=60s"])?;
    cx.kubectl(&["delete", "pod", "plain", "later", "--timeout=60s"])?;
    support::nothing_left(cx, before).await
}

/// What nodes say they run containers with.
async fn runtime_versions(cx: &Cx) -> Result<BTreeSet<String>> {
    let nodes: Api<Node> = Api::all(cx.client.clone());
    let all = nodes.list(&ListParams::default()).await?.into_iter();
    let version = |node: Node| Some(node.status?.node_info?.container_runtime_version);
    Ok(all.filter_map(version).collect())
}

/// For a cluster with an older containerd, which has another one after it.
pub(crate) async fn containerd_is_upgraded_and_no_call_fails(cx: &Cx) -> Result<()> {
    ensure!(
        cx.cluster.containerd()? != Containerd::default(),
        "there is no newer containerd than this cluster's: `cargo xtask e2e --containerd 2.3 upgrade` has one to upgrade"
    );
    let before = support::traces_before(cx).await?;
    let old = runtime_versions(cx).await?;
    let called = Called::start(cx).await?;
    cx.cluster.upgrade_containerd()?;
    until("kubelet to see another version", SETTLE, || async {
        let now = runtime_versions(cx).await?;
        Ok(Seen::when(now.is_disjoint(&old), (), format!("{now:?}")))
    })
    .await?;
    are_managed(cx, called, before, "containerd upgraded").await
}

pub(crate) async fn kubelet_api_server_registry_and_operator_go_and_come_back_and_no_call_fails(
    cx: &Cx,
) -> Result<()> {
    let called = Called::start(cx).await?;
    cx.cluster.kill9(Part::Kubelet(1))?;
    cx.cluster.start(Part::Kubelet(1))?;
    for part in [Part::Registry, Part::ApiServer] {
        cx.cluster.stop(part)?;
    }
    tokio::time::sleep(outage()?).await;
    for part in [Part::Registry, Part::ApiServer] {
        cx.cluster.start(part)?;
    }
    until("the API server", SETTLE, || async {
        Ok(match cx.cluster.kubectl(&["get", "--raw", "/readyz"]) {
            Ok(_) => Seen::Yes(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    let operators = survive::scale(cx, 0).await;
    tokio::time::sleep(outage()?).await;
    // After a failure too: other cases expect an operator.
    let leads = survive::lead(cx).await;
    operators?;
    leads?;
    // All of them do their work again.
    cx.ready_function("later", HELLO, "  replicas: 1").await?;
    called
        .end(cx, "kubelet killed, API server, registry and operator away")
        .await?;
    Ok(())
}

pub(crate) async fn what_is_frozen_goes_on_without_a_restart(cx: &Cx) -> Result<()> {
    let called = Called::start(cx).await?;
    let uid = |pod: &Pod| pod.uid().context("a pod has a UID");
    let (pool, plain) = (uid(&called.pool)?, uid(&called.plain)?);
    let outage = outage()?;
    // Whoever manages may stand still: nobody who calls waits.
    let operator = survive::leader(cx).await?;
    let operator = uid(&operator)?;
    let freeze = |signal| {
        let shims = [&pool, &plain].map(|uid| cx.cluster.signal_shim_of_pod(uid, signal));
        let operator = cx
            .cluster
            .signal_in_pod(&operator, survive::OPERATOR, signal);
        shims.into_iter().chain([operator]).collect::<Result<()>>()
    };
    let frozen = freeze(Signal::STOP);
    tokio::time::sleep(outage).await;
    freeze(Signal::CONT)?;
    frozen?;
    called.end(cx, "shims and operator frozen").await?;
    cx.ready_function("later", HELLO, "  replicas: 1").await?;

    // An engine that stands still: its callers wait, as many as its queue holds, and it goes on.
    let address = cx.route("called").await?;
    let calls = Steady::start(&address, LOAD);
    cx.cluster.signal_in_pod(&pool, ENGINE, Signal::STOP)?;
    tokio::time::sleep(outage).await;
    cx.cluster.signal_in_pod(&pool, ENGINE, Signal::CONT)?;
    let answer = call::get(&address, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let load = calls.end().await?;
    println!(
        "an engine frozen: {} calls answered, {} failed, the slowest took {:?}",
        load.micros.len(),
        load.failed,
        load.slowest()
    );
    // A call is given up after some time, and its caller waits in the next one: that many failed at most, as nobody is refused.
    let given_up = outage.as_secs() / PATIENCE.as_secs() * u64::from(CONNECTIONS);
    ensure!(
        load.failed <= given_up,
        "{} failed: {:?}",
        load.failed,
        load.problem
    );
    is_warm(cx, "called", WARM).await?;
    let pod = cx.pool_pod().await?;
    ensure!(
        pod.uid().as_ref() == Some(&pool) && restarts(&pod) == 0,
        "{:?}",
        pod.status
    );
    Ok(())
}

/// A small disk over a folder of node 1, and full at once with what is written there.
struct SmallDisk<'a> {
    cx: &'a Cx,
    folder: String,
}

impl<'a> SmallDisk<'a> {
    fn over(cx: &'a Cx, folder: impl Into<String>) -> Result<Self> {
        let folder = folder.into();
        let disk = Self { cx, folder };
        disk.on_node(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "size=4k,mode=711",
                "small",
                &disk.folder,
            ],
        )?;
        Ok(disk)
    }

    fn on_node(&self, program: &str, words: &[&str]) -> Result<()> {
        let mut command = self.cx.cluster.command_on_node(1, program)?;
        let output = command.args(words).output()?;
        ensure!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

impl Drop for SmallDisk<'_> {
    /// There is space again.
    fn drop(&mut self) {
        if let Err(error) = self.on_node("umount", &["--lazy", &self.folder]) {
            eprintln!("the small disk stays: {error:#}");
        }
    }
}

pub(crate) async fn a_full_disk_is_said_and_harms_nothing_that_runs(cx: &Cx) -> Result<()> {
    let called = Called::start(cx).await?;
    let state = hearth_cluster::node::STATE_DIRECTORY;
    let ingest = Path::new(hearth_cluster::layout::NODE_DIRECTORY)
        .join("containerd/root/io.containerd.content.v1.content/ingest");
    for (name, folder, reason) in [
        ("compiled", state.to_owned(), "NodeFault"),
        ("pulled", ingest.display().to_string(), "PullFailed"),
    ] {
        // A bundle that no node has seen: bytes behind a component's end are a section that nobody reads.
        let image = unseen(cx, name)?;
        let disk = SmallDisk::over(cx, folder)?;
        cx.apply(&hearth_e2e::cx::manifest(name, &image, "  replicas: 1"))?;
        let functions = cx.functions();
        let message = until("a clear condition", SETTLE, || async {
            let status = functions.get(name).await?.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
            Ok(match ready {
                Some(ready) if ready.reason == reason => Seen::Yes(ready.message.clone()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await?;
        support::contains("the condition", &message.to_lowercase(), "no space left")?;
        drop(disk);
        cx.condition(name, "Ready", "True").await?;
    }
    // What containerd and the shim write down of a pod.
    let tasks = Path::new(hearth_cluster::layout::NODE_DIRECTORY)
        .join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    let disk = SmallDisk::over(cx, tasks.display().to_string())?;
    cx.apply(&pods::pod("noted", HELLO))?;
    cx.event("noted", "no space left").await?;
    drop(disk);
    pods::running(cx, "noted").await?;
    called.end(cx, "disks full").await?;
    Ok(())
}

/// The C example with a custom section that no other bundle has, behind its other sections.
fn unseen(cx: &Cx, name: &str) -> Result<String> {
    let mut wasm = std::fs::read(cx.cluster.guest("hello-c"))?;
    // Its id, its size, the length of its name, the name, and what makes a registry's layer larger than the small disk.
    let content: Vec<u8> = format!("{}{name}", cx.namespace)
        .bytes()
        .cycle()
        .take(100)
        .collect();
    wasm.extend([0, 102, 1, b'x']);
    wasm.extend(content);
    cx.push_artifact(&format!("{}-{name}", cx.namespace), &wasm)
}

pub(crate) async fn a_node_that_is_rebooted_has_its_caches_and_its_functions_back(
    cx: &Cx,
) -> Result<()> {
    cx.apply(&pods::pod("plain", HELLO))?;
    pods::running(cx, "plain").await?;
    cx.ready_function("called", HELLO, &format!("  replicas: {WARM}"))
        .await?;
    is_warm(cx, "called", WARM).await?;
    cx.cluster.reboot(1)?;
    let since = std::time::Instant::now();
    let pods = cx.pods();
    until(
        "the pods' containers to be started again",
        SETTLE,
        || async {
            // The operator may have made another pool pod; the plain one is nobody's but kubelet's.
            let plain = pods.get("plain").await?;
            Ok(Seen::when(
                restarts(&plain) > 0,
                (),
                format!("{:?}", plain.status),
            ))
        },
    )
    .await?;
    pods::running(cx, "plain").await?;
    is_warm(cx, "called", WARM).await?;
    let address = cx.route("called").await?;
    let answer = call::get(&address, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    println!(
        "a node was rebooted: its function is warm again after {:?}",
        since.elapsed()
    );
    // What was compiled before is there, and nobody pulled.
    let pool = cx.pool_pod().await?;
    for metric in [
        "hearth_bundle_compile_seconds",
        "hearth_bundle_pull_seconds",
    ] {
        let seconds = cx
            .metric(&pool, METRICS, metric, &["function=\"called\""])
            .await?;
        ensure!(seconds == 0.0, "{metric} is {seconds}");
    }
    // The operator is an ordinary pod of that node, and back too.
    cx.ready_function("later", HELLO, "  replicas: 1").await?;
    survive::lead(cx).await
}
