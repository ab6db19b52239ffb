//! What an instance costs: made ahead of calls, and for the first call of all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_e2e::call;
use hearth_e2e::cx::sum_of_series;
use hearth_e2e::figure::{Aim, Figure, quantile};
use tokio::process::Command;

use super::control::{Engine, function};
use super::{INSTANCES, Setup, figure};

/// Functions that are called for the first time.
const FUNCTIONS: usize = 100;
/// Turns of each: one is short, and begins with a process that has just started.
const ROUNDS: usize = 9;
/// Longer than all instances take, on any machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the engine's metrics.
const LOOK: Duration = Duration::from_millis(1);

/// The time that a warm instance takes, beside the same component's `InstancePre` with nothing around it. Both begin with a
/// new process in each round and keep every instance.
pub(super) async fn warm_instances(setup: &Setup) -> Result<Figure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(warm_instance(setup).await?);
        theirs.push(bare_instance(setup).await?);
    }
    Ok(figure(
        format!("a warm instance, mean of {INSTANCES}"),
        quantile(&ours, 0.5),
        "us",
        Some(("InstancePre", quantile(&theirs, 0.5))),
        Aim::RatioAtMost(1.3),
    ))
}

/// Microseconds. The engine's metrics say when the last one is there: reports about a function are 50 ms apart, which is as
/// long as all of it takes.
async fn warm_instance(setup: &Setup) -> Result<f64> {
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    engine.serve(function("warm", 0), &setup.artifact).await?;
    let started = Instant::now();
    engine.set_target("warm", INSTANCES).await?;
    let ended = loop {
        let answer = call::get(engine.metrics(), "/metrics").await?;
        let seen = Instant::now();
        let warm = sum_of_series(&answer.body, "hearth_instances", &["state=\"warm\""]);
        if warm >= f64::from(INSTANCES) {
            break seen;
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{warm} of {INSTANCES} instances after {PATIENCE:?}"
        );
        tokio::time::sleep(LOOK).await;
    };
    engine.end().await?;
    Ok((ended - started).as_secs_f64() * 1e6 / f64::from(INSTANCES))
}

/// Microseconds.
async fn bare_instance(setup: &Setup) -> Result<f64> {
    // Cargo has a place of its own for examples.
    let output = Command::new(setup.program("examples/bare-instance"))
        .arg(setup.artifact.path())
        .arg(INSTANCES.to_string())
        .kill_on_drop(true)
        .output()
        .await
        .context("run bare-instance")?;
    ensure!(
        output.status.success(),
        "bare-instance: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim()
        .parse()
        .with_context(|| format!("bare-instance says {said:?}"))
}

/// The first call of functions whose artifact is on the node, from opening the connection to the last byte.
pub(super) async fn first_calls(setup: &Setup) -> Result<Figure> {
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    let mut addresses = Vec::new();
    for at in 0..FUNCTIONS {
        let function = function(&format!("never-used-{at}"), 0);
        addresses.push(engine.serve(function, &setup.artifact).await?);
    }
    let mut millis = Vec::new();
    for address in &addresses {
        let started = Instant::now();
        let answer = call::get(address, "/").await?;
        millis.push(started.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.status == 200, "{answer:?}");
    }
    engine.end().await?;
    Ok(figure(
        "first call of a function, artifact on the node, p50",
        quantile(&millis, 0.5),
        "ms",
        None,
        Aim::AtMost(1.0),
    ))
}
