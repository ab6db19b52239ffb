//! wasi:http, item by item: each behaviour of docs/conformance.md that is not tested elsewhere. The guest checks what can
//! be seen from inside and answers what did not hold; the rest is seen from outside.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use hearth_contract::Reuse;
use hearth_contract::proto::{self, to_engine};
use hearth_test_guests::Guest;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    Answer, DEADLINE, Engine, call, ended, function, get, patient, piece, pieces, rest, send,
};
use crate::upstream::{self, Authority, Upstream};

/// Writes bytes on a connection of their own and reads until it ends.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(DEADLINE, reading)
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn fields_and_messages_are_as_their_interface_says() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("types")).await;
    let head = "host: a\r\nconnection: close\r\nupgrade: x\r\nx-kept: 1";
    for path in ["/fields", "/messages"] {
        let answer = raw(address, &format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n")).await;
        assert!(answer.ends_with("\r\n\r\nok\n"), "{path}: {answer}");
    }
    engine.end().await;
}

#[tokio::test]
async fn a_request_comes_in_as_it_was_sent() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("seen")).await;
    for method in [
        "GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PURGE",
    ] {
        let answer = call(address, method, "/seen?a=%20b&c", b"").await;
        let shown = match method {
            "PURGE" => "other PURGE",
            known => known,
        };
        let expected =
            format!("method {shown}\nscheme HTTP\nauthority {address}\npath /seen?a=%20b&c\n");
        assert!(
            answer.body.starts_with(&expected),
            "{method}: {}",
            answer.body
        );
    }
    let request = "GET http://a.example:1/seen HTTP/1.1\r\nhost: b\r\nX-Two: 1\r\nx-two: 2\r\nconnection: close\r\n\r\n";
    let answer = raw(address, request).await;
    for line in [
        "authority a.example:1\npath /seen\n",
        "header x-two: 1\nheader x-two: 2\n",
    ] {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
    // What the guest says of a body that is not as it should be.
    assert!(!answer.contains("body"), "{answer}");
    engine.end().await;
}

#[tokio::test]
async fn a_requests_trailers_come_after_its_body() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("trailers")).await;
    let head =
        "host: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n";
    for (path, trailers, expected) in [
        (
            "/trailers",
            "x-sum: abc\r\nhost: b\r\n\r\n",
            "body\nclosed\nx-sum abc\n",
        ),
        ("/trailers", "\r\n", "body\nclosed\nno trailers\n"),
        ("/unread-trailers", "x-sum: abc\r\n\r\n", "\r\nx-sum abc\n"),
    ] {
        let answer = raw(
            address,
            &format!("POST {path} HTTP/1.1\r\n{head}{trailers}"),
        )
        .await;
        assert!(answer.contains(expected), "{path}: {answer}");
    }
    engine.end().await;
}

/// Calls a guest whose answer fails. Whether that is what comes back; one that is slow, as on a busy machine, fails after the
/// head is on its way: then the answer breaks off.
async fn is_told(address: SocketAddr, path: &str) -> bool {
    let response = send(address, "GET", path, Empty::<Bytes>::new()).await;
    let status = response.status();
    let outcome = response.headers().get("hearth-outcome").cloned();
    let is_whole = rest(response.into_body()).await.is_ok();
    assert_eq!(is_whole, status == 500, "{path}: {status}");
    assert!(
        !is_whole || outcome.is_some_and(|outcome| outcome == "trapped"),
        "{path}"
    );
    is_whole
}

