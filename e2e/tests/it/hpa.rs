//! Kubernetes' own HorizontalPodAutoscaler on metrics that the operator serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use tokio::task::JoinSet;

use crate::support::{contains, is_warm, mischief};

/// The function of this group.
const NAME: &str = "busy";
/// Callers that each wait for an answer all the time.
const CALLERS: i32 = 4;
/// How long a number must stay once it is right.
const STEADY: Duration = Duration::from_secs(60);
/// An autoscaler looks every 2 s here, and lowers what was needed 15 s ago.
const SCALED: Duration = Duration::from_secs(120);

/// Calls to a path that is answered when the deadline is over, one after the other, until they are ended.
struct Callers {
    is_enough: Arc<AtomicBool>,
    calls: JoinSet<Result<()>>,
}

impl Callers {
    fn start(address: &str) -> Self {
        let (is_enough, mut calls) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..CALLERS {
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

    async fn end(mut self) -> Result<()> {
        self.is_enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.calls.join_next().await {
            ended??;
        }
        Ok(())
    }
}

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

pub(crate) async fn load_raises_replicas_and_its_end_lowers_them(cx: &Cx) -> Result<()> {
    let address = autoscaled(cx, 1).await?;
    let callers = Callers::start(&address);
    // One for each call that runs: that is the formula.
    is_scaled_to(cx, CALLERS).await?;
    let table = cx.kubectl(&["get", "hpa", NAME])?;
    contains("kubectl get hpa", &table, "(avg)")?;
    ensure!(!table.contains("<unknown>"), "{table}");
    let since = Instant::now();
    while since.elapsed() < STEADY {
        let replicas = replicas(cx).await?;
        ensure!(
            (replicas - CALLERS).abs() <= 1,
            "a steady load of {CALLERS} has {replicas} replicas after {:?}",
            since.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    callers.end().await?;
    is_scaled_to(cx, 1).await
}

pub(crate) async fn it_scales_to_zero_and_back_and_no_call_fails(cx: &Cx) -> Result<()> {
    let address = autoscaled(cx, 0).await?;
    is_scaled_to(cx, 0).await?;
    // Nothing is warm: a call makes an instance for itself.
    let answer = call::get(&address, "/hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let callers = Callers::start(&address);
    is_scaled_to(cx, CALLERS).await?;
    callers.end().await?;
    is_scaled_to(cx, 0).await
}

pub(crate) async fn a_number_that_a_user_sets_stays(cx: &Cx) -> Result<()> {
    let address = autoscaled(cx, 1).await?;
    cx.kubectl(&["delete", "hpa", NAME])?;
    let callers = Callers::start(&address);
    cx.kubectl(&["scale", &format!("agentfunction/{NAME}"), "--replicas=3"])?;
    is_warm(cx, NAME, 3).await?;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(20) {
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
    let callers = Callers::start(&address);
    // Those that are in a call, and one for the next.
    ensure!(wanted(CALLERS, 8).await?.as_deref() == Some("Calls"));
    ensure!(
        replicas(cx).await? == 1,
        "the operator leaves replicas alone"
    );
    callers.end().await?;
    ensure!(wanted(1, 1).await?.as_deref() == Some("Replicas"));
    Ok(())
}
