//! Ten thousand functions in one engine: what each costs, and what calls to them cost when some are common and most are rare.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_contract::FUNCTION_PORTS;
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::load::{self, Load};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::control::{Engine, function};
use super::lru::Lru;
use super::zipf::{Random, Zipf};
use super::{CONNECTIONS, ROUNDS, Setup, figure, smaps};

/// As many as a pool pod has ports for.
const FUNCTIONS: usize = (*FUNCTION_PORTS.end() - *FUNCTION_PORTS.start()) as usize + 1;
/// The commonest ones, which hold a warm instance each.
const HOT: usize = 500;
/// Functions that are placed before their reports are waited for.
const BATCH: usize = 100;
/// One run.
const EACH: Duration = Duration::from_secs(3);
/// Connections that each client keeps open, at most. All together stay below those that one function accepts.
const OPEN: usize = 32;
/// Of the draws: the same functions are called in every run.
const SEED: u64 = 1;
/// Functions with a bundle each.
const BUNDLES: usize = 1_000;
/// Open files of the engine for each function: its socket.
const FILES: usize = 1;
/// And for everything else: connections, and what comes with a placement and goes again.
const MORE_FILES: usize = 1_000;

/// Lets this process, and what it starts, open as many files as [`FUNCTIONS`] need.
///
/// # Errors
/// When the hard limit forbids it and this user may not raise that.
fn allow_files() -> Result<()> {
    let needed = (FUNCTIONS * FILES + MORE_FILES) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum.map(|maximum| maximum.max(needed)),
    };
    setrlimit(Resource::Nofile, raised).with_context(|| {
        format!(
            "{FUNCTIONS} functions in one engine take {needed} open files, and a process may have {} here: raise the hard limit (`ulimit -n`), or run this where it may raise that itself (CAP_SYS_RESOURCE)",
            limit.maximum.unwrap_or_default()
        )
    })
}

/// Measures memory and calls.
pub(super) async fn run(setup: &Setup) -> Result<Vec<Figure>> {
    allow_files()?;
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    let process = engine.process()?;
    let none = smaps::settled(process).await?;
    let (names, addresses) = register(&mut engine, setup).await?;
    let all = smaps::settled(process).await?;
    let memory = figure(
        format!("memory of a function without instances, mean of {FUNCTIONS} of one bundle"),
        smaps::growth(none, all, FUNCTIONS),
        "KB",
        None,
        Aim::AtMost(20.0),
    );
    for name in &names[..HOT] {
        engine.set_target(name, 1).await?;
    }
    engine
        .reported(&names[..HOT], |report| report.warm >= 1)
        .await?;

    let mut other = Engine::start(&setup.program("hearth-engine")).await?;
    let one = function("one", CONNECTIONS as u32);
    let one = vec![other.serve(one, &setup.artifact).await?];
    let (addresses, one) = (Arc::new(addresses), Arc::new(one));
    let measured = rounds(&addresses, &one).await;
    engine.end().await?;
    other.end().await?;
    let (ours, theirs) = measured?;
    let calls = figure(
        format!("p99 over {FUNCTIONS} functions, {CONNECTIONS} clients"),
        ours,
        "us",
        Some(("one function", theirs)),
        Aim::RatioAtMost(3.0),
    );
    Ok(vec![memory, of_bundles(setup).await?, calls])
}

/// What a function costs that brings its own bundle.
async fn of_bundles(setup: &Setup) -> Result<Figure> {
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    let process = engine.process()?;
    let none = smaps::settled(process).await?;
    let names: Vec<String> = (0..BUNDLES).map(|number| format!("b{number}")).collect();
    for name in &names {
        let artifact = setup.artifact.copy(name)?;
        let placed = engine.serve(function(name, 0), &artifact).await;
        artifact.remove()?;
        placed?;
    }
    engine.reported(&names, |_| true).await?;
    let all = smaps::settled(process).await?;
    engine.end().await?;
    Ok(figure(
        format!("the same, mean of {BUNDLES} of a bundle each"),
        smaps::growth(none, all, BUNDLES),
        "KB",
        None,
        Aim::AtMost(20.0),
    ))
}

/// Medians over the rounds of [`p99`], of many functions and of one.
async fn rounds(many: &Arc<Vec<String>>, one: &Arc<Vec<String>>) -> Result<(f64, f64)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(p99(many).await?);
        theirs.push(p99(one).await?);
    }
    Ok((quantile(&ours, 0.5), quantile(&theirs, 0.5)))
}

/// Places all functions, and returns their names and addresses, the commonest first.
async fn register(engine: &mut Engine, setup: &Setup) -> Result<(Vec<String>, Vec<String>)> {
    let names: Vec<String> = (0..FUNCTIONS).map(|rank| format!("f{rank}")).collect();
    let ports: Vec<u16> = FUNCTION_PORTS.collect();
    for (names, ports) in names.chunks(BATCH).zip(ports.chunks(BATCH)) {
        for (name, port) in names.iter().zip(ports) {
            // From here on only the engine holds it.
            let listener = TcpListener::bind(("127.0.0.1", *port))
                .with_context(|| format!("listen on port {port}"))?;
            let function = function(name, 0);
            engine.place(function, &setup.artifact, &listener).await?;
        }
        engine.reported(names, |_| true).await?;
    }
    let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}"));
    Ok((names, addresses.collect()))
}

/// The slowest call but one in a hundred, in microseconds.
async fn p99(addresses: &Arc<Vec<String>>) -> Result<f64> {
    let zipf = Arc::new(Zipf::new(FUNCTIONS));
    let until = Instant::now() + EACH;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let random = Random::new(SEED + number as u64);
            tokio::spawn(client(addresses.clone(), zipf.clone(), random, until))
        })
        .collect();
    let mut all = Load::default();
    for client in clients {
        let load = client.await??;
        all.micros.extend(load.micros);
        all.failed += load.failed;
    }
    all.none_failed()?;
    Ok(quantile(&all.micros, 0.99))
}

/// Calls one function after the other. It has a connection for each function, as a client of many agents has, and keeps
/// those that it used last; opening one is part of a call's time. Where there is one function, its connections are
/// opened and kept in the same way.
async fn client(
    addresses: Arc<Vec<String>>,
    zipf: Arc<Zipf>,
    mut random: Random,
    until: Instant,
) -> Result<Load> {
    let mut load = Load::default();
    let mut open = Lru::new(OPEN);
    while Instant::now() < until {
        let rank = zipf.rank(&mut random);
        let address = &addresses[rank % addresses.len()];
        let sent = Instant::now();
        let mut connection = match open.take(rank) {
            Some(connection) => connection,
            None => load::connect(address).await?,
        };
        match load::exchange(&mut connection, address, "/").await? {
            Some(http::StatusCode::OK) => {
                load.micros.push(sent.elapsed().as_secs_f64() * 1e6);
                open.put(rank, connection);
            }
            Some(_) | None => load.failed += 1,
        }
    }
    Ok(load)
}
