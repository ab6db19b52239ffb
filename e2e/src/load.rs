//! A closed-loop load generator: each connection sends its next call when the last one was answered. Bounded in time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What a load run saw.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Time of each answered call, in microseconds.
    pub micros: Vec<f64>,
    /// Calls with a status other than 200, or that broke.
    pub failed: u64,
    /// How long the run took.
    pub elapsed: Duration,
}

impl Load {
    /// Answered calls a second.
    pub fn rate(&self) -> f64 {
        self.micros.len() as f64 / self.elapsed.as_secs_f64()
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
    let started = Instant::now();
    let mut load = Load::default();
    while started.elapsed() < duration {
        let sent = Instant::now();
        match crate::call::get(address, path).await {
            Ok(answer) if answer.status == 200 => {
                load.micros.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            _ => load.failed += 1,
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
        let request = http::Request::get(&path)
            .header(http::header::HOST, &address)
            .body(Empty::<Bytes>::new())?;
        let sent = Instant::now();
        let answered = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status();
            response.into_body().collect().await.ok()?;
            Some(status)
        }
        .await;
        match answered {
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

async fn connect(address: &str) -> Result<hyper::client::conn::http1::SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
