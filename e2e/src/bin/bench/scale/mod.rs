//! `bench scale`: the real operator with thousands of functions and of pool pods, on the real API server. Nodes, their kubelets and
//! shims are played by this process; kube-proxy stands still meanwhile, because nobody calls.
//!
//! How much of it: `HEARTH_BENCH_NODES` (20), `HEARTH_BENCH_NAMESPACES` (50), each with a pool pod on each node, and
//! `HEARTH_BENCH_FUNCTIONS` (10000), over all namespaces.

mod shims;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use hearth_cluster::Part;
use hearth_e2e::Cx;
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::wait::{Seen, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use shims::Shown;

/// Where the operator is.
const NAMESPACE: &str = "hearth-system";
/// Its program.
const OPERATOR: &str = "hearth-operator";
/// What the played nodes and namespaces are called, and a label of them.
const MARK: &str = "bench-scale";
/// Requests to the API server at once.
const AT_ONCE: usize = 32;
/// Functions that are applied at once, and deleted at once, before the others come.
const BURST: usize = 2_000;
/// Functions that are applied one after the other.
const SINGLES: usize = 200;
/// How long calls are reported while writes are counted.
const CALLED: Duration = Duration::from_secs(30);
/// Numbers of a status wait for five seconds.
const QUIET: Duration = Duration::from_secs(6);
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(1800);

struct Size {
    nodes: usize,
    namespaces: usize,
    functions: usize,
}

impl Size {
    fn of_environment() -> Result<Self> {
        let number = |name: &str, default: usize| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} is a number")),
            Err(_) => Ok(default),
        };
        Ok(Self {
            nodes: number("HEARTH_BENCH_NODES", 20)?,
            namespaces: number("HEARTH_BENCH_NAMESPACES", 50)?,
            functions: number("HEARTH_BENCH_FUNCTIONS", 10_000)?,
        })
    }

    fn streams(&self) -> usize {
        self.nodes * self.namespaces
    }
}

/// Runs it, and says each figure as it is known: it takes many minutes. What was made is removed, also after a failure.
pub(crate) async fn run(cx: &Cx, say: impl Fn(&Figure)) -> Result<()> {
    let size = Size::of_environment()?;
    let watched = Watched::start(Api::all(cx.client.clone()), &format!("{MARK}=true"));
    tokio::time::timeout(PATIENCE, watched.objects.wait_until_ready())
        .await
        .context("the API server shows no functions")??;
    let proxies: Vec<_> = (1..=cx.cluster.nodes()?).map(Part::Proxy).collect();
    for proxy in &proxies {
        cx.cluster.stop(*proxy)?;
    }
    let measured = measure(cx, &size, &watched, &say).await;
    let removed = remove(&cx.client, &size, &watched).await;
    for proxy in proxies {
        cx.cluster.start(proxy)?;
    }
    measured?;
    removed
}

async fn measure(
    cx: &Cx,
    size: &Size,
    watched: &Watched<AgentFunction>,
    say: &impl Fn(&Figure),
) -> Result<()> {
    let client = &cx.client;
    let of = format!(
        "{} nodes, {} streams, {} functions",
        size.nodes,
        size.streams(),
        size.functions
    );
    let figure = |measure: &str, value: f64, unit, aim| Figure {
        bench: "scale",
        measure: format!("{of}: {measure}"),
        value,
        unit,
        peer: None,
        aim,
    };
    make_nodes(client, size).await?;
    let beating = tokio::spawn(beat(client.clone(), size.nodes));
    let shown = Arc::new(Shown::default());
    let played = shims::play(client.clone(), "hearth.dev/pool", shown.clone()).await?;

    let started = Instant::now();
    make_namespaces(client, size).await?;
    connected(&shown, size.streams()).await?;
    say(&figure(
        "first functions to all pool pods connected and told",
        started.elapsed().as_secs_f64(),
        "s",
        Aim::None,
    ));
    let first = size.namespaces;

    let started = Instant::now();
    apply(client, size, "burst", BURST).await?;
    all_ready(watched, first + BURST).await?;
    let up = started.elapsed();
    let started = Instant::now();
    delete(client, size, "burst", BURST).await?;
    are_left(watched, first).await?;
    let down = started.elapsed();
    let at_once = |what: &str| format!("{BURST} applied at once, {what}");
    say(&figure(
        &at_once("all Ready"),
        up.as_secs_f64(),
        "s",
        Aim::None,
    ));
    say(&figure(
        &at_once("and deleted at once, all gone"),
        down.as_secs_f64(),
        "s",
        Aim::None,
    ));

    let started = Instant::now();
    apply(client, size, "f", size.functions - first).await?;
    all_ready(watched, size.functions).await?;
    say(&figure(
        "all applied, all Ready",
        started.elapsed().as_secs_f64(),
        "s",
        Aim::None,
    ));

    let singles = singles(client, &shown, &figure).await?;
    singles.iter().for_each(say);
    let called = called(cx, size, &shown, &figure).await?;
    called.iter().for_each(say);
    say(&figure(
        "memory of the leader",
        leader_memory(cx).await?,
        "MB",
        Aim::AtMost(2000.0),
    ));

    let started = Instant::now();
    let expected = shown.held.load(Ordering::Relaxed);
    restart(cx, &shown).await?;
    connected(&shown, size.streams()).await?;
    until("all pods to be told all of theirs", PATIENCE, || async {
        let held = shown.held.load(Ordering::Relaxed);
        Ok(Seen::when(
            held == expected,
            (),
            format!("{held} of {expected}"),
        ))
    })
    .await?;
    say(&figure(
        "the only operator killed, started again, synchronised and all pods told",
        started.elapsed().as_secs_f64(),
        "s",
        Aim::AtMost(60.0),
    ));
    beating.abort();
    drop(played);
    Ok(())
}

