//! JavaScript beside workerd, of npm, in the same run and on the same loopback, both with the same file: `js/worker.js`.
//!
//! Both load code at run time: ours makes an instance for every call of it, workerd keeps an isolate for each. Who is compared
//! takes turns.

mod agents;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_cluster::Layout;
use hearth_contract::{Function, Loader, Reuse};
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::workerd::Workerd;
use hearth_e2e::{call, load};

use crate::engine::bars::{self, Bar, Panel};
use crate::engine::control::{Artifact, Engine, function};
use crate::engine::smaps;

/// What both run.
const WORKER: &str = include_str!("js/worker.js");
/// Its name in the figures.
const WORKERD: &str = "workerd";

/// Distinct code that is timed, one after the other over one connection.
const DISTINCT: usize = 1_000;
/// Loaded code whose memory is measured.
const KEPT: u32 = 200;
const CONNECTIONS: usize = 16;
const EACH: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
const ROUNDS: usize = 3;

/// Paths that compute, and what they do.
const COMPUTING: [(&str, &str); 3] = [
    ("/json", "JSON of 2,000 rows: write, read, filter, sort"),
    ("/tokens", "tokenizer, 23 KB of text"),
    ("/vectors", "nearest of 500 vectors of 128 numbers"),
];

/// Both of them, ready to be called.
struct Both {
    engine: Engine,
    workerd: Workerd,
    /// The environment, compiled.
    artifact: Artifact,
    layout: Layout,
    /// Where programs are.
    programs: PathBuf,
    /// Ours: a fresh instance for each call, and reused ones.
    fresh: String,
    reused: String,
}

fn figure(
    measure: impl Into<String>,
    value: f64,
    unit: &'static str,
    peer: Option<f64>,
    aim: Aim,
) -> Figure {
    Figure {
        bench: "js",
        measure: measure.into(),
        value,
        unit,
        peer: peer.map(|value| (WORKERD, value)),
        aim,
    }
}

/// Measures everything, says each figure, and draws them where `plot` says.
pub(crate) async fn run(plot: Option<&Path>, say: impl Fn(&Figure)) -> Result<()> {
    let mut both = start().await?;
    let figures = measure(&mut both).await;
    both.engine.end().await?;
    let figures = figures?;
    figures.iter().for_each(say);
    if let Some(plot) = plot {
        std::fs::write(plot, drawn(&figures))
            .with_context(|| format!("write {}", plot.display()))?;
    }
    Ok(())
}

async fn start() -> Result<Both> {
    let this = std::env::current_exe().context("find this program's own path")?;
    let programs = this.parent().context("this program is in a directory")?;
    let programs = programs.to_owned();
    let layout = Layout::find()?;
    let target = layout.repository().join("target");
    let directory = target.join("bench/js");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let environment = target.join("guests/hearth-javascript.wasm");
    ensure!(
        environment.exists(),
        "{} is missing; `cargo xtask bench js` makes it",
        environment.display()
    );
    let program = programs.join("hearth-engine");
    let artifact = directory.join("javascript.artifact");
    let artifact = Artifact::compile(&program, &environment, artifact).await?;
    let mut engine = Engine::start(&program).await?;
    let fresh = loading("fresh");
    let reused = Function {
        reuse: Some(Reuse {
            calls: 100_000.try_into()?,
            age: Reuse::AGE,
        }),
        ..loading("reused")
    };
    Ok(Both {
        fresh: engine.serve_javascript(fresh, &artifact, WORKER).await?,
        reused: engine.serve_javascript(reused, &artifact, WORKER).await?,
        workerd: Workerd::start(layout.repository(), "bench", WORKER, &[]).await?,
        engine,
        artifact,
        layout,
        programs,
    })
}

/// A function that loads code and keeps as much of it warm as is measured.
fn loading(name: &str) -> Function {
    let mut function = function(name, CONNECTIONS as u32);
    function.capabilities.loader = Some(Loader {
        warm: KEPT,
        ..Loader::default()
    });
    function
}

