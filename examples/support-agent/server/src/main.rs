//! Plays what examples/support-agent calls: `GET /search?q=`, `POST /v1/chat/completions`, `GET /orders/ID`. It answers the same
//! every time, and `GET /calls` lists what it was asked, newest last, so that a test can see who called what.

mod answers;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use answers::Answer;

/// Calls that are remembered; older ones are forgotten.
const MAX_CALLS: usize = 256;
/// Bytes of one request body; a longer one is answered 413.
const MAX_BODY: usize = 1 << 20;

type Calls = Arc<Mutex<VecDeque<String>>>;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "0.0.0.0:8080".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("listen on {address}; LISTEN chooses another"))?;
    println!(
        "LLM, knowledge service and order API on http://{}",
        listener.local_addr()?
    );
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = serve(listener) => result,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn serve(listener: TcpListener) -> Result<()> {
    let calls = Calls::default();
    loop {
        let (stream, _) = listener.accept().await.context("accept a connection")?;
        let calls = calls.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, calls.clone()));
            let mut server = auto::Builder::new(TokioExecutor::new());
            server
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30));
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("connection: {error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    calls: Calls,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = route(request, &calls).await;
    // What is asked for as a stream is one text of events here, which clients read as well.
    let (kind, text) = match body {
        Value::String(events) if events.starts_with("data: ") => ("text/event-stream", events),
        body => ("application/json", format!("{body}\n")),
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", kind);
    Ok(response
        .body(Full::from(text))
        .expect("a known status and a fixed header make a response"))
}

async fn route(request: Request<Incoming>, calls: &Calls) -> Answer {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let path = uri.path();
    match (&method, path) {
        (&Method::GET, "/healthz") => return (200, json!("ok")),
        (&Method::GET, "/calls") => {
            let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
            return (200, json!({"calls": &*calls}));
        }
        _ => record(calls, format!("{method} {uri}")),
    }
    match (&method, path) {
        (&Method::GET, "/search") => answers::search(&query(uri.query().unwrap_or_default(), "q")),
        (&Method::POST, "/v1/chat/completions") => match body(request).await {
            Ok(body) => match answers::complete(&body) {
                (200, completion) if body["stream"] == true => {
                    (200, Value::String(answers::events(&completion)))
                }
                answer => answer,
            },
            Err(refusal) => refusal,
        },
        (&Method::GET, _) if path.starts_with("/orders/") => {
            answers::order(&path["/orders/".len()..])
        }
        _ => (
            404,
            json!({"error": format!("there is no {method} {path}")}),
        ),
    }
}

fn record(calls: &Calls, call: String) {
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    if calls.len() == MAX_CALLS {
        calls.pop_front();
    }
    calls.push_back(call);
}

async fn body(request: Request<Incoming>) -> Result<Value, Answer> {
    let bytes = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Err((413, json!({"error": {"message": error.to_string()}}))),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        (
            400,
            json!({"error": {"message": format!("no JSON: {error}")}}),
        )
    })
}

/// The decoded value of one query parameter; empty where it is missing.
fn query(query: &str, name: &str) -> String {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_default();
    let mut decoded = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                decoded.extend(u8::from_str_radix(&hex, 16));
            }
            byte => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::query;

    #[test]
    fn queries_are_decoded() {
        let check =
            |given: &str, expected: &str| assert_eq!(query(given, "q"), expected, "{given}");
        check("q=Where%20is+it%3F", "Where is it?");
        check("x=1&q=%C3%BC", "ü");
        check("x=1", "");
        check("q=%zz%", "");
    }
}
