//! Sockets: an accept loop for a function, HTTP/1.1 and HTTP/2 without TLS, and what a process says of
//! itself: `/metrics` and `/healthz`.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::call;
use crate::function::HostedFunction;
use crate::host::Host;
use crate::lanes::Lanes;

/// How long a caller may take to send the head of a request, and a new connection to bring its first one.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Why a connection that was idle from the start was ended.
const UNUSED: &str = "it brought no request";
/// How long a connection that is kept is open after its function stopped: a request that comes meanwhile, maybe sent already, is
/// answered as the last one. Ended at once, it would fail.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(1);
/// How long a caller may read nothing of an answer.
const STALL: Duration = Duration::from_secs(30);
/// A caller that keeps an HTTP/2 connection open is asked so often whether it is still there, and has as long to say so.
const PING: Duration = Duration::from_secs(20);
/// Largest buffer for a request's head: above what any function accepts, which is counted there.
const HEAD_BYTES: usize = 512 << 10;
/// Connections of one function beside those that its places and its queue can use.
const SPARE_CONNECTIONS: u32 = 256;
/// How long threads may take to show that they answer calls: shorter than the time that probes wait.
const HEALTH: Duration = Duration::from_secs(4);
/// Pause after accepting failed, which is when descriptors run out: the next try would fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The function behind a socket. A new generation replaces it; connections stay.
pub(crate) type Current = Arc<RwLock<Arc<HostedFunction>>>;

/// Serves one listening socket, which must not block, until it is stopped. `stop` ends accepting and asks connections to
/// end after their call; the task ends when they have.
pub(crate) async fn function(
    listener: std::net::TcpListener,
    current: Current,
    lanes: Arc<Lanes>,
    stop: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a function's socket cannot be watched");
            return;
        }
    };
    let most = connections(&current);
    let places = Arc::new(Semaphore::new(most as usize));
    loop {
        // At the bound, callers wait in the kernel's queue.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let Some(stream) = accept(&listener, &stop).await else {
            break;
        };
        // Each thread waits for its own sockets.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was lost between two threads");
                continue;
            }
        };
        let claim = lanes.claim();
        let handle = claim.handle.clone();
        // Of its own: all would wait for one lock at each of their steps.
        let (current, stop) = (current.clone(), stop.child_token());
        handle.spawn(async move {
            let _held = (claim, place);
            if let Err(error) = connection(stream, current, stop).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    // Each connection that has ended has left its place.
    if let Err(error) = places.acquire_many(most).await {
        tracing::error!(%error, "the end of a function's connections was not seen");
    }
}

fn now(current: &Current) -> Arc<HostedFunction> {
    current
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Connections that a function may have: four for each call that it can take, and some that idle.
fn connections(current: &Current) -> u32 {
    let limits = now(current).spec.limits;
    let calls = limits.concurrency.get().saturating_add(limits.queue_length);
    calls.saturating_mul(4).saturating_add(SPARE_CONNECTIONS)
}

async fn connection(
    stream: std::net::TcpStream,
    current: Current,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::from_std(stream)?;
    // hyper's own deadline begins with the first byte.
    timeout(HEAD_DEADLINE, stream.readable()).await??;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL));
    let is_used = AtomicBool::new(false);
    let is_last = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        is_used.store(true, Ordering::Relaxed);
        let is_kept = request.version() == Version::HTTP_11;
        let (answer, is_last) = (call::handle(now(&current), request), is_last.clone());
        async move {
            let mut answer = answer.await;
            if let Ok(answer) = &mut answer
                && is_kept
                && is_last.load(Ordering::Relaxed)
            {
                let headers = answer.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
    let mut unused = pin!(unused(&is_used));
    // In this order: a connection that is asked to end before its first bytes are looked at ends without an answer.
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = unused.as_mut() => return Err(UNUSED.into()),
        () = stop.cancelled() => is_last.store(true, Ordering::Relaxed),
    }
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = unused.as_mut() => return Err(UNUSED.into()),
        () = tokio::time::sleep(LAST_CALL) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => ended,
        () = unused => Err(UNUSED.into()),
    }
}

/// Returns when a connection has brought no request in its time: a caller may send half of what HTTP/2 begins with, or all of
/// it and nothing more, and hyper waits.
async fn unused(is_used: &AtomicBool) {
    tokio::time::sleep(HEAD_DEADLINE).await;
    if is_used.load(Ordering::Relaxed) {
        pending().await
    }
}

/// Answers `GET /metrics` and `GET /healthz` until `stop`.
pub async fn about(listener: TcpListener, host: Arc<Host>, stop: CancellationToken) {
    while let Some(stream) = accept(&listener, &stop).await {
        let host = host.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let host = host.clone();
            async move {
                let (status, text) = match request.uri().path() {
                    "/metrics" => (StatusCode::OK, host.metrics().text()),
                    "/healthz" => health(&host).await,
                    _ => {
                        let text = "only /metrics and /healthz are here\n";
                        (StatusCode::NOT_FOUND, text.to_owned())
                    }
                };
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            // A scraper that goes away in the middle asks again.
            let _ = builder()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Whether the threads that answer calls do what they are given.
async fn health(host: &Host) -> (StatusCode, String) {
    match timeout(HEALTH, host.answer()).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(error)) => {
            let text = format!("a thread that answers calls is gone: {error}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Err(_) => {
            let seconds = HEALTH.as_secs();
            let text = format!("a thread that answers calls did nothing else for {seconds} s\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PING)
        .max_header_list_size(HEAD_BYTES as u32);
    builder
}

async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => return Some(prepared(stream)),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn prepared(stream: TcpStream) -> TcpStream {
    // Small answers: waiting to fill a segment only costs time.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    stream
}
