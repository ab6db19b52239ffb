//! Guests of wasi:http 0.3, whose handlers return the head of an answer and go on.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hearth_contract::Reuse;
use hearth_test_guests::Guest;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Engine, Pieces, ended, function, get, patient, piece, pieces, rest, send};

#[tokio::test]
async fn a_guest_answers_with_a_head_and_what_follows() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::P3, patient("p3")).await;
    let answer = get(address, "/").await;
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.outcome),
        (200, "hello from p3\n", None)
    );
    assert_eq!(answer.headers["x-guest"], "p3");
    let empty = get(address, "/empty").await;
    assert_eq!((empty.status, empty.body.as_str()), (201, ""));
    // More than is on its way at once: the guest still writes when the head is out.
    let big = get(address, "/big").await;
    assert_eq!((big.status, big.body.len()), (200, 1 << 20));
    let report = engine
        .report("p3", |report| ended(report, "answered") == 3)
        .await;
    assert_eq!(report.calls.iter().map(|call| call.count).sum::<u64>(), 3);
    engine.end().await;
}

#[tokio::test]
async fn each_misbehaviour_is_one_calls_problem() {
    let mut engine = Engine::start().await;
    let deadline = Duration::from_secs(3);
    let bad = function("bad", |function| function.limits.deadline = deadline);
    let address = engine.place(Guest::P3, bad).await;
    for (path, status, outcome) in [
        ("/trap", 500, "trapped"),
        ("/silent", 500, "trapped"),
        ("/refuse", 500, "trapped"),
        ("/spin", 504, "deadline_exceeded"),
        ("/hang", 504, "deadline_exceeded"),
    ] {
        let started = Instant::now();
        let (answer, beside) = tokio::join!(get(address, path), async {
            let answer = get(address, "/").await;
            (answer.status, started.elapsed())
        });
        assert_eq!(
            (answer.status, answer.outcome.as_deref()),
            (status, Some(outcome)),
            "{path}: {}",
            answer.body
        );
        assert_eq!(
            answer.body.contains("LoopDetected"),
            path == "/refuse",
            "{path}: {}",
            answer.body
        );
        assert_eq!(beside.0, 200);
        assert!(
            beside.1 < deadline,
            "{path}: the call beside it waited {:?}",
            beside.1
        );
        assert_eq!(get(address, "/").await.status, 200, "the call after {path}");
        engine
            .report("bad", |report| ended(report, outcome) > 0)
            .await;
    }
    engine.end().await;
}

/// `/echo` copies its request's body, `/pass` hands it on.
#[tokio::test]
async fn bodies_come_and_go_piece_by_piece() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::P3, patient("stream")).await;
    for path in ["/echo", "/pass"] {
        let (writer, body) = pieces();
        let mut response = send(address, "POST", path, body).await;
        assert_eq!(response.status(), 200, "{path}");
        for sent in ["one", "two", "three"] {
            writer.send(Frame::data(sent.into())).await.unwrap();
            assert_eq!(piece(response.body_mut()).await, sent, "{path}");
        }
        drop(writer);
        let left = rest(response.into_body()).await.unwrap();
        assert!(left.to_bytes().is_empty(), "{path}");
    }
    engine
        .report("stream", |report| ended(report, "answered") == 2)
        .await;
    engine.end().await;
}

#[tokio::test]
async fn a_trap_after_the_head_breaks_the_answer_off() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::P3, patient("late")).await;
    let (writer, body) = pieces();
    let mut response = send(address, "POST", "/late-trap", body).await;
    assert_eq!(response.status(), 200);
    assert_eq!(piece(response.body_mut()).await, "begun");
    writer.send(Frame::data("now".into())).await.unwrap();
    rest(response.into_body()).await.unwrap_err();
    engine
        .report("late", |report| ended(report, "trapped") == 1)
        .await;
    assert_eq!(get(address, "/").await.status, 200);
    engine.end().await;
}

