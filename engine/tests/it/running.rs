//! Placing, calling, misbehaving, changing, removing.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use hearth_contract::proto::{self, State, from_engine, to_engine};
use hearth_test_guests::Guest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Engine, call, ended, function, get, patient};

#[tokio::test]
async fn a_placed_function_answers_and_reports_what_is_warm() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::Hello, function("hello", |_| {})).await;
    let answer = get(address, "/?name=you").await;
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.outcome),
        (200, "Hello, you!\n", None)
    );
    let report = engine
        .report("hello", |report| {
            report.warm == 2 && !report.calls.is_empty()
        })
        .await;
    assert_eq!(
        (report.state(), report.generation, report.digest.as_str()),
        (State::Serving, 1, "sha256:test")
    );
    assert_eq!(report.calls[0].outcome, "answered");
    let target = proto::SetTarget {
        uid: "uid-hello".to_owned(),
        target: 8,
    };
    engine
        .send(to_engine::Message::SetTarget(target), &[])
        .await;
    engine.report("hello", |report| report.warm == 8).await;
    let metrics = get(engine.metrics, "/metrics").await.body;
    for line in [
        "hearth_instances{function=\"hello\",namespace=\"test\",state=\"warm\"} 8",
        "hearth_calls_total{function=\"hello\",namespace=\"test\",outcome=\"answered\",start=\"",
        "hearth_bundle_compile_seconds{function=\"hello\",namespace=\"test\"} 1.5",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    engine.end().await;
}

#[tokio::test]
async fn each_misbehaviour_is_one_calls_problem() {
    let mut engine = Engine::start().await;
    let limit = NonZeroU64::new(8 << 20).unwrap();
    let bad = engine
        .place(
            Guest::Mischief,
            function("bad", |function| function.limits.memory_bytes = limit),
        )
        .await;
    let good = engine.place(Guest::Hello, function("good", |_| {})).await;
    for (path, status, outcome) in [
        ("/trap", 500, "trapped"),
        ("/hoard", 500, "out_of_memory"),
        ("/spin", 504, "deadline_exceeded"),
        ("/never", 504, "deadline_exceeded"),
    ] {
        let started = Instant::now();
        let (answer, neighbour) = tokio::join!(get(bad, path), async {
            let answer = get(good, "/").await;
            (answer.status, started.elapsed())
        });
        assert_eq!(
            (answer.status, answer.outcome.as_deref()),
            (status, Some(outcome)),
            "{path}: {}",
            answer.body
        );
        assert_eq!(neighbour.0, 200);
        assert!(
            neighbour.1 < Duration::from_millis(1400),
            "{path}: the neighbour waited {:?}",
            neighbour.1
        );
        assert_eq!(
            get(bad, "/hello").await.status,
            200,
            "the call after {path}"
        );
        engine
            .report("bad", |report| {
                report.calls.iter().any(|call| call.outcome == outcome)
            })
            .await;
    }
    let log = engine.end().await;
    assert!(
        log.lines()
            .any(|line| line.starts_with("bad: hearth: ") && line.contains("trapped")),
        "{log}"
    );
}

#[tokio::test]
async fn more_calls_than_allowed_wait_and_are_refused() {
    let engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("few", |function| {
                function.limits.concurrency = NonZeroU32::new(1).unwrap();
                function.limits.queue_length = 1;
                function.limits.queue_wait = Duration::from_millis(100);
            }),
        )
        .await;
    let (a, b, c, d) = tokio::join!(
        get(address, "/never"),
        get(address, "/never"),
        get(address, "/never"),
        get(address, "/never")
    );
    let mut outcomes: Vec<_> = [a, b, c, d]
        .into_iter()
        .map(|answer| {
            assert_eq!(answer.status == 503, answer.retry_after, "{answer:?}");
            answer.outcome.unwrap()
        })
        .collect();
    outcomes.sort();
    assert_eq!(
        outcomes,
        [
            "deadline_exceeded",
            "overloaded",
            "overloaded",
            "overloaded"
        ]
    );
    assert_eq!(get(address, "/hello").await.status, 200);
    engine.end().await;
}

#[tokio::test]
async fn bodies_are_bounded_and_streamed() {
    let engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("body", |function| function.limits.request_body_bytes = 1000),
        )
        .await;
    let echoed = call(address, "POST", "/echo", &[b'x'; 1000]).await;
    assert_eq!((echoed.status, echoed.body.len()), (200, 1000));
    let refused = call(address, "POST", "/echo", &[b'x'; 1001]).await;
    assert_eq!(
        (refused.status, refused.outcome.as_deref()),
        (413, Some("too_large"))
    );
    let big = get(address, "/big").await;
    assert_eq!((big.status, big.body.len()), (200, 1 << 20));
    engine.end().await;
}

