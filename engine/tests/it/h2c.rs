//! HTTP/2 without TLS, for callers that know of it beforehand: many calls over one connection.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use hearth_test_guests::Guest;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{
    Answer, DEADLINE, Engine, Pieces, call, ended, function, patient, piece, pieces, rest,
};

/// Guests of both versions of wasi:http.
const GUESTS: [Guest; 2] = [Guest::Mischief, Guest::P3];

/// One connection. Clones share it.
#[derive(Clone)]
struct Connection {
    sender: http2::SendRequest<Pieces>,
    address: SocketAddr,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender, address }
    }

    /// One request on a stream of its own; the body of what comes back is still to be read.
    async fn send(&self, method: &str, path: &str, body: Pieces) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(body)
            .unwrap();
        let answered = self.sender.clone().send_request(request);
        let response = tokio::time::timeout(DEADLINE, answered)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        response
    }

    async fn call(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        Answer::of(self.send(method, path, Pieces::whole(body)).await).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, b"").await
    }
}

#[tokio::test]
async fn each_stream_of_a_connection_gets_its_own_answer() {
    let engine = Engine::start().await;
    for guest in GUESTS {
        let address = engine.place(guest, patient(guest.name())).await;
        let connection = Connection::open(address).await;
        let mut calls = JoinSet::new();
        for number in 0..64 {
            let connection = connection.clone();
            calls.spawn(async move {
                let sent = format!("call {number} of many\n").repeat(1000);
                let answer = connection.call("POST", "/echo", sent.as_bytes()).await;
                assert_eq!(answer.status, 200, "{guest:?} {number}: {}", answer.body);
                assert!(answer.body == sent, "{guest:?} {number}");
            });
        }
        calls.join_all().await;
        // The same port answers HTTP/1.1.
        let answer = call(address, "POST", "/echo", b"one").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    }
    engine.end().await;
}

#[tokio::test]
async fn a_trap_ends_its_own_stream() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::P3, patient("trap")).await;
    let connection = Connection::open(address).await;
    let (writer, body) = pieces();
    let mut echo = connection.send("POST", "/echo", body).await;
    writer.send(Frame::data("before".into())).await.unwrap();
    assert_eq!(piece(echo.body_mut()).await, "before");

    let trap = connection.get("/trap").await;
    assert_eq!(
        (trap.status, trap.outcome.as_deref()),
        (500, Some("trapped"))
    );
    let (late_writer, body) = pieces();
    let mut late = connection.send("POST", "/late-trap", body).await;
    assert_eq!(piece(late.body_mut()).await, "begun");
    late_writer.send(Frame::data("now".into())).await.unwrap();
    rest(late.into_body()).await.unwrap_err();
    engine
        .report("trap", |report| ended(report, "trapped") == 2)
        .await;

    writer.send(Frame::data("after".into())).await.unwrap();
    assert_eq!(piece(echo.body_mut()).await, "after");
    drop(writer);
    rest(echo.into_body()).await.unwrap();
    assert_eq!(connection.get("/").await.status, 200);
    engine.end().await;
}

#[tokio::test]
async fn spinning_calls_delay_no_other_stream() {
    let mut engine = Engine::start().await;
    for guest in GUESTS {
        let name = guest.name();
        let spinning = function(name, |function| {
            function.limits.deadline = Duration::from_secs(5);
        });
        let address = engine.place(guest, spinning).await;
        let connection = Connection::open(address).await;
        let mut spinners = JoinSet::new();
        for _ in 0..3 {
            let connection = connection.clone();
            spinners.spawn(async move { connection.get("/spin").await });
        }
        engine.report(name, |report| report.in_use == 3).await;
        for _ in 0..20 {
            assert_eq!(connection.get("/").await.status, 200, "{guest:?}");
        }
        assert!(
            spinners.try_join_next().is_none(),
            "{guest:?}: the others were answered when the spinning ones were cut"
        );
        for cut in spinners.join_all().await {
            assert_eq!(
                (cut.status, cut.outcome.as_deref()),
                (504, Some("deadline_exceeded")),
                "{guest:?}"
            );
        }
        assert_eq!(connection.get("/").await.status, 200, "{guest:?}");
    }
    engine.end().await;
}

#[tokio::test]
async fn a_stream_that_its_caller_resets_ends_its_call() {
    let mut engine = Engine::start().await;
    let only = function("reset", |function| {
        function.limits.deadline = Duration::from_secs(50);
        function.limits.concurrency = NonZeroU32::new(1).unwrap();
        function.limits.queue_wait = Duration::from_secs(30);
    });
    let address = engine.place(Guest::P3, only).await;
    let connection = Connection::open(address).await;

    let hanging = connection.clone();
    let hanging = tokio::spawn(async move { hanging.get("/hang").await });
    engine.report("reset", |report| report.in_use == 1).await;
    hanging.abort();
    // It gets the only place when the other has left it.
    assert_eq!(connection.get("/").await.status, 200);

    let begun = connection
        .send("GET", "/late-hang", Pieces::whole(b""))
        .await;
    assert_eq!(begun.status(), 200);
    drop(begun);
    assert_eq!(connection.get("/").await.status, 200);
    engine
        .report("reset", |report| ended(report, "client_gone") == 2)
        .await;
    engine.end().await;
}

#[tokio::test]
async fn trailers_come_and_go() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::P3, patient("trailers")).await;
    let connection = Connection::open(address).await;
    let checksum = HeaderValue::from_static("abc");
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), checksum)]);
    for path in ["/echo", "/pass"] {
        let (writer, body) = pieces();
        let response = connection.send("POST", path, body).await;
        writer.send(Frame::data("body".into())).await.unwrap();
        writer
            .send(Frame::trailers(trailers.clone()))
            .await
            .unwrap();
        drop(writer);
        let whole = rest(response.into_body()).await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "abc", "{path}");
        assert_eq!(whole.to_bytes(), "body", "{path}");
    }
    let address = engine.place(Guest::Conform, patient("trailers-p2")).await;
    let connection = Connection::open(address).await;
    let (writer, body) = pieces();
    let sending = tokio::spawn(async move {
        writer.send(Frame::data("body".into())).await.unwrap();
        writer.send(Frame::trailers(trailers)).await.unwrap();
    });
    let read = Answer::of(connection.send("POST", "/trailers", body).await).await;
    assert_eq!(read.body, "body\nclosed\nx-sum abc\n");
    sending.await.unwrap();
    let response = connection
        .send("GET", "/with-trailers", Pieces::whole(b""))
        .await;
    let whole = rest(response.into_body()).await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-sum"], "abc");
    engine.end().await;
}
