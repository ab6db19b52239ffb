//! A small HTTP client: one connection a call, so that every call meets the Service's rules anew.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The header `hearth-outcome`, which only answers that Hearth itself makes carry.
    pub outcome: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<String>,
    /// The whole body; it is text in all our tests.
    pub body: String,
}

/// GET `http://host:port/path`.
pub async fn get(address: &str, path: &str) -> Result<Answer> {
    send(address, http::Method::GET, path, Bytes::new()).await
}

/// POST a body.
pub async fn post(address: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
    send(address, http::Method::POST, path, body.into()).await
}

/// Sends one request over a connection of its own, bounded by two minutes.
pub async fn send(address: &str, method: http::Method, path: &str, body: Bytes) -> Result<Answer> {
    tokio::time::timeout(
        Duration::from_secs(120),
        exchange(address, method, path, body),
    )
    .await
    .with_context(|| format!("no answer from {address}{path} within 120 s"))?
}

async fn exchange(address: &str, method: http::Method, path: &str, body: Bytes) -> Result<Answer> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = sender
        .send_request(request)
        .await
        .with_context(|| format!("call {address}{path}"))?;
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let (status, outcome, retry_after) = (
        response.status().as_u16(),
        header("hearth-outcome"),
        header("retry-after"),
    );
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(Answer {
        status,
        outcome,
        retry_after,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
