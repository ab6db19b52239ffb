//! Sockets: an accept loop for a function, HTTP/1.1 and HTTP/2 without TLS, and `/metrics`.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::call;
use crate::function::HostedFunction;
use crate::metrics::Metrics;

/// How long a caller may take to send the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after accepting failed, which is when descriptors run out: the next try would fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The function behind a socket. A new generation replaces it; connections stay.
pub(crate) type Current = Arc<RwLock<Arc<HostedFunction>>>;

/// Serves one listening socket until it is stopped. `stop` ends accepting and asks connections to end after their
/// call; the task ends when they have.
pub(crate) async fn function(listener: TcpListener, current: Current, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let builder = builder();
    while let Some(stream) = accept(&listener, &stop).await {
        let current = current.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let function = current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            call::handle(function, request)
        });
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Answers `GET /metrics` until `stop`.
pub async fn metrics(listener: TcpListener, metrics: Metrics, stop: CancellationToken) {
    while let Some(stream) = accept(&listener, &stop).await {
        let metrics = metrics.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let metrics = metrics.clone();
            async move {
                let found = request.uri().path() == "/metrics";
                let text = if found {
                    metrics.text()
                } else {
                    "only /metrics is here\n".to_owned()
                };
                let mut response = Response::new(Full::new(Bytes::from(text)));
                if !found {
                    *response.status_mut() = http::StatusCode::NOT_FOUND;
                }
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

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE);
    builder
}

async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted: io::Result<_> = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Small answers: waiting to fill a segment only costs time.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "set TCP_NODELAY");
                }
                return Some(stream);
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