/// One function after the other: how long until a pool pod hears of it, and who else is touched.
async fn singles(
    client: &Client,
    shown: &Shown,
    figure: &impl Fn(&str, f64, &'static str, Aim) -> Figure,
) -> Result<Vec<Figure>> {
    let mut millis = Vec::new();
    let functions: Api<AgentFunction> = Api::namespaced(client.clone(), &namespace(0));
    let (messages, placed) = (
        shown.messages.load(Ordering::Relaxed),
        shown.placed.load(Ordering::Relaxed),
    );
    for index in 0..SINGLES {
        let name = format!("single-{index}");
        let started = Instant::now();
        functions
            .create(&PostParams::default(), &function(&name))
            .await?;
        let heard = until("a pool pod to hear of it", PATIENCE, || async {
            Ok(shown
                .heard(&name)
                .map_or_else(|| Seen::NotYet("silence".to_owned()), Seen::Yes))
        })
        .await?;
        millis.push((heard - started).as_secs_f64() * 1e3);
    }
    let of_one = |counter: &std::sync::atomic::AtomicU64, before: u64| {
        (counter.load(Ordering::Relaxed) - before) as f64 / SINGLES as f64
    };
    Ok(vec![
        figure(
            "apply to the stream's message, p50",
            quantile(&millis, 0.5),
            "ms",
            Aim::None,
        ),
        figure(
            "apply to the stream's message, p99",
            quantile(&millis, 0.99),
            "ms",
            Aim::AtMost(500.0),
        ),
        figure(
            "messages for each function applied",
            of_one(&shown.messages, messages),
            "",
            Aim::None,
        ),
        figure(
            "functions named in them",
            of_one(&shown.placed, placed),
            "",
            Aim::None,
        ),
    ])
}

/// Calls in all pods are reported, and what the API server writes meanwhile is counted.
async fn called(
    cx: &Cx,
    size: &Size,
    shown: &Shown,
    figure: &impl Fn(&str, f64, &'static str, Aim) -> Figure,
) -> Result<Vec<Figure>> {
    // What was written for the functions before is over when nothing is written for a while.
    until(
        "the operator to have nothing to write",
        PATIENCE,
        || async {
            let before = writes(cx)?;
            tokio::time::sleep(QUIET).await;
            let more = writes(cx)? - before;
            Ok(Seen::when(more == 0.0, (), format!("{more} writes")))
        },
    )
    .await?;
    let before = writes(cx)?;
    let ended = shown.ended.load(Ordering::Relaxed);
    const EACH: u64 = 10;
    shown.calls.store(EACH, Ordering::Relaxed);
    tokio::time::sleep(CALLED).await;
    shown.calls.store(0, Ordering::Relaxed);
    let written = writes(cx)? - before;
    let seconds = CALLED.as_secs_f64();
    let ended = shown.ended.load(Ordering::Relaxed) - ended;
    anyhow::ensure!(
        ended == 0,
        "{ended} streams ended while calls were reported: the operator was too slow, or gone"
    );
    let activations = shown.reported.load(Ordering::Relaxed) as f64;
    anyhow::ensure!(activations > 0.0, "nobody was called");
    Ok(vec![
        figure(
            "activations reported meanwhile, a second",
            activations / seconds,
            "1/s",
            Aim::None,
        ),
        figure(
            "API writes for an activation",
            written / activations,
            "",
            Aim::AtMost(0.0),
        ),
        figure(
            "API writes for a node in 10 s",
            written / size.nodes as f64 * 10.0 / seconds,
            "",
            Aim::AtMost(1.0),
        ),
    ])
}

/// Writes of objects that the operator writes, since the API server started.
fn writes(cx: &Cx) -> Result<f64> {
    const OBJECTS: [&str; 5] = [
        "agentfunctions",
        "agentpools",
        "services",
        "endpointslices",
        "events",
    ];
    const VERBS: [&str; 6] = [
        "APPLY",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "DELETECOLLECTION",
    ];
    let text = cx.cluster.kubectl(&["get", "--raw", "/metrics"])?;
    let mut sum = 0.0;
    for object in OBJECTS {
        for verb in VERBS {
            let labels = [format!("resource=\"{object}\""), format!("verb=\"{verb}\"")];
            let labels = labels.each_ref().map(String::as_str);
            sum += hearth_e2e::cx::sum_of_series(&text, "apiserver_request_total", &labels);
        }
    }
    Ok(sum)
}

/// Resident memory of the leader, in MB.
async fn leader_memory(cx: &Cx) -> Result<f64> {
    let leader = leader(&cx.client).await?;
    let uid = leader.uid().context("a pod has a UID")?;
    let pids = cx.cluster.pids_in_pod(&uid, "hearth-operator")?;
    let pid = pids.first().context("the leader has a process")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("a process has memory")?.parse()?;
    Ok(kilobytes / 1e3)
}

async fn leader(client: &Client) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let leaders = ListParams::default().labels("hearth.dev/leader=true");
    let mut leaders = pods.list(&leaders).await?.items.into_iter();
    leaders
        .find(|pod| pod.metadata.deletion_timestamp.is_none())
        .context("nobody leads")
}

/// Kills the leader, which is started again where it was: a new pod may be sent to a played node. Waits until all streams are
/// lost.
async fn restart(cx: &Cx, shown: &Shown) -> Result<()> {
    let leader = leader(&cx.client).await?;
    let uid = leader.uid().context("a pod has a UID")?;
    cx.cluster.kill9_in_pod(&uid, OPERATOR)?;
    until("the streams to be lost", PATIENCE, || async {
        let told = shown.told.load(Ordering::Relaxed);
        Ok(Seen::when(told == 0, (), format!("{told} are open")))
    })
    .await
}

async fn connected(shown: &Shown, expected: usize) -> Result<()> {
    until("all pool pods to be told", PATIENCE, || async {
        let told = shown.told.load(Ordering::Relaxed);
        Ok(Seen::when(
            told >= expected,
            (),
            format!("{told} of {expected}"),
        ))
    })
    .await
}

fn namespace(index: usize) -> String {
    format!("{MARK}-{index}")
}

fn node(index: usize) -> String {
    format!("{MARK}-{index}")
}

fn function(name: &str) -> AgentFunction {
    let spec = json!({"bundle": {"image": "registry.example/played:1"}, "replicas": 2});
    let spec = serde_json::from_value(spec);
    let mut function = AgentFunction::new(name, spec.expect("a spec was built"));
    function
        .labels_mut()
        .insert(MARK.to_owned(), "true".to_owned());
    function
}

/// Nodes and functions of this bench, and no others that the cluster has.
fn marked() -> ListParams {
    ListParams::default().labels(&format!("{MARK}=true"))
}

/// Does something for each number below `count`, many at once.
async fn each<F>(count: usize, work: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    stream::iter((0..count).map(work))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn make_nodes(client: &Client, size: &Size) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    each(size.nodes, |index| {
        let nodes = nodes.clone();
        async move {
            let object = json!({
                "metadata": {"name": node(index), "labels": {"hearth.dev/ready": "true", MARK: "true"}},
                "spec": {},
            });
            nodes
                .create(&PostParams::default(), &serde_json::from_value(object)?)
                .await?;
            let room = json!({"cpu": "1000", "memory": "1000Gi", "pods": "10000"});
            let status = json!({"status": {
                "capacity": room,
                "allocatable": room,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Played", "message": ""}],
            }});
            nodes
                .patch_status(&node(index), &PatchParams::default(), &Patch::Merge(status))
                .await?;
            Ok(())
        }
    })
    .await
}

/// Keeps the nodes Ready, as their kubelets would.
async fn beat(client: Client, nodes: usize) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        for index in 0..nodes {
            let now = k8s_openapi::jiff::Timestamp::now();
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": node(index)},
                "spec": {"holderIdentity": node(index), "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
            });
            let apply = PatchParams::apply(MARK).force();
            // One that fails is followed by the next.
            let _ = leases
                .patch(&node(index), &apply, &Patch::Apply(lease))
                .await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// A pool on the played nodes in each namespace, and a function that uses it.
async fn make_namespaces(client: &Client, size: &Size) -> Result<()> {
    each(size.namespaces, |index| async move {
        let name = namespace(index);
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {MARK: "true"}}}))?;
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        let spec: Value = json!({"nodeSelector": {MARK: "true"}});
        let pool = AgentPool::new("default", serde_json::from_value(spec)?);
        Api::namespaced(client.clone(), &name)
            .create(&PostParams::default(), &pool)
            .await?;
        Api::namespaced(client.clone(), &name)
            .create(&PostParams::default(), &function("first"))
            .await?;
        Ok(())
    })
    .await
}

