//! What calls of a well-behaved function cost while another function of the same engine does its worst.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_contract::Function;
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::load;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use super::control::{Engine, function};
use super::peers::Peer;
use super::{ROUNDS, Setup, figure};

/// Functions of the engine, the two that are called among them.
const FUNCTIONS: usize = 50;
/// Connections of the one that does its worst, each with a call on its way at all times.
const CONNECTIONS: usize = 8;
/// One run.
const EACH: Duration = Duration::from_secs(3);
/// Time between two calls of the neighbour: it is not busy itself.
const PAUSE: Duration = Duration::from_millis(4);
/// Longest call of the one that does its worst.
const DEADLINE: Duration = Duration::from_secs(1);
/// And its memory.
const MEMORY: NonZeroU64 = NonZeroU64::new(32 << 20).expect("not zero");

/// Ways to be a bad neighbour: what a call asks of the guest `mischief`.
const WORST: [(&str, &str); 6] = [
    ("spins", "/spin"),
    ("hoards memory", "/hoard"),
    ("recurses", "/recurse"),
    ("floods its log", "/flood"),
    ("traps", "/trap"),
    ("calls out", FETCHES),
];
/// What is asked for is at another machine's address.
const FETCHES: &str = "/fetches?url=http://";
/// One more way: callers that do not read.
const SLOW: &str = "has callers that do not read";

/// Threads of callers, which stand for other machines: the neighbour's run when they want to, the others when nobody else
/// does, so that what the neighbour waits for is the engine.
struct Callers {
    good: Threads,
    bad: Threads,
}

impl Callers {
    fn start() -> Result<Self> {
        Ok(Self {
            good: Threads::start(1, -20)?,
            bad: Threads::start(2, 19)?,
        })
    }

    /// Of the neighbour, in microseconds.
    async fn p99(&self, good: &str) -> Result<f64> {
        self.good.handle.spawn(p99(good.to_owned())).await?
    }

    /// The neighbour's p99 while `load` goes on.
    async fn beside(
        &self,
        what: &str,
        good: &str,
        alone: f64,
        mut load: JoinSet<Result<()>>,
    ) -> Result<Figure> {
        let measured = self.p99(good).await;
        let measured = measured.with_context(|| format!("beside a function that {what}"));
        load.abort_all();
        while let Some(ended) = load.join_next().await {
            match ended {
                Ok(ended) => ended.with_context(|| format!("the load that {what}"))?,
                Err(error) => anyhow::ensure!(error.is_cancelled(), "{error}"),
            }
        }
        Ok(figure(
            format!("p99 beside a function that {what}"),
            measured?,
            "us",
            Some(("alone", alone)),
            Aim::RatioAtMost(2.0),
        ))
    }
}

/// A runtime that is dropped among others' tasks, where nobody may wait for its threads.
struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    fn start(threads: usize, nice: i32) -> Result<Self> {
        let prioritise = move || {
            // On Linux a thread's id is a process id to the scheduler.
            let thread = rustix::thread::gettid();
            if let Err(error) = rustix::process::setpriority_process(Some(thread), nice) {
                eprintln!("callers are not at priority {nice}: {error}");
            }
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .on_thread_start(prioritise)
            .enable_all()
            .build()
            .context("start threads of callers")?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Measures the neighbour alone, and beside each.
pub(super) async fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let mut engine = Engine::start(&setup.program("hearth-engine")).await?;
    let good = engine.serve(function("good", 4), &setup.artifact).await?;
    for number in 2..FUNCTIONS {
        let idle = function(&format!("idle{number}"), 1);
        engine.serve(idle, &setup.artifact).await?;
    }
    let mischief = setup.compiled("mischief").await?;
    let elsewhere = Peer::elsewhere(&setup.program("bare-hyper")).await?;
    let bad = engine.serve(worst(&elsewhere.address)?, &mischief).await?;
    mischief.remove()?;

    let callers = Callers::start()?;
    let mut alone = Vec::new();
    for _ in 0..ROUNDS {
        alone.push(callers.p99(&good).await?);
    }
    let alone = quantile(&alone, 0.5);
    let mut figures = Vec::new();
    for (what, path) in WORST {
        let mut path = path.to_owned();
        if path == FETCHES {
            path += &format!("{}/", elsewhere.address);
        }
        let mut load = JoinSet::new();
        for _ in 0..CONNECTIONS {
            load.spawn_on(calls(bad.clone(), path.clone()), &callers.bad.handle);
        }
        figures.push(callers.beside(what, &good, alone, load).await?);
    }
    let mut load = JoinSet::new();
    for _ in 0..CONNECTIONS {
        load.spawn_on(unread(bad.clone()), &callers.bad.handle);
    }
    figures.push(callers.beside(SLOW, &good, alone, load).await?);
    engine.end().await?;
    Ok(figures)
}

/// The function that does its worst, within what it is granted.
fn worst(target: &str) -> Result<Function> {
    let mut worst = function("bad", CONNECTIONS as u32);
    worst.limits.deadline = DEADLINE;
    worst.limits.memory_bytes = MEMORY;
    let rule = target.parse();
    worst.capabilities.egress = vec![rule.context("an address is a rule")?];
    Ok(worst)
}

/// Of calls that come one by one, in microseconds.
async fn p99(address: String) -> Result<f64> {
    let mut connection = load::connect(&address).await?;
    let until = Instant::now() + EACH;
    let mut micros = Vec::new();
    let mut every = tokio::time::interval(PAUSE);
    while Instant::now() < until {
        every.tick().await;
        let sent = Instant::now();
        let status = load::exchange(&mut connection, &address, "/").await?;
        anyhow::ensure!(
            status == Some(http::StatusCode::OK),
            "the neighbour's call got {status:?}"
        );
        micros.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    Ok(quantile(&micros, 0.99))
}

/// Calls one after the other, whatever comes back.
async fn calls(address: String, path: String) -> Result<()> {
    loop {
        let mut connection = load::connect(&address).await?;
        while load::exchange(&mut connection, &address, &path)
            .await?
            .is_some()
        {}
    }
}

/// Asks for more than buffers hold, and does not read it.
async fn unread(address: String) -> Result<()> {
    let mut stream = TcpStream::connect(&address).await?;
    stream
        .write_all(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        .await?;
    std::future::pending().await
}