#[tokio::test]
async fn an_answer_is_as_long_as_it_says() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("length")).await;
    let exact = get(address, "/exact").await;
    assert_eq!((exact.status, exact.body.as_str()), (200, "abcde"));
    assert_eq!(exact.headers["content-length"], "5");
    engine
        .report("length", |report| ended(report, "answered") == 1)
        .await;
    // A guest whose answer broke off may be cut before it says what it was told: not every time.
    const TIMES: u64 = 8;
    for (path, before) in [("/short", 0), ("/long", TIMES)] {
        let mut told = false;
        for time in 1..=TIMES {
            told |= is_told(address, path).await;
            engine
                .report("length", |report| ended(report, "trapped") == before + time)
                .await;
        }
        assert!(told, "{path}");
    }
    let log = engine.end().await;
    for line in [
        "5 of 5 bytes: written yes, ended done\n",
        "3 of 5 bytes: written yes, ended HTTP-response-body-size\n",
        "8 of 5 bytes: written no, ended HTTP-response-body-size\n",
    ] {
        assert!(log.contains(line), "{line} is not in {log}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_500_with_its_outcome() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("none")).await;
    let p3 = engine.place(Guest::P3, patient("none-p3")).await;
    for (address, path, word) in [
        (address, "/drop", "ended without an answer"),
        (address, "/early-trap", "the guest failed"),
        (address, "/error", "LoopDetected"),
        (address, "/informational", "103"),
        (p3, "/early-trap", "the guest failed"),
        (p3, "/informational", "103"),
    ] {
        let answer = get(address, path).await;
        assert_eq!(
            (answer.status, answer.outcome.as_deref()),
            (500, Some("trapped")),
            "{path}"
        );
        assert!(answer.body.contains(word), "{path}: {}", answer.body);
    }
    engine
        .report("none", |report| ended(report, "trapped") == 4)
        .await;
    let empty = get(address, "/no-content").await;
    assert_eq!((empty.status, empty.body.as_str()), (204, ""));
    engine
        .report("none", |report| ended(report, "answered") == 1)
        .await;
    engine.end().await;
}

/// `/abandon` drops its body, `/open` keeps it and ends; with `late-` before it when the head is out. Whoever keeps the
/// instance has nobody left to write.
#[tokio::test]
async fn a_body_that_is_not_finished_is_no_answer() {
    let mut engine = Engine::start().await;
    let reuse = Reuse {
        calls: NonZeroU32::new(100).unwrap(),
        age: Reuse::AGE,
    };
    for reuse in [None, Some(reuse)] {
        let name = if reuse.is_some() { "kept" } else { "fresh" };
        let mut wanted = patient(name);
        wanted.reuse = reuse;
        let address = engine.place(Guest::Conform, wanted).await;
        for (path, count) in [("/abandon", 1), ("/open", 2)] {
            is_told(address, path).await;
            engine
                .report(name, |report| ended(report, "trapped") == count)
                .await;
        }
        // An instance that is taken apart takes its open body with it, which then looks whole.
        let late = if reuse.is_some() {
            "/late-open"
        } else {
            "/late-abandon"
        };
        let (writer, body) = pieces();
        let mut response = send(address, "POST", late, body).await;
        assert_eq!(piece(response.body_mut()).await, "begun", "{late}");
        // The guest waits for the end of its request.
        drop(writer);
        rest(response.into_body()).await.unwrap_err();
        engine
            .report(name, |report| ended(report, "trapped") == 3)
            .await;
    }
    engine.end().await;
}

#[tokio::test]
async fn an_event_is_sent_when_it_is_written_and_a_caller_that_leaves_ends_its_guest() {
    let mut engine = Engine::start().await;
    let one = function("events", |function| {
        function.limits.deadline = Duration::from_secs(50);
        function.limits.concurrency = NonZeroU32::new(1).unwrap();
        function.limits.queue_wait = Duration::from_secs(30);
    });
    let address = engine.place(Guest::Conform, one).await;
    for (path, count) in [("/events", 1), ("/block", 2)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        if path == "/events" {
            let mut seen = String::new();
            while !seen.contains("data: one\n\n") {
                seen.push(char::from(stream.read_u8().await.unwrap()));
            }
            assert!(seen.contains("content-type: text/event-stream"), "{seen}");
        }
        engine.report("events", |report| report.in_use == 1).await;
        drop(stream);
        // It gets the only place when the other has left it.
        assert_eq!(get(address, "/").await.body, "ok\n");
        engine
            .report("events", |report| {
                report.in_use == 0 && ended(report, "client_gone") == count
            })
            .await;
    }
    engine.end().await;
}

/// Of both versions, in both directions at once; a caller that stops reading stops the guest.
#[tokio::test]
async fn a_large_body_passes_through_little_memory() {
    const PIECES: usize = 2048;
    let engine = Engine::start().await;
    for guest in [Guest::Conform, Guest::P3] {
        let wide = function(guest.name(), |function| {
            function.limits.deadline = Duration::from_secs(60);
            function.limits.request_body_bytes = 1 << 30;
            function.limits.response_body_bytes = 1 << 30;
        });
        let address = engine.place(guest, wide).await;
        assert_eq!(call(address, "POST", "/echo", b"small").await.body, "small");
        let before = engine.peak_memory();
        let (writer, body) = pieces();
        let mut response = send(address, "POST", "/echo", body).await;
        let sending = tokio::spawn(async move {
            let block = Bytes::from(vec![b'x'; 64 << 10]);
            for _ in 0..PIECES {
                writer.send(Frame::data(block.clone())).await.unwrap();
            }
        });
        let mut length = 0;
        while let Some(frame) = response.body_mut().frame().await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        sending.await.unwrap();
        assert_eq!(length, PIECES << 16, "{guest:?}");
        // The kernel estimates the peak: it may say less than before.
        let grown = engine.peak_memory().saturating_sub(before);
        assert!(grown < 16 << 20, "{guest:?}: {grown} bytes for {length}");
    }
    engine.end().await;
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("kept")).await;
    // A body that nobody reads, an answer that is ours, two requests at once.
    let requests = "POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
        GET /drop HTTP/1.1\r\nhost: a\r\n\r\n\
        HEAD /exact HTTP/1.1\r\nhost: a\r\n\r\n\
        GET /exact HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answers = raw(address, requests).await;
    let statuses: Vec<_> = answers
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect();
    assert_eq!(statuses, ["200", "500", "200", "200"], "{answers}");
    assert_eq!(
        answers.matches("content-length: 5\r\n").count(),
        2,
        "{answers}"
    );
    assert_eq!(answers.matches("abcde").count(), 1, "{answers}");
    engine
        .report("kept", |report| ended(report, "answered") == 3)
        .await;
    engine.end().await;
}

