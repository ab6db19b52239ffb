//! Limits of one call and of one function: each holds, and says so.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hearth_contract::Reuse;
use hearth_contract::proto::{self, to_engine};
use hearth_test_guests::Guest;

use crate::harness::{Engine, ended, function, get, patient};

#[tokio::test]
async fn a_guest_that_computes_is_cut_at_its_processor_time() {
    let mut engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("spinner", |function| {
                function.limits.cpu = Duration::from_millis(50);
                function.limits.deadline = Duration::from_secs(60);
            }),
        )
        .await;
    let answer = get(address, "/spin").await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (504, Some("cpu_exceeded")),
        "{}",
        answer.body
    );
    assert!(answer.body.contains("50 ms of processor time"));
    engine
        .report("spinner", |report| ended(report, "cpu_exceeded") == 1)
        .await;
    // Waiting is no computing: this one meets its deadline.
    let waiting = engine
        .place(
            Guest::Mischief,
            function("waiting", |function| {
                function.limits.cpu = Duration::from_millis(50);
                function.limits.deadline = Duration::from_millis(300);
            }),
        )
        .await;
    let answer = get(waiting, "/never").await;
    assert_eq!(answer.outcome.as_deref(), Some("deadline_exceeded"));
    engine.end().await;
}

#[tokio::test]
async fn a_guest_that_recurses_is_cut_at_its_stack() {
    let mut engine = Engine::start().await;
    let address = engine
        .place(Guest::Mischief, function("deep", |_| {}))
        .await;
    let answer = get(address, "/recurse").await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (500, Some("trapped")),
        "{}",
        answer.body
    );
    engine
        .report("deep", |report| ended(report, "trapped") == 1)
        .await;
    assert_eq!(get(address, "/").await.status, 200);
    let log = engine.end().await;
    assert!(log.contains("call stack exhausted"), "{log}");
}

#[tokio::test]
async fn start_up_code_that_computes_is_cut_and_said() {
    let mut engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("starter", |function| {
                function.limits.deadline = Duration::from_millis(200);
                let spin = ("START".to_owned(), "spin".to_owned());
                function.capabilities.env.push(spin);
            }),
        )
        .await;
    let report = engine
        .report("starter", |report| report.failure.is_some())
        .await;
    assert_eq!(report.failure.unwrap().reason, "StartFailed");
    let answer = get(address, "/hello").await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (504, Some("deadline_exceeded")),
        "{}",
        answer.body
    );
    engine.end().await;
}

#[tokio::test]
async fn a_table_does_not_grow_without_end() {
    let engine = Engine::start().await;
    let elements = 1024 * engine.run(Guest::Tables, function("tables", |_| {})).await;
    assert_eq!(elements, 64 << 10);
    engine.end().await;
}

#[tokio::test]
async fn spinning_guests_leave_their_neighbours_the_cores() {
    let engine = Engine::start().await;
    let bad = engine
        .place(
            Guest::Mischief,
            function("bad", |function| {
                function.limits.deadline = Duration::from_secs(10);
            }),
        )
        .await;
    let good = engine.place(Guest::Hello, function("good", |_| {})).await;
    let spinning: Vec<_> = (0..16).map(|_| tokio::spawn(get(bad, "/spin"))).collect();
    // While all of them spin, a hundred calls of the neighbour's go through in less time than they have.
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(get(good, "/").await.status, 200);
    }
    let health = get(engine.metrics, "/healthz").await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    assert!(
        spinning.iter().all(|call| !call.is_finished()),
        "a hundred calls took {:?}, longer than the others spun",
        started.elapsed()
    );
    for call in spinning {
        let answer = call.await.unwrap();
        assert_eq!(answer.outcome.as_deref(), Some("deadline_exceeded"));
    }
    engine.end().await;
}

