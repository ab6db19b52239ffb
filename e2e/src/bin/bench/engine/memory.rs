//! What the engine's memory costs, and what two of them share. Proportional set sizes: a page that several processes map
//! counts in part for each, so that no other engine may run meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use hearth_e2e::call;
use hearth_e2e::figure::{Aim, Figure};

use super::control::{Engine, function};
use super::{INSTANCES, Setup, figure, smaps};

/// When an engine that is told nothing has given back what only its start needed.
const IDLE: Duration = Duration::from_secs(2);

/// Instances that are there before those whose memory is measured: they use up what the allocator holds already.
const BEFORE: u32 = 2_000;

/// An idle engine, and what each instance that waits adds to it.
pub(super) async fn of_instances(setup: &Setup) -> Result<Vec<Figure>> {
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    let process = engine.process()?;
    tokio::time::sleep(IDLE).await;
    let idle = smaps::proportional(process)?;
    let warm = function("warm", BEFORE);
    engine.serve(warm, &setup.artifact).await?;
    let before = smaps::settled(process).await?;
    let all = BEFORE + INSTANCES;
    engine.set_target("warm", all).await?;
    engine
        .reported(&["warm".to_owned()], |report| report.warm >= all)
        .await?;
    let after = smaps::settled(process).await?;
    engine.end().await?;
    Ok(vec![
        figure(
            "memory of an idle engine",
            idle as f64 / 1e6,
            "MB",
            None,
            Aim::AtMost(8.0),
        ),
        figure(
            format!("memory of a warm instance, mean of {INSTANCES}"),
            smaps::growth(before, after, INSTANCES as usize),
            "KB",
            None,
            Aim::AtMost(100.0),
        ),
    ])
}

/// What two engines share of one artifact's file, beside what they have touched of it.
///
/// # Errors
/// When they share nothing: then each would pay for its own copy of the code.
pub(super) async fn shared(setup: &Setup) -> Result<Figure> {
    let program = setup.program("hearth-engine");
    let mut engines = [
        Engine::start(&program).await?,
        Engine::start(&program).await?,
    ];
    for engine in &mut engines {
        let address = engine.serve(function("shared", 1), &setup.artifact).await?;
        let answer = call::get(&address, "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let artifact = setup.artifact.path();
    let mapped = [
        smaps::mapped(engines[0].process()?, artifact)?,
        smaps::mapped(engines[1].process()?, artifact)?,
    ];
    let least = |value: fn(&smaps::Mapped) -> u64| mapped.iter().map(value).min().unwrap_or(0);
    let shared = least(|mapped| mapped.shared_clean);
    ensure!(
        shared > 0,
        "two engines share no page of {}: {mapped:?}",
        artifact.display()
    );
    let touched = mapped.iter().map(|mapped| mapped.resident).max();
    for engine in engines {
        engine.end().await?;
    }
    Ok(figure(
        "pages of an artifact that two engines share",
        shared as f64 / 1e3,
        "KB",
        Some(("touched", touched.unwrap_or(0) as f64 / 1e3)),
        Aim::None,
    ))
}