/// A request may be on its way when its function stops.
#[tokio::test]
async fn a_connection_that_is_kept_has_a_last_answer_when_its_function_stops() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("last")).await;
    let mut kept = TcpStream::connect(address).await.unwrap();
    let request = b"GET /exact HTTP/1.1\r\nhost: a\r\n\r\n";
    kept.write_all(request).await.unwrap();
    let mut first = String::new();
    while !first.ends_with("abcde") {
        let mut part = [0; 512];
        let length = kept.read(&mut part).await.unwrap();
        assert!(length > 0, "{first}");
        first.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    assert!(!first.contains("connection: close"), "{first}");
    let drain = to_engine::Message::Drain(proto::Drain {
        deadline_ms: 10_000,
    });
    engine.send(drain, &[]).await;
    // Nobody else comes in any more.
    let until = tokio::time::Instant::now() + DEADLINE;
    while TcpStream::connect(address).await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "it accepts");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kept.write_all(request).await.unwrap();
    let mut last = String::new();
    let reading = kept.read_to_string(&mut last);
    tokio::time::timeout(DEADLINE, reading)
        .await
        .unwrap()
        .unwrap();
    assert!(last.starts_with("HTTP/1.1 200"), "{last}");
    assert!(
        last.contains("connection: close") && last.ends_with("abcde"),
        "{last}"
    );
    engine.end().await;
}

