//! Kubernetes' own HorizontalPodAutoscaler on metrics that the operator serves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};

use crate::support::{Callers, contains, is_warm, mischief};

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
    cx.apply(&format!(
        "apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {NAME}}}
spec:
  scaleTargetRef: {{apiVersion: hearth.dev/v1alpha1, kind: AgentFunction, name: {NAME}}}
  minReplicas: {least}
  maxReplicas: 8
  metrics:
    - type: Object
      object:
        describedObject: {{apiVersion: hearth.dev/v1alpha1, kind: AgentFunction, name: {NAME}}}
        metric: {{name: hearth_in_flight}}
        target: {{type: AverageValue, averageValue: '1'}}
  behavior:
    scaleDown: {{stabilizationWindowSeconds: 0}}
"
    ))?;
    cx.route(NAME).await
}

async fn replicas(cx: &Cx) -> Result<i32> {
    let function = cx.functions().get(NAME).await?;
    function.spec.replicas.context("replicas are set")
}

async fn is_scaled_to(cx: &Cx, expected: i32) -> Result<()> {
    until(&format!("{expected} replicas"), SCALED, || async {
        let replicas = replicas(cx).await?;
        let instead = || cx.kubectl(&["describe", "hpa", NAME]);
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
