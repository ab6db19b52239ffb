//! `custom.metrics.k8s.io/v1beta2` for AgentFunctions: what a HorizontalPodAutoscaler reads, served as an aggregated API.
//!
//! The API server forwards requests: it shows a client certificate of its own and names the user in headers ([`front`]).
//! Whether the user may read is asked of the API server ([`access`]). Only the leader answers, because pool pods report to
//! it: the Service that the APIService names selects the leader.

mod access;
mod answer;
mod front;
mod register;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) use register::Registration;

use crate::http::accept;
use crate::tls::Certificates;
use crate::world::World;
use access::Access;
use front::Front;

/// Connections at once. The API server holds a few; whoever else comes waits.
const CONNECTIONS: usize = 256;
/// A connection has this long for its handshake, and for the head of each request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What requests are answered from.
#[derive(Clone)]
struct Api {
    world: Arc<World>,
    access: Arc<Access>,
    front: watch::Receiver<Option<Arc<Front>>>,
}

/// Answers until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    client: Client,
    world: Arc<World>,
    certificates: Certificates,
    stop: CancellationToken,
) {
    let front = front::watch(client.clone(), certificates, stop.clone());
    let api = Api {
        world,
        access: Arc::new(Access::new(client)),
        front,
    };
    api.accept(listener, stop).await;
}

impl Api {
    async fn accept(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Closed never.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Some(stream) = accept(&listener, &stop).await else {
                return;
            };
            let (api, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = api.connection(stream) => {}
                }
                drop(place);
            });
        }
    }

    async fn connection(self, stream: TcpStream) {
        // Until the API server's own configuration is known, nobody can be told apart.
        let Some(front) = self.front.borrow().clone() else {
            return;
        };
        let acceptor = TlsAcceptor::from(front.tls.clone());
        let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else {
            return;
        };
        let caller = stream.get_ref().1.peer_certificates();
        let is_front = caller.is_some_and(|chain| front.is_allowed(chain));
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, front) = (self.clone(), front.clone());
            async move {
                let response = api.answer(&front, is_front, request).await;
                Ok::<_, Infallible>(response)
            }
        });
        // A caller that goes away in the middle asks again.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer<B>(
        &self,
        front: &Front,
        is_front: bool,
        request: Request<B>,
    ) -> Response<Full<Bytes>> {
        if !is_front {
            return answer::unauthorized();
        }
        let Some(user) = front.user(request.headers()) else {
            return answer::unauthorized();
        };
        let path = request.uri().path();
        if request.method() != http::Method::GET {
            return answer::not_allowed();
        }
        let Some(route) = answer::Route::of(path, request.uri().query()) else {
            return answer::not_found("there is no such path");
        };
        match self.access.may(&user, &route).await {
            Ok(None) => answer::answer(&self.world, &route, request.headers()),
            Ok(Some(reason)) => answer::forbidden(&user.name, path, &reason),
            Err(error) => answer::unavailable(&format!("access cannot be reviewed: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;