#[tokio::test]
async fn a_caller_that_asks_first_is_told_to_go_on_when_the_body_is_wanted() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("continue")).await;
    let request = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(request("/trailers").as_bytes())
        .await
        .unwrap();
    let mut seen = String::new();
    while !seen.ends_with("\r\n\r\n") {
        seen.push(char::from(stream.read_u8().await.unwrap()));
    }
    assert_eq!(seen, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    stream.read_to_string(&mut seen).await.unwrap();
    assert!(seen.contains("hello\nclosed\n"), "{seen}");
    // A guest that wants none of it answers at once.
    let answer = raw(address, &request("/")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    engine.end().await;
}

#[tokio::test]
async fn a_connection_that_brings_no_request_is_let_go() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Conform, patient("half")).await;
    // Half of what HTTP/2 begins with; all of it and no more; half a head.
    let halves = [
        "PRI * HTTP/2",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nhost",
    ];
    let ended = halves.map(|half| raw(address, half));
    futures::future::join_all(ended).await;
    engine.end().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_the_callers_fault_whoever_reads_it() {
    let mut engine = Engine::start().await;
    for (guest, name, count) in [(Guest::P3, "limit-p3", 2), (Guest::Conform, "limit", 1)] {
        let small = function(name, |function| {
            function.limits.deadline = Duration::from_secs(30);
            function.limits.request_body_bytes = 1000;
        });
        let address = engine.place(guest, small).await;
        // Announced: before a guest hears of it.
        let refused = call(address, "POST", "/echo", &[b'x'; 1001]).await;
        assert_eq!(
            (refused.status, refused.outcome.as_deref()),
            (413, Some("too_large"))
        );
        engine
            .report(name, |report| ended(report, "too_large") == 1)
            .await;
        if guest == Guest::P3 {
            // The guest hands it on and ends: nobody but the host reads it.
            let (writer, body) = pieces();
            let mut response = send(address, "POST", "/pass", body).await;
            writer.send(Frame::data("begun".into())).await.unwrap();
            assert_eq!(piece(response.body_mut()).await, "begun");
            let more = Frame::data(vec![b'x'; 1000].into());
            writer.send(more).await.unwrap();
            rest(response.into_body()).await.unwrap_err();
        }
        engine
            .report(name, |report| ended(report, "too_large") == count)
            .await;
    }
    engine.end().await;
}

/// Asks the guest for a call out that is described by these headers; answers what it says of it.
async fn out(address: SocketAddr, headers: &[(&str, &str)]) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::get("/out").header("host", "a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let sending = sender.send_request(request);
    let response = tokio::time::timeout(DEADLINE, sending)
        .await
        .unwrap()
        .unwrap();
    let answer = Answer::of(response).await;
    assert_eq!(
        (answer.status, answer.outcome),
        (200, None),
        "{}",
        answer.body
    );
    answer.body
}

/// A function that may call this.
async fn caller(engine: &Engine, scheme: &str, authority: &str) -> SocketAddr {
    let mut wanted = patient("caller");
    wanted.key.uid = format!("uid-{authority}");
    wanted.capabilities.egress = vec![format!("{scheme}://{authority}").parse().unwrap()];
    engine.place(Guest::Conform, wanted).await
}

#[tokio::test]
async fn a_call_out_goes_out_as_it_was_made() {
    let engine = Engine::start().await;
    let target = engine
        .place(Guest::Conform, patient("target"))
        .await
        .to_string();
    let address = caller(&engine, "http", &target).await;
    let to = ("x-authority", target.as_str());
    let seen = out(
        address,
        &[to, ("x-path", "/seen?a=b"), ("x-method", "PURGE")],
    )
    .await;
    let expected = format!(
        "status 200\nmethod other PURGE\nscheme HTTP\nauthority {target}\npath /seen?a=b\n"
    );
    assert!(seen.starts_with(&expected), "{seen}");
    assert!(seen.ends_with("\nclosed\nno trailers\n"), "{seen}");
    let echoed = out(
        address,
        &[
            to,
            ("x-path", "/echo"),
            ("x-method", "POST"),
            ("x-body", "hello"),
        ],
    )
    .await;
    assert_eq!(echoed, "status 200\nhello\nclosed\nno trailers\n");
    let exact = out(
        address,
        &[
            to,
            ("x-path", "/echo"),
            ("x-body", "hello"),
            ("x-length", "5"),
        ],
    )
    .await;
    assert_eq!(exact, "status 200\nhello\nclosed\nno trailers\n");
    let short = out(
        address,
        &[
            to,
            ("x-path", "/echo"),
            ("x-body", "hello"),
            ("x-length", "9"),
        ],
    )
    .await;
    assert!(
        short.starts_with("body HTTP-request-body-size\n"),
        "{short}"
    );
    let head = out(address, &[to, ("x-path", "/exact"), ("x-method", "HEAD")]).await;
    assert_eq!(head, "status 200\n\nclosed\nno trailers\n");
    // It could not be sent at all.
    for (headers, word) in [
        (vec![("x-path", "/")], "HTTP-request-URI-invalid"),
        (
            vec![to, ("x-scheme", "gopher"), ("x-path", "/")],
            "HTTP-protocol-error",
        ),
        (
            vec![to, ("x-path", "/"), ("x-length", "9")],
            "HTTP-request-body-size",
        ),
    ] {
        assert_eq!(out(address, &headers).await, format!("refused {word}\n"));
    }
    let denied = out(address, &[("x-authority", "127.0.0.1:1"), ("x-path", "/")]).await;
    assert_eq!(denied, "failed HTTP-request-denied\n");
    engine.end().await;
}