async fn measure(both: &mut Both) -> Result<Vec<Figure>> {
    same_answers(both).await?;
    let mut figures = never_seen(both).await?;
    figures.extend(known(both).await?);
    figures.extend(reused(both).await?);
    figures.push(memory(both).await?);
    figures.extend(computing(both).await?);
    let Both {
        engine,
        artifact,
        layout,
        programs,
        ..
    } = both;
    figures.extend(agents::loops(engine, artifact, layout, programs).await?);
    figures.extend(agents::reload(layout, programs).await?);
    Ok(figures)
}

/// The same file answers the same under both.
///
/// # Errors
/// When it does not: then there is nothing to compare.
async fn same_answers(both: &Both) -> Result<()> {
    let paths = [
        "/",
        "/load?code=same",
        "/json",
        "/tokens",
        "/vectors",
        "/echo?a=1&b=%20&a=2",
    ];
    for path in paths {
        let (ours, theirs) = (
            call::post(&both.fresh, path, "body").await?,
            call::post(&both.workerd.address, path, "body").await?,
        );
        ensure!(
            (ours.status, &ours.body) == (theirs.status, &theirs.body),
            "{path}: {ours:?}, and of workerd {theirs:?}"
        );
    }
    Ok(())
}

/// Times, in milliseconds, of calls of distinct code one after the other. `name` makes it distinct from that of other runs.
async fn distinct(address: &str, name: &str, count: usize) -> Result<Vec<f64>> {
    let mut connection = load::connect(address).await?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let path = format!("/load?code={name}{number}");
        let started = Instant::now();
        let status = load::exchange(&mut connection, address, &path).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let is_well = status.is_some_and(|status| status == 200);
        ensure!(is_well, "{address}{path} answered {status:?}");
    }
    Ok(times)
}

async fn never_seen(both: &Both) -> Result<Vec<Figure>> {
    for address in [&both.fresh, &both.workerd.address] {
        distinct(address, "first", 50).await?;
    }
    let ours = distinct(&both.fresh, "new", DISTINCT).await?;
    // It keeps an isolate for each, so that fewer must do.
    let theirs = distinct(&both.workerd.address, "new", DISTINCT / 5).await?;
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(&ours, share));
    let peer = quantile(&theirs, 0.5);
    let process = both.engine.process()?;
    let before = smaps::settled(process).await?;
    // Of the same memory: what is kept of code is bounded, and full by then.
    distinct(&both.fresh, "again", DISTINCT).await?;
    let after = smaps::settled(process).await?;
    let measure = "code never seen, source to answer, p50";
    Ok(vec![
        figure(measure, p50, "ms", Some(peer), Aim::AtMost(1.0)),
        figure(measure, p50, "ms", Some(peer), Aim::RatioAtMost(0.25)),
        figure(
            format!("{DISTINCT} distinct modules in turn, p99 / p50"),
            p99 / p50,
            "x",
            None,
            Aim::AtMost(3.0),
        ),
        figure(
            format!("memory that {DISTINCT} more leave, each"),
            smaps::growth(before, after, DISTINCT),
            "KB",
            None,
            Aim::None,
        ),
    ])
}

/// The median of the rounds' quantiles over one connection, in milliseconds, of each address in turn.
async fn p50<const N: usize>(addresses: [&str; N], path: &str) -> Result<[f64; N]> {
    let mut rounds = [const { Vec::new() }; N];
    for address in addresses {
        load::run(address, path, 1, WARM_UP).await?.none_failed()?;
    }
    for _ in 0..ROUNDS {
        for (address, rounds) in addresses.iter().zip(&mut rounds) {
            let load = load::run(address, path, 1, EACH).await?;
            load.none_failed()?;
            rounds.push(quantile(&load.micros, 0.5) / 1e3);
        }
    }
    Ok(rounds.map(|rounds| quantile(&rounds, 0.5)))
}

