//! A closed-loop load generator: each connection sends its next call when the last one was answered. Bounded in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A call beside what a test does that takes longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a load run saw.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Time of each answered call, in microseconds.
    pub micros: Vec<f64>,
    /// Calls with a status other than 200, or that broke.
    pub failed: u64,
    /// What the first of them met, where calls have connections of their own.
    pub problem: Option<String>,
    /// How long the run took.
    pub elapsed: Duration,
}

impl Load {
    /// Answered calls a second.
    pub fn rate(&self) -> f64 {
        self.micros.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Time of the slowest answered call.
    pub fn slowest(&self) -> Duration {
        Duration::from_secs_f64(self.micros.iter().copied().fold(0.0, f64::max) / 1e6)
    }

    /// Says how many failed, if any did.
    ///
    /// # Errors
    /// When a call failed.
    pub fn none_failed(&self) -> Result<()> {
        let (failed, all) = (self.failed, self.micros.len() as u64 + self.failed);
        let problem = self.problem.as_deref().unwrap_or("the connection broke");
        ensure!(
            failed == 0,
            "{failed} of {all} calls failed, the first: {problem}"
        );
        Ok(())
    }

    /// The run is over: it says something only when a call was answered.
    fn ended(mut self, started: Instant, address: &str, path: &str) -> Result<Self> {
        self.elapsed = started.elapsed();
        ensure!(
            !self.micros.is_empty(),
            "no call to {address}{path} was answered ({} failed)",
            self.failed
        );
        Ok(self)
    }
}

/// Calls `http://address/path` over `connections` kept-alive connections for `duration`.
///
/// # Errors
/// When a connection cannot be made at the start, or no call at all was answered.
pub async fn run(
    address: &str,
    path: &str,
    connections: usize,
    duration: Duration,
) -> Result<Load> {
    let started = Instant::now();
    let until = started + duration;
    let workers: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(worker(address.to_owned(), path.to_owned(), until)))
        .collect();
    let mut load = Load::default();
    for worker in workers {
        let part = worker.await??;
        load.micros.extend(part.micros);
        load.failed += part.failed;
    }
    load.ended(started, address, path)
}

/// Calls one after the other, each over a connection of its own: every call meets the Service's rules anew.
///
/// # Errors
/// When no call at all was answered.
pub async fn fresh(address: &str, path: &str, duration: Duration) -> Result<Load> {
    let until = Instant::now() + duration;
    fresh_while(address, path, || Instant::now() < until).await
}

/// Calls as of [`fresh`] that go on beside whatever a test does, until the test has seen enough.
#[derive(Debug)]
pub struct Ongoing {
    is_enough: Arc<AtomicBool>,
    calls: JoinHandle<Result<Load>>,
}

impl Ongoing {
    /// The first call is sent at once.
    pub fn start(address: &str, path: &str) -> Self {
        let is_enough = Arc::new(AtomicBool::new(false));
        let (address, path, enough) = (address.to_owned(), path.to_owned(), is_enough.clone());
        let calls = tokio::spawn(async move {
            fresh_while(&address, &path, || !enough.load(Ordering::Relaxed)).await
        });
        Self { is_enough, calls }
    }

    /// Ends with the call that is on its way.
    ///
    /// # Errors
    /// When no call at all was answered.
    pub async fn end(self) -> Result<Load> {
        self.is_enough.store(true, Ordering::Relaxed);
        self.calls.await?
    }
}

/// Connections of a [`Steady`] load that are kept.
const KEPT: u32 = 10;
/// Connections that it has at once.
pub const CONNECTIONS: u32 = KEPT + 1;
/// Its calls a second over connections of their own.
const FRESH: u32 = 10;

/// So many calls a second beside whatever a test does, until the test has seen enough. Most go over connections that are
/// kept, as callers keep them; some meet the Service's rules anew. Calls that are due while others wait follow at once.
#[derive(Debug)]
pub struct Steady {
    is_enough: Arc<AtomicBool>,
    calls: Vec<JoinHandle<Result<Load>>>,
    started: Instant,
    address: String,
}

impl Steady {
    /// The first calls are sent at once.
    pub fn start(address: &str, per_second: u32) -> Self {
        let is_enough = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        let each = |calls: u32| Duration::from_secs(1) / calls.max(1);
        let kept = each(per_second.saturating_sub(FRESH) / KEPT);
        let worker = |every, keep| {
            let pace = Pace {
                address: address.to_owned(),
                every,
                enough: is_enough.clone(),
                started,
            };
            tokio::spawn(pace.run(keep))
        };
        let calls = (0..KEPT).map(|_| worker(kept, true));
        let calls = calls.chain([worker(each(FRESH), false)]).collect();
        Self {
            is_enough,
            calls,
            started,
            address: address.to_owned(),
        }
    }

