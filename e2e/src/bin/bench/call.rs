//! Warm calls through the Service, beside bare hyper in an ordinary pod on the same node, also through its Service.

use std::time::Duration;

use anyhow::{Context, Result};
use hearth_cluster::Image;
use hearth_e2e::Cx;
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::load::{self, Load};

const EACH: Duration = Duration::from_secs(5);

/// Pushes the image of the peer.
pub(crate) fn push_peer(cx: &Cx) -> Result<String> {
    let binary =
        std::fs::read(cx.cluster.binary("bare-hyper")).context("read the peer's binary")?;
    let image = Image::new()
        .file("/bare-hyper", 0o755, binary)
        .entrypoint(["/bare-hyper"])
        .user("65532:65532");
    cx.cluster.push_image("bench/bare-hyper:1", &image)
}

pub(crate) async fn run(cx: &Cx) -> Result<Vec<Figure>> {
    let image = push_peer(cx)?;
    cx.ready_function(
        "hello",
        "localhost:5000/examples/hello-c:dev",
        "  replicas: 16",
    )
    .await?;
    cx.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: peer\n  labels:\n    app: peer\nspec:\n  containers:\n    - name: c\n      image: {image}\n      args: [\"8080\"]\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: peer\nspec:\n  selector:\n    app: peer\n  ports:\n    - port: 80\n      targetPort: 8080\n"
    ))?;
    cx.kubectl(&["wait", "--for=condition=Ready", "pod/peer", "--timeout=60s"])?;
    let (ours, theirs) = (cx.route("hello").await?, cx.route("peer").await?);
    // Both once, unmeasured: page cache, branch predictors, the CPU's clock.
    for address in [&ours, &theirs] {
        load::run(address, "/", 1, Duration::from_secs(1)).await?;
    }
    let (one, one_peer) = pair(&ours, &theirs, 1).await?;
    let (many, many_peer) = pair(&ours, &theirs, 16).await?;
    let latency = |q: f64, name: &str| Figure {
        bench: "call",
        measure: format!("warm call through the Service, {name}, 1 connection"),
        value: quantile(&one.micros, q) / 1e3,
        unit: "ms",
        peer: Some(("bare hyper pod", quantile(&one_peer.micros, q) / 1e3)),
        aim: Aim::None,
    };
    Ok(vec![
        latency(0.5, "p50"),
        latency(0.99, "p99"),
        Figure {
            bench: "call",
            measure: "calls a second, 16 connections".to_owned(),
            value: many.rate(),
            unit: "1/s",
            peer: Some(("bare hyper pod", many_peer.rate())),
            aim: Aim::None,
        },
        Figure {
            bench: "call",
            measure: "failed calls of all of ours".to_owned(),
            value: (one.failed + many.failed) as f64,
            unit: "",
            peer: None,
            aim: Aim::AtMost(0.0),
        },
    ])
}

async fn pair(ours: &str, theirs: &str, connections: usize) -> Result<(Load, Load)> {
    Ok((
        load::run(ours, "/", connections, EACH).await?,
        load::run(theirs, "/", connections, EACH).await?,
    ))
}