#[tokio::test]
async fn an_answer_is_cut_where_it_is_larger_than_it_may_be() {
    let mut engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("talker", |function| {
                function.limits.response_body_bytes = 100 << 10;
            }),
        )
        .await;
    let broken = crate::harness::send(
        address,
        "GET",
        "/big",
        http_body_util::Empty::<bytes::Bytes>::new(),
    )
    .await;
    // The head is gone by the time that the body is known to be too large: it breaks off, and does not end.
    assert_eq!(broken.status(), 200);
    crate::harness::rest(broken.into_body()).await.unwrap_err();
    engine
        .report("talker", |report| ended(report, "response_too_large") == 1)
        .await;
    assert_eq!(get(address, "/").await.status, 200);
    engine.end().await;
}

#[tokio::test]
async fn a_request_whose_head_is_too_large_is_refused() {
    let mut engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("small", |function| {
                function.limits.request_head_bytes = 1 << 10;
            }),
        )
        .await;
    let long = format!("/?{}", "x".repeat(2 << 10));
    let answer = get(address, &long).await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (413, Some("too_large"))
    );
    assert!(answer.body.contains("1024 bytes"), "{}", answer.body);
    engine
        .report("small", |report| ended(report, "too_large") == 1)
        .await;
    assert_eq!(get(address, "/?short").await.status, 200);
    engine.end().await;
}

#[tokio::test]
async fn calls_out_of_one_call_are_counted() {
    let engine = Engine::start().await;
    let target = engine.place(Guest::Hello, function("target", |_| {})).await;
    let address = engine
        .place(
            Guest::Mischief,
            function("caller", |function| {
                function.limits.outbound_calls = 3;
                function.capabilities.egress = vec![target.to_string().parse().unwrap()];
            }),
        )
        .await;
    // Each call has its own three.
    for _ in 0..2 {
        let answer = get(address, &format!("/fetches?url=http://{target}/")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "3\n"));
    }
    let log = engine.end().await;
    assert!(log.contains("spec.limits.outboundCalls"), "{log}");
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_counted() {
    let engine = Engine::start().await;
    let address = engine
        .place(
            Guest::Mischief,
            function("loud", |function| {
                function.limits.log_bytes_per_second = 10_000;
                function.limits.deadline = Duration::from_secs(60);
            }),
        )
        .await;
    assert_eq!(get(address, "/flood").await.status, 200);
    let metrics = get(engine.metrics, "/metrics").await.body;
    let name = "hearth_log_dropped_lines_total{function=\"loud\",namespace=\"test\"} ";
    let dropped = metrics.lines().find_map(|line| line.strip_prefix(name));
    let dropped: u64 = dropped.unwrap().parse().unwrap();
    // A second's worth at once, and what the seconds of this test brought.
    assert!((5_000..10_000).contains(&dropped), "{dropped}");
    let log = engine.end().await;
    assert_eq!(
        log.lines()
            .filter(|line| line.starts_with("loud: 0"))
            .count() as u64,
        10_000 - dropped
    );
}

#[tokio::test]
async fn an_instance_is_fresh_for_each_call_unless_it_is_reused() {
    let mut engine = Engine::start().await;
    let fresh = engine
        .place(Guest::Mischief, function("fresh", |_| {}))
        .await;
    for _ in 0..4 {
        assert_eq!(get(fresh, "/count").await.body, "1\n");
    }
    let reused = engine
        .place(
            Guest::Mischief,
            function("reused", |function| {
                function.target = 1;
                function.reuse = Some(Reuse {
                    calls: NonZeroU32::new(3).unwrap(),
                    age: Duration::from_secs(60),
                });
            }),
        )
        .await;
    for (before, count) in ["1\n", "2\n", "3\n"].repeat(3).iter().enumerate() {
        // Else the next call gets an instance of its own, beside the one that comes back or is being made.
        engine
            .report("reused", |report| {
                report.warm == 1 && ended(report, "answered") == before as u64
            })
            .await;
        assert_eq!(get(reused, "/count").await.body, *count);
    }
    // One that trapped is not used again.
    assert_eq!(get(reused, "/trap").await.status, 500);
    assert_eq!(get(reused, "/count").await.body, "1\n");
    engine.end().await;
}