async fn apply(client: &Client, size: &Size, prefix: &str, count: usize) -> Result<()> {
    each(count, |index| async move {
        let functions: Api<AgentFunction> =
            Api::namespaced(client.clone(), &namespace(index % size.namespaces));
        functions
            .create(
                &PostParams::default(),
                &function(&format!("{prefix}-{index}")),
            )
            .await?;
        Ok(())
    })
    .await
}

async fn delete(client: &Client, size: &Size, prefix: &str, count: usize) -> Result<()> {
    each(count, |index| async move {
        let functions: Api<AgentFunction> =
            Api::namespaced(client.clone(), &namespace(index % size.namespaces));
        functions
            .delete(&format!("{prefix}-{index}"), &DeleteParams::default())
            .await?;
        Ok(())
    })
    .await
}

/// Objects as they are now. They are watched: to list them again and again would be most of the API server's work.
struct Watched<K: Resource<DynamicType = ()> + 'static> {
    objects: Store<K>,
    task: tokio::task::JoinHandle<()>,
}

impl<K: Resource<DynamicType = ()> + 'static> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Those of `api` that have this label.
    fn start(api: Api<K>, label: &str) -> Self {
        let (objects, writer) = reflector::store();
        let events = watcher(api, watcher::Config::default().labels(label));
        let kept = events.default_backoff().reflect(writer);
        Self {
            objects,
            task: tokio::spawn(kept.for_each(|_| std::future::ready(()))),
        }
    }
}

