//! `kubectl apply` of an AgentFunction whose bundle is on the node, to the first 200 through its Service; beside
//! `kubectl apply` of a runc pod to its Ready condition.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call, manifest};

use crate::pod::{RUNC, apply_to_ready};

const ROUNDS: usize = 20;
/// How long one try of the first call may take.
const TRY: Duration = Duration::from_millis(30);
const HELLO: &str = "localhost:5000/examples/hello-c:dev";

pub(crate) async fn run(cx: &Cx) -> Result<Vec<Figure>> {
    crate::call::push_peer(cx)?;
    apply_to_ready(cx, "warm-up", RUNC).await?;
    // The bundle on the node and the pool pod there: what every function but a node's first meets.
    cx.ready_function("first", HELLO, "  replicas: 1").await?;
    let mut ours = Vec::new();
    let mut accepted = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..ROUNDS {
        let (whole, from_accepted) = function(cx, &format!("f{round}")).await?;
        ours.push(whole);
        accepted.push(from_accepted);
        theirs.push(apply_to_ready(cx, &format!("r{round}"), RUNC).await?);
    }
    let figure = |measure: &str, value, peer, aim| Figure {
        bench: "apply",
        measure: measure.to_owned(),
        value,
        unit: "ms",
        peer: Some(("runc pod to Ready", peer)),
        aim,
    };
    let (p50, p99) = (quantile(&theirs, 0.5), quantile(&theirs, 0.99));
    Ok(vec![
        figure(
            "kubectl apply to first 200, p50",
            quantile(&ours, 0.5),
            p50,
            Aim::AtMost(100.0),
        ),
        figure(
            "kubectl apply to first 200, p99",
            quantile(&ours, 0.99),
            p99,
            Aim::AtMost(300.0),
        ),
        figure(
            "kubectl apply returned to first 200, p50",
            quantile(&accepted, 0.5),
            p50,
            Aim::None,
        ),
    ])
}

/// Milliseconds to the first 200, from the start of kubectl and from its end.
async fn function(cx: &Cx, name: &str) -> Result<(f64, f64)> {
    let started = Instant::now();
    cx.apply(&manifest(name, HELLO, "  replicas: 1"))?;
    let accepted = Instant::now();
    let address = until("the Service", SETTLE, || async {
        Ok(cx
            .service_address(name)
            .await
            .map_or_else(|error| Seen::NotYet(error.to_string()), Seen::Yes))
    })
    .await?;
    until("the first 200", SETTLE, || async {
        // Before kube-proxy knows the Service, a connection request gets no answer, and TCP asks again after a second.
        let tried = tokio::time::timeout(TRY, call::get(&address, "/")).await;
        Ok(match tried {
            Ok(Ok(answer)) if answer.status == 200 => Seen::Yes(()),
            Ok(Ok(answer)) => Seen::NotYet(format!("{answer:?}")),
            Ok(Err(error)) => Seen::NotYet(format!("{error:#}")),
            Err(_) => Seen::NotYet("no connection".to_owned()),
        })
    })
    .await?;
    let ended = Instant::now();
    cx.kubectl(&["delete", "agentfunction", name, "--timeout=60s"])
        .context("clean up after a round")?;
    let millis = |from: Instant| (ended - from).as_secs_f64() * 1e3;
    Ok((millis(started), millis(accepted)))
}