async fn known(both: &Both) -> Result<Vec<Figure>> {
    let addresses = [&both.fresh, &both.reused, &both.workerd.address].map(String::as_str);
    let [fresh, reused, theirs] = p50(addresses, "/load?code=known").await?;
    let measure = "known code, fresh instance a call, p50";
    Ok(vec![
        figure(
            format!("{measure}, loaded by a fresh one"),
            fresh,
            "ms",
            Some(theirs),
            Aim::RatioAtMost(1.0),
        ),
        figure(
            format!("{measure}, loaded by a reused one"),
            reused,
            "ms",
            Some(theirs),
            Aim::RatioAtMost(1.0),
        ),
    ])
}

async fn reused(both: &Both) -> Result<Vec<Figure>> {
    let addresses = [&both.reused, &both.fresh, &both.workerd.address].map(String::as_str);
    let [reused, fresh, theirs] = p50(addresses, "/").await?;
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (address, rates) in addresses.iter().zip(&mut rates) {
            let load = load::run(address, "/", CONNECTIONS, EACH).await?;
            load.none_failed()?;
            rates.push(load.rate());
        }
    }
    let [rate, fresh_rate, peer_rate] = rates.map(|rates| quantile(&rates, 0.5));
    let calls = format!("hello, calls a second, {CONNECTIONS} connections");
    Ok(vec![
        figure(
            "hello, reused instance, p50",
            reused,
            "ms",
            Some(theirs),
            Aim::RatioAtMost(1.0),
        ),
        figure(
            "hello, fresh instance, p50",
            fresh,
            "ms",
            Some(theirs),
            Aim::None,
        ),
        figure(
            format!("{calls}, reused"),
            rate,
            "1/s",
            Some(peer_rate),
            Aim::RatioAtLeast(0.5),
        ),
        figure(
            format!("{calls}, fresh"),
            fresh_rate,
            "1/s",
            Some(peer_rate),
            Aim::None,
        ),
    ])
}

/// What each loaded code that waits for its next call adds to the process: ours with a warm instance each.
async fn memory(both: &mut Both) -> Result<Figure> {
    let mut grown = Vec::new();
    let sides = [
        (both.fresh.clone(), both.engine.process()?),
        (both.workerd.address.clone(), both.workerd.process()?),
    ];
    for (address, process) in sides {
        // Half of it before: it uses up what the allocator holds already.
        let half = KEPT as usize / 2;
        let warm = |from: usize| {
            let address = address.clone();
            async move {
                for number in from..from + half {
                    let path = format!("/load?code=kept{number}");
                    for _ in 0..3 {
                        let answer = call::get(&address, &path).await?;
                        ensure!(answer.status == 200, "{path}: {answer:?}");
                    }
                }
                anyhow::Ok(())
            }
        };
        warm(0).await?;
        let before = smaps::settled(process).await?;
        warm(half).await?;
        let after = smaps::settled(process).await?;
        grown.push(smaps::growth(before, after, half));
    }
    let [ours, theirs] = grown[..] else {
        anyhow::bail!("there are two sides");
    };
    let measure = format!("memory of an idle loaded function, mean of {}", KEPT / 2);
    Ok(figure(
        measure,
        ours,
        "KB",
        Some(theirs),
        Aim::AtMost(300.0),
    ))
}

async fn computing(both: &Both) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (path, what) in COMPUTING {
        let addresses = [&both.reused, &both.workerd.address].map(String::as_str);
        let [ours, theirs] = p50(addresses, path).await?;
        figures.push(figure(
            format!("{what}, p50"),
            ours,
            "ms",
            Some(theirs),
            Aim::None,
        ));
    }
    Ok(figures)
}

/// The figures that have a peer, one panel each.
fn drawn(figures: &[Figure]) -> String {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for figure in figures {
        let Some((name, theirs)) = figure.peer else {
            continue;
        };
        if panels.iter().any(|panel| panel.title == figure.measure) {
            continue;
        }
        let bar = |name, value, is_ours| Bar {
            name,
            value,
            is_ours,
        };
        panels.push(Panel {
            title: &figure.measure,
            bars: vec![bar("hearth", figure.value, true), bar(name, theirs, false)],
        });
    }
    bars::svg(&panels)
}
