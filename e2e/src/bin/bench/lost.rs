//! An engine of a pool that is killed, under load: how soon its function answers again, and has as much warm as before.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_contract::METRICS_PORT;
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::load::Steady;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Engines that are killed, one after the other.
const ROUNDS: usize = 5;
/// Between two of them: engines that end one after the other are started later and later.
const PAUSE: Duration = Duration::from_secs(10);
/// Calls a second.
const LOAD: u32 = 500;
const WARM: u32 = 20;
const NAME: &str = "hello";

pub(crate) async fn run(cx: &Cx) -> Result<Vec<Figure>> {
    let replicas = format!("  replicas: {WARM}");
    cx.ready_function(NAME, "localhost:5000/examples/hello-c:dev", &replicas)
        .await?;
    let pod = cx.pool_pod().await?;
    let uid = pod.uid().context("a pod has a UID")?;
    let address = cx.route(NAME).await?;
    is_warm(cx, &pod).await?;
    let load = Steady::start(&address, LOAD);
    let (mut answers, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        tokio::time::sleep(PAUSE).await;
        let killed = Instant::now();
        cx.cluster.kill9_in_pod(&uid, "hearth-engine")?;
        until("an answer", SETTLE, || async {
            Ok(match call::get(&address, "/").await {
                Ok(answer) => Seen::when(answer.status == 200, (), answer.status.to_string()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await?;
        answers.push(killed.elapsed().as_secs_f64() * 1e3);
        is_warm(cx, &pod).await?;
        warm.push(killed.elapsed().as_secs_f64() * 1e3);
    }
    let load = load.end().await?;
    let figure = |measure: String, value, unit, aim| Figure {
        bench: "lost",
        measure,
        value,
        unit,
        peer: None,
        aim,
    };
    let slowest = |what: &str, samples: &[f64], aim| {
        let measure = format!("an engine killed, {what}, the slowest of {ROUNDS}");
        figure(measure, quantile(samples, 1.0), "ms", aim)
    };
    let calls = load.micros.len() as u64 + load.failed;
    Ok(vec![
        slowest("answered again", &answers, Aim::AtMost(200.0)),
        slowest("all warm again", &warm, Aim::AtMost(1000.0)),
        figure(
            format!("calls that failed for {ROUNDS} engines, of {calls}"),
            load.failed as f64,
            "",
            Aim::None,
        ),
    ])
}

/// Waits until all instances are there and wait for a call, but for those of calls that go on.
async fn is_warm(cx: &Cx, pod: &Pod) -> Result<()> {
    let labels = [r#"function="hello""#];
    until("instances to be warm", SETTLE, || async {
        // Warm ones and those in use are the states that there are.
        Ok(
            match cx
                .metric(pod, METRICS_PORT, "hearth_instances", &labels)
                .await
            {
                Ok(count) => Seen::when(count >= f64::from(WARM), (), count.to_string()),
                // Its engine is starting.
                Err(error) => Seen::NotYet(format!("{error:#}")),
            },
        )
    })
    .await
}
