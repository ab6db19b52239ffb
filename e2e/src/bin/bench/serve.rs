//! `hearth serve` of the C example, from the start of its process to the first 200. It keeps no artifacts, so the bundle is
//! compiled each time; cold and warm say whether the files are in memory.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::served::Served;
use hearth_e2e::{Cx, call};

const ROUNDS: usize = 20;

pub(crate) async fn run(cx: &Cx) -> Result<Vec<Figure>> {
    let files = [cx.cluster.binary("hearth"), cx.cluster.guest("hello-c")];
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for file in &files {
            forget(file)?;
        }
        cold.push(first_answer(cx).await?);
        warm.push(first_answer(cx).await?);
    }
    let figure = |measure: &str, samples: &[f64], q| Figure {
        bench: "serve",
        measure: measure.to_owned(),
        value: quantile(samples, q),
        unit: "ms",
        peer: None,
        aim: Aim::AtMost(5000.0),
    };
    Ok(vec![
        figure("hearth serve to first 200, cold, p50", &cold, 0.5),
        figure("hearth serve to first 200, cold, p99", &cold, 0.99),
        figure("hearth serve to first 200, warm, p50", &warm, 0.5),
        figure("hearth serve to first 200, warm, p99", &warm, 0.99),
    ])
}

/// Milliseconds.
async fn first_answer(cx: &Cx) -> Result<f64> {
    let guest = cx.cluster.guest("hello-c");
    let started = Instant::now();
    let served = Served::start(&cx.cluster, &[guest.as_os_str()]).await?;
    let answer = call::get(&served.address, "/").await?;
    let millis = started.elapsed().as_secs_f64() * 1e3;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(millis)
}

/// Has the kernel drop what it holds of a file, so that the next reader meets the disk.
fn forget(file: &Path) -> Result<()> {
    // Only what is on the disk can be dropped.
    run_to_end(Command::new("sync").arg(file))?;
    let input = format!("if={}", file.display());
    run_to_end(Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]))
}

fn run_to_end(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program} failed: see above");
    Ok(())
}