/// Waits until so many functions are there and all are Ready.
async fn all_ready(watched: &Watched<AgentFunction>, expected: usize) -> Result<()> {
    until("all functions to be Ready", PATIENCE, || async {
        let is_ready = |function: &&Arc<AgentFunction>| {
            let conditions = function.status.iter().flat_map(|status| &status.conditions);
            let mut ready = conditions.filter(|c| c.type_ == "Ready");
            ready.any(|c| c.status == "True")
        };
        let ready = watched.objects.state().iter().filter(is_ready).count();
        Ok(Seen::when(
            ready >= expected,
            (),
            format!("{ready} of {expected}"),
        ))
    })
    .await
}

async fn are_left(watched: &Watched<AgentFunction>, expected: usize) -> Result<()> {
    until("functions to be gone", PATIENCE, || async {
        let left = watched.objects.state().len();
        Ok(Seen::when(left <= expected, (), format!("{left} are left")))
    })
    .await
}

async fn remove(client: &Client, size: &Size, watched: &Watched<AgentFunction>) -> Result<()> {
    // Whoever runs the pods is gone, so nobody lets go of functions but the deadline; nobody needs to.
    each(size.namespaces, |index| async move {
        let functions: Api<AgentFunction> = Api::namespaced(client.clone(), &namespace(index));
        // The API server breaks off what takes it more than a minute; what is deleted until then stays so.
        until("functions to be deleted", PATIENCE, || async {
            let deleted = functions
                .delete_collection(&DeleteParams::default(), &ListParams::default())
                .await;
            Ok(match deleted {
                Ok(_) => Seen::Yes(()),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })
        .await
    })
    .await?;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .delete_collection(&DeleteParams::default(), &marked())
        .await?;
    let pods: Api<Pod> = Api::all(client.clone());
    are_left(watched, 0).await?;
    until("pool pods to be gone", PATIENCE, || async {
        let mut left = pods
            .list(&ListParams::default().labels("hearth.dev/pool"))
            .await?
            .items;
        left.retain(|pod| pod.namespace().is_some_and(|name| name.starts_with(MARK)));
        for pod in &left {
            let pods: Api<Pod> =
                Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            let _ = pods.delete(&pod.name_any(), &now).await;
        }
        Ok(Seen::when(
            left.is_empty(),
            (),
            format!("{} are left", left.len()),
        ))
    })
    .await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    each(size.namespaces, |index| {
        let namespaces = namespaces.clone();
        async move {
            namespaces
                .delete(&namespace(index), &DeleteParams::default())
                .await?;
            Ok(())
        }
    })
    .await?;
    Ok(())
}