#[tokio::test]
async fn calls_out_are_denied_unless_a_rule_names_them() {
    let mut engine = Engine::start().await;
    let target = engine.place(Guest::Hello, function("target", |_| {})).await;
    let closed = engine
        .place(Guest::Mischief, function("closed", |_| {}))
        .await;
    let rule = format!("http://{target}").parse().unwrap();
    let open = engine
        .place(
            Guest::Mischief,
            function("open", |f| f.capabilities.egress = vec![rule]),
        )
        .await;
    let path = format!("/fetch?url=http://{target}/?name=out");
    let denied = get(closed, &path).await;
    assert_eq!(
        (denied.status, denied.body.contains("denied")),
        (502, true),
        "{denied:?}"
    );
    let allowed = get(open, &path).await;
    assert_eq!(
        (allowed.status, allowed.body.as_str()),
        (200, "Hello, out!\n")
    );
    engine.report("open", |report| report.warm == 2).await;
    let log = engine.end().await;
    assert!(
        log.contains(&format!("closed: hearth: call to {target} denied")),
        "{log}"
    );
}

#[tokio::test]
async fn guests_see_their_environment_and_write_named_lines() {
    let engine = Engine::start().await;
    let env = vec![("GREETING".to_owned(), "Moin".to_owned())];
    let hello = engine
        .place(
            Guest::Hello,
            function("hello", |f| f.capabilities.env = env),
        )
        .await;
    assert_eq!(get(hello, "/").await.body, "Moin, world!\n");
    let chatty = engine
        .place(Guest::Mischief, function("chatty", |_| {}))
        .await;
    assert_eq!(get(chatty, "/log").await.status, 200);
    let log = engine.end().await;
    assert!(
        log.contains("chatty: a line on stdout\n") && log.contains("chatty: a line on stderr\n"),
        "{log}"
    );
}

#[tokio::test]
async fn a_new_generation_takes_over_and_a_removed_function_is_gone() {
    let mut engine = Engine::start().await;
    engine.place(Guest::Hello, function("f", |_| {})).await;
    engine
        .report("f", |report| report.generation == 1 && report.warm == 2)
        .await;
    let address = engine
        .place(
            Guest::Mischief,
            function("f", |function| function.generation = 2),
        )
        .await;
    engine
        .report("f", |report| report.generation == 2 && report.warm == 2)
        .await;
    assert_eq!(get(address, "/trap").await.status, 500);
    engine
        .send(
            to_engine::Message::Remove(proto::Remove {
                uid: "uid-f".to_owned(),
            }),
            &[],
        )
        .await;
    engine.removed("f").await;
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "the socket is still open"
    );
    let metrics = get(engine.metrics, "/metrics").await.body;
    for gauge in ["hearth_instances", "hearth_bundle_compile_seconds"] {
        let gone = format!("{gauge}{{function=\"f\"");
        assert!(!metrics.contains(&gone), "{metrics}");
    }
    engine.end().await;
}

#[tokio::test]
async fn a_drain_lets_calls_end() {
    let engine = Engine::start().await;
    let address = engine
        .place(Guest::Mischief, function("slow", |_| {}))
        .await;
    assert_eq!(get(address, "/hello").await.status, 200);
    let running = tokio::spawn(async move { get(address, "/never").await.status });
    // The call is in the guest once a second one finds it there.
    while !get(engine.metrics, "/metrics")
        .await
        .body
        .contains("state=\"in_use\"} 1")
    {}
    engine
        .send(
            to_engine::Message::Drain(proto::Drain {
                deadline_ms: 10_000,
            }),
            &[],
        )
        .await;
    let cut = loop {
        if let from_engine::Message::Drained(drained) = engine.receive().await {
            break drained.calls_cut;
        }
    };
    assert_eq!((cut, running.await.unwrap()), (0, 504));
}

#[tokio::test]
async fn a_command_runs_once_and_its_code_is_kept() {
    let engine = Engine::start().await;
    let args = |code: &str| vec!["command".to_owned(), code.to_owned()];
    assert_eq!(
        engine
            .run(
                Guest::Command,
                function("zero", |f| f.capabilities.args = args("0"))
            )
            .await,
        0
    );
    assert_ne!(
        engine
            .run(
                Guest::Command,
                function("three", |f| f.capabilities.args = args("3"))
            )
            .await,
        0
    );
    let log = engine.end().await;
    assert!(
        log.contains("argument 3") && log.contains("greeting none"),
        "{log}"
    );
}

#[tokio::test]
async fn a_module_of_preview_1_runs_as_a_command_and_its_code_is_kept() {
    let engine = Engine::start().await;
    // 134: as a program that aborted.
    for (word, code) in [("0", 0), ("3", 3), ("255", 255), ("trap", 134)] {
        let command = function(word, |function| {
            function.capabilities.args = vec!["command".to_owned(), word.to_owned()];
            function.capabilities.env = vec![("GREETING".to_owned(), format!("for {word}"))];
        });
        assert_eq!(engine.run(Guest::Preview1, command).await, code, "{word}");
    }
    let exit = function("exit", |_| {});
    assert_eq!(engine.run(Guest::Exit, exit).await, 7);
    let log = engine.end().await;
    for line in ["argument 3\n", "greeting for 3\n", "greeting for trap\n"] {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_answers() {
    let mut engine = Engine::start().await;
    let address = engine.place(Guest::Mischief, patient("bare")).await;
    let answer = call(address, "HEAD", "/big", b"").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let report = engine
        .report("bare", |report| !report.calls.is_empty())
        .await;
    assert_eq!(ended(&report, "answered"), 1);
    engine.end().await;
}

#[tokio::test]
async fn a_request_that_names_no_host_is_answered() {
    let engine = Engine::start().await;
    let address = engine.place(Guest::Hello, patient("old")).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    engine.end().await;
}
