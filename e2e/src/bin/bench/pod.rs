//! A plain hearth pod beside a runc pod: `kubectl apply` to Ready, and the resident memory of all its processes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE};

const ROUNDS: usize = 20;

/// A pod's `spec`, indented by two.
pub(crate) const RUNC: &str = "  containers:\n    - name: c\n      image: localhost:5000/bench/bare-hyper:1\n      args: [\"8080\"]\n";
const HEARTH: &str = "  runtimeClassName: hearth\n  containers:\n    - name: c\n      image: localhost:5000/examples/hello-c:dev\n";

pub(crate) async fn run(cx: &Cx) -> Result<Vec<Figure>> {
    crate::call::push_peer(cx)?;
    // One each first, so that both find their image on the node.
    apply_to_ready(cx, "warm-up-hearth", HEARTH).await?;
    apply_to_ready(cx, "warm-up-runc", RUNC).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(apply_to_ready(cx, &format!("h{round}"), HEARTH).await?);
        theirs.push(apply_to_ready(cx, &format!("r{round}"), RUNC).await?);
    }
    let (ours_mb, theirs_mb) = (
        resident(cx, "mem-hearth", HEARTH).await?,
        resident(cx, "mem-runc", RUNC).await?,
    );
    Ok(vec![
        Figure {
            bench: "pod",
            measure: "kubectl apply to Ready, p50".to_owned(),
            value: quantile(&ours, 0.5),
            unit: "ms",
            peer: Some(("runc pod", quantile(&theirs, 0.5))),
            aim: Aim::RatioAtMost(0.9),
        },
        Figure {
            bench: "pod",
            measure: "resident memory, all processes of the pod, settled".to_owned(),
            value: ours_mb,
            unit: "MB",
            peer: Some(("runc pod", theirs_mb)),
            aim: Aim::AtMost(12.0),
        },
    ])
}

/// Milliseconds from the start of `kubectl apply` to the Ready condition; the pod is deleted again.
pub(crate) async fn apply_to_ready(cx: &Cx, name: &str, spec: &str) -> Result<f64> {
    let started = Instant::now();
    start(cx, name, spec).await?;
    let millis = started.elapsed().as_secs_f64() * 1e3;
    delete(cx, name)?;
    Ok(millis)
}

async fn start(cx: &Cx, name: &str, spec: &str) -> Result<()> {
    cx.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}"
    ))?;
    let pods = cx.pods();
    until(&format!("pod {name} to be Ready"), SETTLE, || async {
        let status = pods.get(name).await?.status.unwrap_or_default();
        let ready = status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        Ok(Seen::when(
            ready,
            (),
            format!("{:?} {:?}", status.phase, status.container_statuses),
        ))
    })
    .await
}

fn delete(cx: &Cx, name: &str) -> Result<()> {
    cx.kubectl(&["delete", "pod", name, "--timeout=60s"])
        .context("clean up after a round")?;
    Ok(())
}

/// Between two looks at a pod's memory.
const LOOK: Duration = Duration::from_secs(2);

/// Megabytes (10^6) of the resident sets of the pod's shim and all below it, once the pod has settled: both peers give back
/// what only their start needed within seconds.
async fn resident(cx: &Cx, name: &str, spec: &str) -> Result<f64> {
    start(cx, name, spec).await?;
    let pod = cx.pods().get(name).await?;
    let uid = pod.metadata.uid.context("a pod has a UID")?;
    let bytes = until("the pod's memory to settle", SETTLE, || async {
        let before = cx.cluster.resident_bytes_of_pod(&uid)?;
        tokio::time::sleep(LOOK).await;
        let now = cx.cluster.resident_bytes_of_pod(&uid)?;
        let settled = before.abs_diff(now) * 100 < now;
        Ok(Seen::when(
            settled,
            now,
            format!("{before}, then {now} bytes"),
        ))
    })
    .await?;
    delete(cx, name)?;
    Ok(bytes as f64 / 1e6)
}