#[tokio::test]
async fn each_way_that_a_call_out_fails_has_its_code() {
    let engine = Engine::start().await;
    let quick = ("x-first-byte", "100");
    let between = ("x-between-bytes", "100");
    let connect = ("x-connect", "100");
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let hints =
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let trailers =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: abc\r\n\r\n";
    for (scheme, upstream, headers, expected) in [
        (
            "http",
            Upstream::holding("").await,
            vec![quick],
            "failed connection-read-timeout\n",
        ),
        (
            "http",
            Upstream::holding(length).await,
            vec![between],
            "status 200\nabc\nan error of no code\n",
        ),
        (
            "http",
            Upstream::closing(length).await,
            vec![],
            "status 200\nabc\nan error of no code\n",
        ),
        (
            "http",
            Upstream::closing("").await,
            vec![],
            "failed HTTP-response-incomplete\n",
        ),
        (
            "http",
            Upstream::closing("nonsense\r\n\r\n").await,
            vec![],
            "failed HTTP-protocol-error\n",
        ),
        (
            "http",
            Upstream::gone().await,
            vec![],
            "failed connection-refused\n",
        ),
        (
            "https",
            Upstream::holding("").await,
            vec![connect],
            "failed connection-timeout\n",
        ),
        (
            "https",
            Upstream::closing("HTTP/1.1 400 no\r\n\r\n").await,
            vec![],
            "failed TLS-protocol-error\n",
        ),
        (
            "http",
            Upstream::holding(hints).await,
            vec![],
            "status 200\nok\nclosed\nno trailers\n",
        ),
        (
            "http",
            Upstream::holding(trailers).await,
            vec![],
            "status 200\nok\nclosed\nx-sum abc\n",
        ),
    ] {
        let authority = upstream.address.to_string();
        let address = caller(&engine, scheme, &authority).await;
        let mut all = vec![
            ("x-authority", authority.as_str()),
            ("x-path", "/"),
            ("x-scheme", scheme),
        ];
        if scheme == "http" {
            all.pop();
        }
        all.extend(headers);
        let said = out(address, &all).await;
        assert!(said.starts_with(expected), "{scheme} {expected:?}: {said}");
    }
    let address = caller(&engine, "http", "nowhere.example").await;
    let unknown = out(
        address,
        &[("x-authority", "nowhere.example"), ("x-path", "/")],
    )
    .await;
    assert_eq!(unknown, "failed DNS-error\n");
    let log = engine.end().await;
    assert!(log.contains("nowhere.example cannot be resolved"), "{log}");
}

#[tokio::test]
async fn a_call_out_that_its_guest_drops_ends() {
    let engine = Engine::start().await;
    let mut upstream = Upstream::holding("").await;
    let authority = upstream.address.to_string();
    let address = caller(&engine, "http", &authority).await;
    let dropped = [
        ("x-authority", authority.as_str()),
        ("x-path", "/"),
        // Of GET only a body of a known length is sent.
        ("x-method", "POST"),
        ("x-body", "much"),
        ("x-drop", "1"),
    ];
    assert_eq!(out(address, &dropped).await, "ok\n");
    upstream.left().await;
    engine.end().await;
}

#[tokio::test]
async fn a_server_is_trusted_when_its_certificate_is() {
    let authority = Authority::new();
    let engine = Engine::start_trusting(authority.pem()).await;
    let trusted = upstream::secure(authority.server()).await.to_string();
    let stranger = upstream::secure(Authority::new().server())
        .await
        .to_string();
    for (server, expected) in [
        (trusted, "status 200\nok\nclosed\nno trailers\n"),
        (stranger, "failed TLS-certificate-error\n"),
    ] {
        let address = caller(&engine, "https", &server).await;
        let headers = [
            ("x-authority", server.as_str()),
            ("x-path", "/"),
            ("x-scheme", "https"),
        ];
        assert_eq!(out(address, &headers).await, expected);
    }
    let log = engine.end().await;
    assert!(log.contains("failed: invalid peer certificate"), "{log}");
}
