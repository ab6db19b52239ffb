//! `/metrics`, `/livez`, `/readyz`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::world::World;

/// Pause after accepting failed, which is when descriptors run out: the next try would fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Answers {
    /// The metrics.
    pub(crate) metrics: Metrics,
    /// Counted when asked.
    pub(crate) world: Arc<World>,
    /// Set when the caches are filled.
    pub(crate) ready: Arc<AtomicBool>,
}

/// Answers until `stop`.
pub(crate) async fn serve(listener: TcpListener, answers: Answers, stop: CancellationToken) {
    while let Some(stream) = accept(&listener, &stop).await {
        let answers = answers.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answers = answers.clone();
            async move { Ok::<_, Infallible>(answers.answer(request.uri().path())) }
        });
        tokio::spawn(async move {
            // A caller that goes away in the middle asks again.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The next connection, or nothing once `stop` is set.
pub(crate) async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => return Some(stream),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Answers {
    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            "/livez" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the caches are not filled yet\n".to_owned(),
            ),
            "/metrics" => {
                self.metrics.streams.set(self.world.fleet.len() as i64);
                self.metrics
                    .functions
                    .set(self.world.stores.functions.len() as i64);
                self.metrics.read(&self.world.readings());
                (StatusCode::OK, self.metrics.text())
            }
            _ => (
                StatusCode::NOT_FOUND,
                "there are /metrics, /livez and /readyz\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    }
}