    /// Ends with the calls that are on their way.
    ///
    /// # Errors
    /// When no call at all was answered.
    pub async fn end(self) -> Result<Load> {
        self.is_enough.store(true, Ordering::Relaxed);
        let mut load = Load::default();
        for calls in self.calls {
            let part = calls.await??;
            load.micros.extend(part.micros);
            load.failed += part.failed;
            load.problem = load.problem.or(part.problem);
        }
        load.ended(self.started, &self.address, "/")
    }
}

/// One of its callers.
struct Pace {
    address: String,
    every: Duration,
    enough: Arc<AtomicBool>,
    started: Instant,
}

impl Pace {
    async fn run(self, keep: bool) -> Result<Load> {
        let mut load = Load::default();
        let mut due = tokio::time::interval(self.every);
        let mut kept = None;
        while !self.enough.load(Ordering::Relaxed) {
            due.tick().await;
            let sent = Instant::now();
            let called = tokio::time::timeout(PATIENCE, self.call(&mut kept)).await;
            let problem = match called {
                Ok(Ok(http::StatusCode::OK)) => None,
                Ok(Ok(status)) => Some(status.to_string()),
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some(format!("no answer within {PATIENCE:?}")),
            };
            match &problem {
                None => load.micros.push(sent.elapsed().as_secs_f64() * 1e6),
                Some(problem) => {
                    load.failed += 1;
                    let since = (sent - self.started).as_secs_f64();
                    load.problem
                        .get_or_insert(format!("after {since:.1} s: {problem}"));
                }
            }
            if !keep || problem.is_some() {
                kept = None;
            }
        }
        Ok(load)
    }

    async fn call(&self, kept: &mut Option<Connection>) -> Result<http::StatusCode> {
        // One that was ended between two calls is no failed call.
        if let Some(connection) = kept
            && connection.ready().await.is_err()
        {
            *kept = None;
        }
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(connect(&self.address).await?),
        };
        let status = exchange(connection, &self.address, "/").await?;
        status.context("the connection broke")
    }
}

async fn fresh_while(address: &str, path: &str, go_on: impl Fn() -> bool) -> Result<Load> {
    let started = Instant::now();
    let mut load = Load::default();
    while go_on() {
        let sent = Instant::now();
        let problem = match tokio::time::timeout(PATIENCE, crate::call::get(address, path)).await {
            Ok(Ok(answer)) if answer.status == 200 => None,
            Ok(Ok(answer)) => Some(format!("{answer:?}")),
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        match problem {
            None => load.micros.push(sent.elapsed().as_secs_f64() * 1e6),
            Some(problem) => {
                load.failed += 1;
                let since = (sent - started).as_secs_f64();
                load.problem
                    .get_or_insert(format!("after {since:.1} s: {problem}"));
            }
        }
        // A new connection takes a port of this side; there are 28,000 for a minute.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    load.ended(started, address, path)
}

async fn worker(address: String, path: String, until: Instant) -> Result<Load> {
    let mut load = Load::default();
    let mut sender = connect(&address).await?;
    while Instant::now() < until {
        let sent = Instant::now();
        match exchange(&mut sender, &address, &path).await? {
            Some(http::StatusCode::OK) => load.micros.push(sent.elapsed().as_secs_f64() * 1e6),
            Some(_) => load.failed += 1,
            None => {
                load.failed += 1;
                sender = connect(&address).await?;
            }
        }
    }
    Ok(load)
}

/// A connection that takes one call after the other. It ends when it is dropped.
pub type Connection = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

/// Opens a connection.
///
/// # Errors
/// When nobody accepts it.
pub async fn connect(address: &str) -> Result<Connection> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One call, to the last byte of its answer: the status, or `None` when the connection broke.
///
/// # Errors
/// When address and path make no request.
pub async fn exchange(
    connection: &mut Connection,
    address: &str,
    path: &str,
) -> Result<Option<http::StatusCode>> {
    let request = http::Request::get(path)
        .header(http::header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let answered = async {
        // After the last byte of an answer the connection may not have looked at its end yet.
        connection.ready().await.ok()?;
        let response = connection.send_request(request).await.ok()?;
        let status = response.status();
        response.into_body().collect().await.ok()?;
        Some(status)
    };
    Ok(answered.await)
}
