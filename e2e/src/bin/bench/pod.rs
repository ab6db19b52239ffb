//! A plain hearth pod beside a runc pod: `kubectl apply` to Ready, how long the task's start takes of that, and the resident memory of
//! all its processes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::process::Process;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

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
    let events = Events::follow(cx)?;
    let (mut our_starts, mut their_starts) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (kind, spec, readies, starts) in [
            ("h", HEARTH, &mut ours, &mut our_starts),
            ("r", RUNC, &mut theirs, &mut their_starts),
        ] {
            let name = format!("{kind}{round}");
            readies.push(apply_and_time(cx, &name, spec).await?);
            let container = container(cx, &name).await?;
            delete(cx, &name)?;
            starts.push(events.start(&container).await?);
        }
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
            measure: format!("from task created to task started, the slowest of {ROUNDS}"),
            value: quantile(&our_starts, 1.0),
            unit: "ms",
            peer: Some(("runc pod", quantile(&their_starts, 1.0))),
            aim: Aim::AtMost(10.0),
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
    let millis = apply_and_time(cx, name, spec).await?;
    delete(cx, name)?;
    Ok(millis)
}

async fn apply_and_time(cx: &Cx, name: &str, spec: &str) -> Result<f64> {
    let started = Instant::now();
    start(cx, name, spec).await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Containerd's ID of a pod's container.
async fn container(cx: &Cx, name: &str) -> Result<String> {
    let status = cx.pods().get(name).await?.status;
    let mut containers = status.and_then(|status| status.container_statuses);
    let container = containers
        .as_mut()
        .and_then(|all| all.first_mut()?.container_id.take());
    let container = container.context("a pod that is Ready has a container")?;
    Ok(container.trim_start_matches("containerd://").to_owned())
}

/// What shims say, as containerd passes it on: each event with the time at which its shim made it.
struct Events {
    /// It only listens.
    _containerd: Process,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Events {
    fn follow(cx: &Cx) -> Result<Self> {
        let mut containerd = cx.cluster.ctr(1)?;
        let mut containerd = containerd.arg("events").stdout(Stdio::piped()).spawn()?;
        let said = containerd.stdout.take().context("its output is a pipe")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
            }
        });
        Ok(Self {
            _containerd: containerd.into(),
            lines,
        })
    }

    /// Milliseconds between the events that a container's task is created and that it is started: what the Task API's `start`
    /// takes, and containerd's way to it.
    async fn start(&self, container: &str) -> Result<f64> {
        until("the events of a start", SETTLE, || async {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let at = |topic| lines.iter().find_map(|line| at(line, topic, container));
            Ok(match (at("/tasks/create"), at("/tasks/start")) {
                (Some(created), Some(started)) => {
                    let took = started.duration_since(created).as_secs_f64();
                    Seen::Yes(took * 1e3)
                }
                _ => Seen::NotYet(format!("{} events", lines.len())),
            })
        })
        .await
    }
}

/// When an event was, if a line of `ctr events` is about it: date, time, offset, zone, namespace, topic, and the event as JSON.
fn at(line: &str, topic: &str, container: &str) -> Option<Timestamp> {
    let words: Vec<_> = line.splitn(7, ' ').collect();
    let [date, time, _, _, _, of, event] = words[..] else {
        return None;
    };
    let event: Value = serde_json::from_str(event).ok()?;
    if of != topic || event["container_id"].as_str() != Some(container) {
        return None;
    }
    format!("{date}T{time}Z").parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_time() {
        let line =
            r#"2026-11-26 21:12:15.25 +0000 UTC k8s.io /tasks/start {"container_id":"c","pid":7}"#;
        let time = Some("2026-11-26T21:12:15.25Z".parse().unwrap());
        assert_eq!(at(line, "/tasks/start", "c"), time);
        for (topic, container) in [("/tasks/create", "c"), ("/tasks/start", "d")] {
            assert_eq!(at(line, topic, container), None);
        }
    }
}
