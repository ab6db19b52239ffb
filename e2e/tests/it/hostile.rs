//! A guest's fault: the caller gets a status, a short body and the outcome; the next call works.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hearth_e2e::call::{self, Answer};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE};

use crate::support::{self, contains};

/// Deadline of the guests of this group, in milliseconds.
const DEADLINE_MS: u64 = 500;

async fn mischief(cx: &Cx) -> Result<String> {
    let spec = format!(
        "  replicas: 2\n  limits:\n    memory: 32Mi\n    deadlineMilliseconds: {DEADLINE_MS}\n    concurrency: 2\n    queue:\n      length: 1\n      waitMilliseconds: 100"
    );
    cx.ready_function("mischief", &support::mischief(cx)?, &spec)
        .await?;
    cx.route("mischief").await
}

/// Calls `path`, expects `status` and `outcome`, then checks that the next call works, that the outcome was counted
/// and that the log tells.
async fn misbehaves(cx: &Cx, path: &str, status: u16, outcome: &str) -> Result<Answer> {
    let address = mischief(cx).await?;
    let answer = call::get(&address, path).await?;
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
    let next = call::get(&address, "/hello").await?;
    ensure!(
        next.status == 200,
        "the next call gave {} {:?}",
        next.status,
        next.body
    );
    let pod = cx
        .pool_pods()
        .await?
        .into_iter()
        .next()
        .context("a pool pod")?;
    let labels = ["function=\"mischief\"", &format!("outcome=\"{outcome}\"")];
    let counted = cx.metric(&pod, 9464, "hearth_calls_total", &labels).await?;
    ensure!(counted == 1.0, "{outcome} was counted {counted} times");
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
    let address = mischief(cx).await?;
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
