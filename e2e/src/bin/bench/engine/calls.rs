//! Warm calls: how many a second, and how long one takes.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_contract::{Function, Reuse};
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::load::{self, Load};

use super::bars::{self, Bar, Panel};
use super::control::{Engine, function};
use super::peers::Peer;
use super::{CONNECTIONS, ROUNDS, Setup, figure};

/// One run of one server over many connections, and over one.
const EACH: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(2)];
/// Unmeasured, once each: page cache, branch predictors, the processor's clock.
const WARM_UP: Duration = Duration::from_millis(500);
/// What a user may set for agents that keep nothing of a caller.
const CALLS: NonZeroU32 = NonZeroU32::new(10_000).expect("not zero");

/// Who is measured, in this order everywhere.
type All<T> = [T; 4];

const NAMES: All<&str> = [
    "hearth, fresh instances",
    "hearth, reused instances",
    "wasmtime serve",
    "bare hyper",
];

/// What one server did: medians of its rounds.
#[derive(Debug, Clone, Copy)]
struct Summary {
    rate: f64,
    /// In microseconds, as the next.
    p50: f64,
    p99: f64,
}

impl Summary {
    fn of(rounds: &[Load]) -> Self {
        let median = |value: &dyn Fn(&Load) -> f64| {
            let values: Vec<f64> = rounds.iter().map(value).collect();
            quantile(&values, 0.5)
        };
        Self {
            rate: median(&Load::rate),
            p50: median(&|load| quantile(&load.micros, 0.5)),
            p99: median(&|load| quantile(&load.micros, 0.99)),
        }
    }
}

/// Measures calls, and draws them where `plot` says.
pub(super) async fn run(setup: &Setup, plot: Option<&Path>) -> Result<Vec<Figure>> {
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    let reuse = Reuse {
        calls: CALLS,
        age: Reuse::AGE,
    };
    let fresh = function("fresh", CONNECTIONS as u32);
    let reused = Function {
        reuse: Some(reuse),
        ..function("reused", CONNECTIONS as u32)
    };
    let serve = Peer::wasmtime_serve(&setup.wasmtime, &setup.component).await?;
    let hyper = Peer::bare_hyper(&setup.program("bare-hyper")).await?;
    let addresses = [
        engine.serve(fresh, &setup.artifact).await?,
        engine.serve(reused, &setup.artifact).await?,
        serve.address.clone(),
        hyper.address.clone(),
    ];
    let measured = measure(&addresses).await;
    engine.end().await?;
    let [many, one] = measured?;
    if let Some(plot) = plot {
        std::fs::write(plot, drawn(&many, &one))
            .with_context(|| format!("write {}", plot.display()))?;
    }
    Ok(figures(&many, &one))
}

/// Over many connections, and over one.
async fn measure(addresses: &All<String>) -> Result<[All<Summary>; 2]> {
    for (address, name) in addresses.iter().zip(NAMES) {
        let load = load::run(address, "/", CONNECTIONS, WARM_UP).await;
        load.context(name)?.none_failed().context(name)?;
    }
    let many = rounds(addresses, CONNECTIONS, EACH[0]).await?;
    let one = rounds(addresses, 1, EACH[1]).await?;
    Ok([many, one])
}

/// Each in turn, several times: what else the machine does meets all alike.
async fn rounds(
    addresses: &All<String>,
    connections: usize,
    each: Duration,
) -> Result<All<Summary>> {
    let mut loads: All<Vec<Load>> = Default::default();
    for _ in 0..ROUNDS {
        for ((address, name), loads) in addresses.iter().zip(NAMES).zip(&mut loads) {
            let load = load::run(address, "/", connections, each).await;
            let load = load.context(name)?;
            load.none_failed().context(name)?;
            loads.push(load);
        }
    }
    Ok(loads.map(|loads| Summary::of(&loads)))
}

fn figures(many: &All<Summary>, one: &All<Summary>) -> Vec<Figure> {
    let [fresh, reused, serve, hyper] = many;
    let rate = |measure: &str, ours: &Summary, (name, theirs): (_, &Summary), aim| {
        let measure = format!("calls a second, {CONNECTIONS} connections, {measure}");
        figure(measure, ours.rate, "1/s", Some((name, theirs.rate)), aim)
    };
    let (serve, hyper) = ((NAMES[2], serve), (NAMES[3], hyper));
    let mut figures = vec![
        rate("fresh", fresh, hyper, Aim::RatioAtLeast(0.3)),
        rate("fresh", fresh, serve, Aim::RatioAtLeast(2.0)),
        rate("reused", reused, hyper, Aim::RatioAtLeast(0.6)),
    ];
    let hyper = one[3];
    figures.push(figure(
        "p50 above bare hyper's, 1 connection, fresh",
        one[0].p50 - hyper.p50,
        "us",
        None,
        Aim::AtMost(25.0),
    ));
    for (at, name) in [(0, "fresh"), (1, "reused"), (2, "wasmtime serve")] {
        for (quantile, ours, theirs) in [
            ("p50", one[at].p50, hyper.p50),
            ("p99", one[at].p99, hyper.p99),
        ] {
            let measure = format!("{quantile}, 1 connection, {name}");
            let peer = Some((NAMES[3], theirs));
            figures.push(figure(measure, ours, "us", peer, Aim::None));
        }
    }
    figures
}

fn drawn(many: &All<Summary>, one: &All<Summary>) -> String {
    let panel = |title, value: &dyn Fn(usize) -> f64| Panel {
        title,
        bars: NAMES
            .iter()
            .enumerate()
            .map(|(at, name)| Bar {
                name,
                value: value(at),
                is_ours: at < 2,
            })
            .collect(),
    };
    bars::svg(&[
        panel("Calls a second, 16 connections (more is better)", &|at| {
            many[at].rate
        }),
        panel(
            "Time of a call in us, p50, 1 connection (less is better)",
            &|at| one[at].p50,
        ),
        panel(
            "Time of a call in us, p99, 1 connection (less is better)",
            &|at| one[at].p99,
        ),
    ])
}
