//! A guest's fault: the caller gets a status, a short body and the outcome; the next call works.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use hearth_e2e::call::{self, Answer};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, manifest};

use crate::pods;
use crate::support::{self, HELLO, METRICS, contains};

/// Deadline of the guests of this group, in milliseconds.
const DEADLINE_MS: u64 = 500;

/// Places the guest of many behaviours with `limits`, lines of `spec.limits`, and returns its address.
async fn mischief(cx: &Cx, limits: &str) -> Result<String> {
    let spec = format!(
        "  replicas: 2\n  limits:\n    memory: 32Mi\n    deadlineMilliseconds: {DEADLINE_MS}\n    concurrency: 2\n    queue:\n      length: 1\n      waitMilliseconds: 100\n{limits}"
    );
    cx.ready_function("mischief", &support::mischief(cx)?, &spec)
        .await?;
    cx.route("mischief").await
}

/// A metric of the guest of many behaviours, from the engine of the only pool pod.
async fn metric(cx: &Cx, name: &str, label: &str) -> Result<f64> {
    let pod = &cx.pool_pod().await?;
    let labels = ["function=\"mischief\"", label];
    cx.metric(pod, METRICS, name, &labels).await
}

/// Waits until the engine counted `times` calls that ended with `outcome`.
async fn counted(cx: &Cx, outcome: &str, times: f64) -> Result<()> {
    let label = format!("outcome=\"{outcome}\"");
    until("the call to be counted", SETTLE, || async {
        let counted = metric(cx, "hearth_calls_total", &label).await?;
        let instead = format!("{outcome} was counted {counted} times");
        Ok(Seen::when(counted == times, (), instead))
    })
    .await
}

/// Calls `path`, expects `status` and `outcome`, then checks that the next call works, that the outcome was counted
/// and that the log tells.
async fn misbehaves(cx: &Cx, path: &str, status: u16, outcome: &str) -> Result<Answer> {
    let address = mischief(cx, "").await?;
    is_cut(cx, &address, path, status, outcome).await
}

/// The same at an address.
async fn is_cut(cx: &Cx, address: &str, path: &str, status: u16, outcome: &str) -> Result<Answer> {
    let answer = call::get(address, path).await?;
    ensure!(
        answer.status == status,
        "{path} gave {} {:?}",
        answer.status,
        answer.body
    );
    ensure!(
        answer.outcome.as_deref() == Some(outcome),
        "{path} gave outcome {:?}",
        answer.outcome
    );
    ensure!(
        !answer.body.is_empty() && answer.body.len() < 500,
        "the body is {:?}",
        answer.body
    );
    let next = call::get(address, "/hello").await?;
    ensure!(
        next.status == 200,
        "the next call gave {} {:?}",
        next.status,
        next.body
    );
    counted(cx, outcome, 1.0).await?;
    let pod = &cx.pool_pod().await?;
    let name = pod.metadata.name.clone().context("a pod has a name")?;
    until("a log line about the outcome", SETTLE, || async {
        let log = cx.logs(&name).await?;
        let line = log
            .lines()
            .find(|line| line.starts_with("mischief: ") && line.contains(outcome))
            .map(str::to_owned);
        Ok(line.map_or_else(|| Seen::NotYet(log), Seen::Yes))
    })
    .await?;
    Ok(answer)
}

pub(crate) async fn a_trap_is_one_calls_problem(cx: &Cx) -> Result<()> {
    misbehaves(cx, "/trap", 500, "trapped").await?;
    Ok(())
}

pub(crate) async fn a_spinning_guest_is_cut(cx: &Cx) -> Result<()> {
    let started = Instant::now();
    misbehaves(cx, "/spin", 504, "deadline_exceeded").await?;
    ensure!(started.elapsed() < SETTLE);
    Ok(())
}

pub(crate) async fn a_hoarding_guest_is_cut(cx: &Cx) -> Result<()> {
    misbehaves(cx, "/hoard", 500, "out_of_memory").await?;
    Ok(())
}

pub(crate) async fn a_guest_that_never_answers_is_cut(cx: &Cx) -> Result<()> {
    misbehaves(cx, "/never", 504, "deadline_exceeded").await?;
    Ok(())
}

pub(crate) async fn more_calls_than_allowed_are_refused(cx: &Cx) -> Result<()> {
    let address = mischief(cx, "").await?;
    // Two run, one waits and gives up, the others find no place in the queue.
    let calls = (0..6).map(|_| call::get(&address, "/never"));
    let answers = futures::future::try_join_all(calls).await?;
    let count = |outcome: &str| {
        answers
            .iter()
            .filter(|answer| answer.outcome.as_deref() == Some(outcome))
            .count()
    };
    ensure!(
        count("deadline_exceeded") == 2 && count("overloaded") == 4,
        "got {answers:?}"
    );
    for answer in answers.iter().filter(|answer| answer.status == 503) {
        ensure!(
            answer.retry_after.is_some(),
            "a refused call says when to come back: {answer:?}"
        );
    }
    let next = call::get(&address, "/hello").await?;
    contains("the next answer", &next.body, "hello")?;
    Ok(())
}

pub(crate) async fn a_recursing_guest_is_cut(cx: &Cx) -> Result<()> {
    misbehaves(cx, "/recurse", 500, "trapped").await?;
    Ok(())
}

pub(crate) async fn a_guest_that_computes_is_cut_at_its_processor_time(cx: &Cx) -> Result<()> {
    let address = mischief(cx, "    cpuMilliseconds: 50").await?;
    is_cut(cx, &address, "/spin", 504, "cpu_exceeded").await?;
    Ok(())
}

