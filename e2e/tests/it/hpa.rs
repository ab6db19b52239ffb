//! Kubernetes' own HorizontalPodAutoscaler on metrics that the operator serves.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_cluster::image::Image;
use hearth_cluster::tools::Keda;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};

use crate::support::{Callers, HELLO, contains, is_warm, mischief};

/// The function of this group.
const NAME: &str = "busy";
/// Callers that each wait for an answer all the time.
const CALLERS: i32 = 4;
/// Seconds that a steady load has to keep its number of instances.
const STEADY_VARIABLE: &str = "HEARTH_E2E_STEADY_SECONDS";
/// An autoscaler looks every second here, and lowers what was needed 15 s ago.
const SCALED: Duration = Duration::from_secs(120);

/// A function whose calls last two seconds, and an autoscaler that wants one warm instance for each call that runs.
async fn autoscaled(cx: &Cx, least: u32) -> Result<String> {
    let image = mischief(cx)?;
    let spec = "  replicas: 1\n  limits: {deadlineMilliseconds: 2000}";
    cx.ready_function(NAME, &image, spec).await?;
    let function = format!("apiVersion: hearth.dev/v1alpha1, kind: AgentFunction, name: {NAME}");
    // What is no longer needed goes at once.
    let behavior = "  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}\n";
    cx.apply(&(autoscaler(NAME, &function, 1, least, 8) + behavior))?;
    cx.route(NAME).await
}

/// An autoscaler of `target` that wants one replica for each `calls` that run in the function.
fn autoscaler(name: &str, target: &str, calls: u32, least: u32, most: u32) -> String {
    format!(
        "apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {name}}}
spec:
  scaleTargetRef: {{{target}}}
  minReplicas: {least}
  maxReplicas: {most}
  metrics:
    - type: Object
      object:
        describedObject: {{apiVersion: hearth.dev/v1alpha1, kind: AgentFunction, name: {NAME}}}
        metric: {{name: hearth_in_flight}}
        target: {{type: AverageValue, averageValue: '{calls}'}}
"
    )
}

async fn replicas(cx: &Cx) -> Result<i32> {
    let function = cx.functions().get(NAME).await?;
    function.spec.replicas.context("replicas are set")
}

async fn is_scaled_to(cx: &Cx, expected: i32) -> Result<()> {
    until(&format!("{expected} replicas"), SCALED, || async {
        let replicas = replicas(cx).await?;
        let instead = || cx.kubectl(&["describe", "hpa"]);
        Ok(match replicas == expected {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{replicas}; {}", instead()?)),
        })
    })
    .await?;
    is_warm(cx, NAME, expected).await
}

pub(crate) async fn load_raises_replicas_and_its_end_lowers_them_to_zero(cx: &Cx) -> Result<()> {
    let address = autoscaled(cx, 0).await?;
    is_scaled_to(cx, 0).await?;
    // Nothing is warm: a call makes an instance for itself.
    let answer = call::get(&address, "/hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let callers = Callers::start(&address, CALLERS);
    // One for each call that runs: that is the formula.
    is_scaled_to(cx, CALLERS).await?;
    let table = cx.kubectl(&["get", "hpa", NAME])?;
    contains("kubectl get hpa", &table, "(avg)")?;
    ensure!(!table.contains("<unknown>"), "{table}");
    let (since, steady) = (Instant::now(), steady()?);
    while since.elapsed() < steady {
        let replicas = replicas(cx).await?;
        ensure!(
            (replicas - CALLERS).abs() <= 1,
            "a steady load of {CALLERS} has {replicas} replicas after {:?}",
            since.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    callers.end().await?;
    is_scaled_to(cx, 0).await
}

pub(crate) async fn a_deployment_follows_the_calls_of_a_function(cx: &Cx) -> Result<()> {
    const BESIDE: &str = "beside";
    let address = autoscaled(cx, 1).await?;
    cx.apply(&format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {BESIDE}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {BESIDE}}}}}
  template:
    metadata: {{labels: {{app: {BESIDE}}}}}
    spec:
      runtimeClassName: hearth
      containers: [{{name: c, image: \"{HELLO}\"}}]
"
    ))?;
    let deployment = format!("apiVersion: apps/v1, kind: Deployment, name: {BESIDE}");
    cx.apply(&autoscaler(BESIDE, &deployment, 2, 1, 4))?;
    let callers = Callers::start(&address, CALLERS);
    let wanted = (CALLERS / 2).to_string();
    until("two pods beside the function", SCALED, || async {
        let path = "-o=jsonpath={.spec.replicas}";
        let replicas = cx.kubectl(&["get", "deployment", BESIDE, path])?;
        Ok(Seen::when(replicas.trim() == wanted, (), replicas))
    })
    .await?;
    callers.end().await
}

/// How long a number must stay once it is right: for twenty looks of the autoscaler, or as long as the environment says.
fn steady() -> Result<Duration> {
    let seconds = match std::env::var(STEADY_VARIABLE) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{STEADY_VARIABLE} is a number of seconds"))?,
        Err(_) => 20,
    };
    Ok(Duration::from_secs(seconds))
}