/// An engine whose memory is taken up by five instances each of two functions; the second was called longest ago.
async fn full_of_instances() -> Engine {
    // Ten instances of 256 KiB and nothing more.
    let mut engine = Engine::start_with(10 << 18).await;
    let warm = |function: &mut hearth_contract::Function| function.target = 5;
    let first = engine.place(Guest::Hello, function("first", warm)).await;
    engine.report("first", |report| report.warm == 5).await;
    engine.place(Guest::Hello, function("second", warm)).await;
    engine.report("second", |report| report.warm == 5).await;
    assert_eq!(get(first, "/").await.status, 200);
    // Not what was said before that call.
    engine
        .report("first", |report| {
            report.warm == 5 && ended(report, "answered") == 1
        })
        .await;
    engine
}

#[tokio::test]
async fn instances_that_wait_make_room_for_calls() {
    let mut engine = full_of_instances().await;
    let third = function("third", |function| function.target = 0);
    let third = engine.place(Guest::Hello, third).await;
    let answer = get(third, "/").await;
    assert_eq!((answer.status, answer.outcome), (200, None));
    engine.report("second", |report| report.warm == 4).await;
    engine.report("first", |report| report.warm == 5).await;
    engine.end().await;
}

/// Changes how much all guests may hold, while they run.
async fn set_memory(engine: &Engine, memory_bytes: u64) {
    let message = to_engine::Message::SetMemory(proto::SetMemory { memory_bytes });
    engine.send(message, &[]).await;
}

#[tokio::test]
async fn memory_that_is_taken_from_a_pod_is_given_back_by_instances_that_wait() {
    let mut engine = full_of_instances().await;
    set_memory(&engine, 6 << 18).await;
    engine.report("second", |report| report.warm == 1).await;
    engine.report("first", |report| report.warm == 5).await;
    // A function that comes with the new bound: what is held and what it may.
    let hoarder = function("hoarder", |function| function.target = 0);
    let hoarder = engine.place(Guest::Mischief, hoarder).await;
    let answer = get(hoarder, "/hoard").await;
    assert_eq!(
        (answer.status, answer.outcome.as_deref()),
        (500, Some("out_of_memory")),
        "{}",
        answer.body
    );
    engine.end().await;
}

#[tokio::test]
async fn memory_that_a_pod_is_given_is_its_guests() {
    let mut engine = Engine::start_with(1 << 18).await;
    let one = patient("one");
    let address = engine.place(Guest::Mischief, one).await;
    let waiting = tokio::spawn(get(address, "/never"));
    engine.report("one", |report| report.in_use == 1).await;
    assert_eq!(get(address, "/").await.status, 503);
    set_memory(&engine, 2 << 18).await;
    // Messages are obeyed in order.
    let uid = "uid-nobody".to_owned();
    let remove = to_engine::Message::Remove(proto::Remove { uid });
    engine.send(remove, &[]).await;
    engine.removed("nobody").await;
    assert_eq!(get(address, "/").await.status, 200);
    waiting.abort();
    engine.end().await;
}

#[tokio::test]
async fn a_call_that_finds_no_memory_is_told_to_come_back() {
    let mut engine = Engine::start_with(1 << 18).await;
    let address = engine
        .place(
            Guest::Mischief,
            function("one", |function| function.target = 0),
        )
        .await;
    let waiting = tokio::spawn(get(address, "/never"));
    engine.report("one", |report| report.in_use == 1).await;
    let refused = get(address, "/").await;
    assert_eq!(
        (
            refused.status,
            refused.outcome.as_deref(),
            refused.retry_after
        ),
        (503, Some("unavailable"), true),
        "{}",
        refused.body
    );
    assert_eq!(waiting.await.unwrap().status, 504);
    assert_eq!(get(address, "/").await.status, 200);
    engine.end().await;
}