pub(crate) async fn start_up_code_that_computes_is_cut(cx: &Cx) -> Result<()> {
    cx.ready_function("good", HELLO, "  replicas: 1").await?;
    let spec = format!(
        "  replicas: 1\n  limits:\n    deadlineMilliseconds: {DEADLINE_MS}\n  env:\n    - name: START\n      value: spin"
    );
    cx.apply(&manifest("mischief", &support::mischief(cx)?, &spec))?;
    support::fails(cx, "mischief", "StartFailed", &["deadline"]).await?;
    let good = call::get(&cx.route("good").await?, "/").await?;
    ensure!(good.status == 200, "the neighbour: {good:?}");
    Ok(())
}

pub(crate) async fn a_table_does_not_grow_without_end(cx: &Cx) -> Result<()> {
    pods::job_of(cx, "tables", "tables", "", "", "")?;
    let (_, end) = pods::ended(cx, "tables").await?;
    // What it got, in units of 1,024 elements.
    ensure!(end.exit_code == 64, "{end:?}");
    Ok(())
}

pub(crate) async fn requests_that_are_too_large_are_refused(cx: &Cx) -> Result<()> {
    let address = mischief(cx, "    requestHead: 1Ki\n    requestBody: 1Ki").await?;
    let head = format!("/?{}", "x".repeat(2 << 10));
    is_cut(cx, &address, &head, 413, "too_large").await?;
    let body = call::post(&address, "/echo", "x".repeat(2 << 10)).await?;
    ensure!(
        (body.status, body.outcome.as_deref()) == (413, Some("too_large")),
        "{body:?}"
    );
    counted(cx, "too_large", 2.0).await?;
    let within = call::post(&address, "/echo", "x".repeat(1 << 10)).await?;
    ensure!(within.status == 200, "{within:?}");
    Ok(())
}

pub(crate) async fn an_answer_is_cut_where_it_is_too_large(cx: &Cx) -> Result<()> {
    let address = mischief(cx, "    responseBody: 100Ki").await?;
    // Its head was on the way before the guest had written that much: the caller sees it break off.
    let broken = call::get(&address, "/big").await;
    ensure!(broken.is_err(), "the answer came to an end: {broken:?}");
    counted(cx, "response_too_large", 1.0).await?;
    let next = call::get(&address, "/hello").await?;
    contains("the next answer", &next.body, "hello")
}

pub(crate) async fn calls_out_of_one_call_are_bounded(cx: &Cx) -> Result<()> {
    cx.ready_function("target", HELLO, "  replicas: 1").await?;
    let target = cx.route("target").await?;
    let spec = format!(
        "  replicas: 1\n  limits:\n    outboundCalls: 3\n  egress:\n    allow:\n      - {target:?}"
    );
    cx.ready_function("mischief", &support::mischief(cx)?, &spec)
        .await?;
    let address = cx.route("mischief").await?;
    // Each call has its own three.
    for _ in 0..2 {
        let answer = call::get(&address, &format!("/fetches?url=http://{target}/")).await?;
        ensure!(
            (answer.status, answer.body.as_str()) == (200, "3\n"),
            "{answer:?}"
        );
    }
    Ok(())
}

pub(crate) async fn a_flood_of_log_lines_is_cut_and_counted(cx: &Cx) -> Result<()> {
    let address = mischief(cx, "    logBytesPerSecond: 10k").await?;
    let flooded = call::get(&address, "/flood").await?;
    ensure!(flooded.status == 200, "{flooded:?}");
    let dropped = metric(cx, "hearth_log_dropped_lines_total", "").await?;
    // 10,000 lines of 101 bytes, of which a second's worth may be written at once.
    ensure!((9_000.0..10_000.0).contains(&dropped), "{dropped} lines");
    Ok(())
}

pub(crate) async fn a_pod_that_is_short_of_memory_answers_so_and_lives(cx: &Cx) -> Result<()> {
    cx.apply(
        "apiVersion: hearth.dev/v1alpha1\nkind: AgentPool\nmetadata:\n  name: small\nspec:\n  resources:\n    limits:\n      memory: 96Mi",
    )?;
    let spec = "  pool:\n    name: small\n  replicas: 2";
    cx.ready_function("good", HELLO, spec).await?;
    let spec =
        "  pool:\n    name: small\n  replicas: 0\n  limits:\n    memory: 48Mi\n    concurrency: 20";
    cx.ready_function("mischief", &support::mischief(cx)?, spec)
        .await?;
    let address = cx.route("mischief").await?;
    let rounds: u8 = 3;
    let mut refused = 0.0;
    for _ in 0..rounds {
        // Together they ask for ten times what the pod has.
        let calls = (0..20).map(|_| call::get(&address, "/hoard"));
        for answer in futures::future::try_join_all(calls).await? {
            match (answer.status, answer.outcome.as_deref()) {
                (500, Some("out_of_memory")) => {}
                (503, Some("unavailable")) if answer.retry_after.is_some() => refused += 1.0,
                _ => bail!("got {answer:?}"),
            }
        }
    }
    let good = call::get(&cx.route("good").await?, "/").await?;
    ensure!(good.status == 200, "the neighbour: {good:?}");
    // An engine that was killed would have begun to count anew.
    counted(cx, "unavailable", refused).await?;
    counted(cx, "out_of_memory", f64::from(rounds) * 20.0 - refused).await
}