pub(crate) async fn a_number_that_a_user_sets_stays(cx: &Cx) -> Result<()> {
    let address = autoscaled(cx, 1).await?;
    cx.kubectl(&["delete", "hpa", NAME])?;
    let callers = Callers::start(&address, CALLERS);
    cx.kubectl(&["scale", &format!("agentfunction/{NAME}"), "--replicas=3"])?;
    is_warm(cx, NAME, 3).await?;
    let since = Instant::now();
    // Ten looks of an autoscaler, and of the operator.
    while since.elapsed() < Duration::from_secs(10) {
        ensure!(replicas(cx).await? == 3, "somebody else wrote the number");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    callers.end().await?;
    is_warm(cx, NAME, 3).await
}

pub(crate) async fn scaling_of_its_own_follows_calls(cx: &Cx) -> Result<()> {
    let image = mischief(cx)?;
    let spec = "  replicas: 1\n  limits: {deadlineMilliseconds: 2000}\n  reuse: {calls: 100}\n  scaling: {maxReplicas: 8, scaleDownSeconds: 6}";
    cx.ready_function(NAME, &image, spec).await?;
    let address = cx.route(NAME).await?;
    let wanted = |least: i32, most: i32| async move {
        let what = format!("{least} to {most} instances to be wanted");
        until(&what, SETTLE, || async {
            let status = cx.functions().get(NAME).await?.status;
            let status = status.context("a status")?;
            let (wanted, by) = (status.wanted.unwrap_or(0), status.wanted_by);
            let said = format!("{wanted}, by {by:?}");
            Ok(Seen::when((least..=most).contains(&wanted), by, said))
        })
        .await
    };
    ensure!(wanted(1, 1).await?.as_deref() == Some("Replicas"));
    let callers = Callers::start(&address, CALLERS);
    // Those that are in a call, and one for the next.
    ensure!(wanted(CALLERS, 8).await?.as_deref() == Some("Calls"));
    // And it is explained.
    let event = cx.event(NAME, "by Calls").await?;
    contains("the event", &event, "Scaled: ")?;
    contains("the event", &event, "replicas 1, calls ")?;
    let why = cx.cluster.binary("hearth");
    let why = std::process::Command::new(&why)
        .args(["why", NAME, "--namespace", &cx.namespace])
        .output()
        .with_context(|| format!("run {}", why.display()))?;
    ensure!(why.status.success(), "{why:?}");
    let why = String::from_utf8_lossy(&why.stdout);
    contains("hearth why", &why, "  > Calls ")?;
    contains("hearth why", &why, "8  spec.scaling.maxReplicas")?;
    contains("hearth why", &why, "Scaled ")?;
    ensure!(
        replicas(cx).await? == 1,
        "the operator leaves replicas alone"
    );
    callers.end().await?;
    ensure!(wanted(1, 1).await?.as_deref() == Some("Replicas"));
    Ok(())
}

/// For a cluster that KEDA was built for.
pub(crate) async fn keda_follows_what_the_operator_tells(cx: &Cx) -> Result<()> {
    let keda = Keda::find(cx.cluster.layout())?;
    let keda = keda.context("there is no KEDA: `cargo xtask e2e --keda keda` builds it")?;
    let folder = std::env::temp_dir().join(&cx.namespace);
    let outcome = scaled_by_keda(cx, &keda, &folder).await;
    // After a failure too: it serves an API of the cluster.
    let removed = match folder.join("kustomization.yaml").is_file() {
        true => {
            // It has to let go of its objects first.
            cx.kubectl(&["delete", "scaledobject", "--all", "--timeout=60s"])?;
            let folder = folder.to_string_lossy();
            cx.cluster
                .kubectl(&["delete", "--kustomize", &folder, "--timeout=90s"])
                .map(drop)
        }
        false => Ok(()),
    };
    std::fs::remove_dir_all(&folder)?;
    outcome.and(removed)
}

async fn scaled_by_keda(cx: &Cx, keda: &Keda, folder: &Path) -> Result<()> {
    install(cx, keda, folder)?;
    let image = mischief(cx)?;
    let spec = "  replicas: 1\n  limits: {deadlineMilliseconds: 2000}";
    cx.ready_function(NAME, &image, spec).await?;
    cx.apply(&scaled_object(cx)?)?;
    is_scaled_to(cx, 0).await?;
    let callers = Callers::start(&cx.route(NAME).await?, CALLERS);
    // One for two calls that run, as the page says.
    is_scaled_to(cx, CALLERS / 2).await?;
    callers.end().await?;
    is_scaled_to(cx, 0).await
}

/// The example of docs/scaling.md for the function of this group, in less of a hurry to wait.
fn scaled_object(cx: &Cx) -> Result<String> {
    let page = cx.cluster.layout().repository().join("docs/scaling.md");
    let page = std::fs::read_to_string(page)?;
    let mut examples = page.split("```yaml\n").skip(1);
    let example = examples.find(|example| example.contains("kind: ScaledObject"));
    let example = example.and_then(|example| example.split("```").next());
    let example = example.context("docs/scaling.md has a ScaledObject")?;
    let example = example
        .replace(
            "namespace=\"shop\"",
            &format!("namespace=\"{}\"", cx.namespace),
        )
        .replace("function=\"hello\"", &format!("function=\"{NAME}\""))
        .replace("name: hello", &format!("name: {NAME}"));
    Ok(example.replace(
        "  minReplicaCount: 0\n",
        "  minReplicaCount: 0\n  pollingInterval: 2\n  cooldownPeriod: 5\n",
    ))
}

/// Installs KEDA from its own manifests, with images of what was built.
fn install(cx: &Cx, keda: &Keda, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let copied = Command::new("cp")
        .args(["--recursive", "--no-preserve=mode"])
        .args([&keda.manifests, &folder.join("config")])
        .status()?;
    ensure!(copied.success(), "copy {}", keda.manifests.display());
    let image = |program: &str, source: &Path| -> Result<String> {
        let image = Image::new().program(program, source)?.user("1000");
        let name = source.file_name().context("a program has a name")?;
        cx.cluster
            .push_image(&format!("keda/{}:1", name.to_string_lossy()), &image)
    };
    let operator = image("/keda", &keda.operator)?;
    let adapter = image("/keda-adapter", &keda.adapter)?;
    // Without its webhooks, which only look at what users write.
    let text = format!(
        "resources: [config/minimal]
patches:
  - target: {{kind: Deployment, name: keda-operator}}
    patch: |-
      - {{op: replace, path: /spec/template/spec/containers/0/image, value: \"{operator}\"}}
      - {{op: add, path: /spec/template/spec/containers/0/args/-, value: --enable-webhook-patching=false}}
  - target: {{kind: Deployment, name: keda-metrics-apiserver}}
    patch: |-
      - {{op: replace, path: /spec/template/spec/containers/0/image, value: \"{adapter}\"}}
"
    );
    std::fs::write(folder.join("kustomization.yaml"), text)?;
    let all = folder.to_string_lossy();
    cx.cluster
        .kubectl(&["apply", "--server-side", "--kustomize", &all])?;
    for deployment in [
        "deployment/keda-operator",
        "deployment/keda-metrics-apiserver",
    ] {
        cx.cluster.kubectl(&[
            "--namespace",
            "keda",
            "rollout",
            "status",
            deployment,
            "--timeout=180s",
        ])?;
    }
    Ok(())
}