/// `/late-hang` writes no more; `/pass` has ended, and its answer waits for the caller.
#[tokio::test]
async fn the_deadline_cuts_an_answer_that_is_on_its_way() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::P3, function("cut", |_| {})).await;
    for (path, count) in [("/late-hang", 1), ("/pass", 2)] {
        let started = Instant::now();
        let (writer, body) = pieces();
        let response = send(address, "POST", path, body).await;
        assert_eq!(response.status(), 200, "{path}");
        rest(response.into_body()).await.unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(1500), "{path}");
        engine
            .report("cut", |report| ended(report, "deadline_exceeded") == count)
            .await;
        drop(writer);
    }
    engine.end().await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_its_call() {
    let mut engine = Engine::start().await;
    let address = engine
        .place(
            Guest::P3,
            function("left", |function| {
                function.limits.deadline = Duration::from_secs(50);
                function.limits.concurrency = NonZeroU32::new(1).unwrap();
                function.limits.queue_wait = Duration::from_secs(30);
            }),
        )
        .await;
    for (path, count) in [("/hang", 1), ("/late-hang", 2)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        engine.report("left", |report| report.in_use == 1).await;
        if path == "/late-hang" {
            // The head is out.
            stream.read_u8().await.unwrap();
        }
        drop(stream);
        // It gets the only place when the other has left it.
        let next = send(address, "GET", "/", Pieces::whole(b"")).await;
        assert_eq!(next.status(), 200, "after {path}");
        engine
            .report("left", |report| ended(report, "client_gone") == count)
            .await;
    }
    engine.end().await;
}

#[tokio::test]
async fn calls_out_are_denied_unless_a_rule_names_them() {
    let engine = Engine::start().await;
    let target = engine.place(Guest::P3, patient("target")).await;
    let closed = engine.place(Guest::P3, patient("closed")).await;
    let rule = format!("http://{target}").parse().unwrap();
    let open = engine
        .place(
            Guest::P3,
            function("open", |f| {
                f.limits.deadline = Duration::from_secs(30);
                f.capabilities.egress = vec![rule];
            }),
        )
        .await;
    let path = format!("/fetch?url=http://{target}/");
    let denied = get(closed, &path).await;
    assert_eq!((denied.status, denied.body.as_str()), (502, "denied\n"));
    let allowed = get(open, &path).await;
    assert_eq!(
        (allowed.status, allowed.body.as_str()),
        (200, "hello from p3\n")
    );
    let log = engine.end().await;
    assert!(
        log.contains(&format!("closed: hearth: call to {target} denied")),
        "{log}"
    );
}

#[tokio::test]
async fn lines_on_standard_output_are_logged_also_after_the_answer() {
    let mut engine = Engine::start().await;
    let chatty = engine.place(Guest::P3, patient("chatty")).await;
    assert_eq!(get(chatty, "/log").await.body, "logged\n");
    let after = engine.place(Guest::P3, patient("after")).await;
    assert_eq!(get(after, "/after").await.body, "answered\n");
    let report = engine
        .report("after", |report| {
            report.in_use == 0 && !report.calls.is_empty()
        })
        .await;
    assert_eq!(ended(&report, "answered"), 1);
    let log = engine.end().await;
    for line in ["chatty: a line on stdout\n", "after: a line on stdout\n"] {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
}

#[tokio::test]
async fn an_instance_is_reused_where_its_function_says_so() {
    let mut engine = Engine::start().await;
    let reused = function("again", |function| {
        function.limits.deadline = Duration::from_secs(30);
        function.target = 1;
        function.reuse = Some(Reuse {
            calls: NonZeroU32::new(100).unwrap(),
            age: Reuse::AGE,
        });
    });
    let address = engine.place(Guest::P3, reused).await;
    for number in 1..=5 {
        assert_eq!(get(address, "/count").await.body, format!("{number}\n"));
        // It comes back when its answer is out.
        engine
            .report("again", |report| {
                ended(report, "answered") == number && report.warm == 1
            })
            .await;
    }
    engine.end().await;
}
