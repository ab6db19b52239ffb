//! The engine goes while it answers calls: it is killed, or a newer one takes its place.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_contract::Outcome;
use hearth_contract::proto::State;
use hearth_shim::host::{Board, Host};
use hearth_test_guests::Guest;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::node::{Callers, DEADLINE, Node, call, engine, eventually, free_port, plain, runs};

/// How long a caller may wait for the next engine: ten times what is promised, for this machine compiles beside.
const AGAIN: Duration = Duration::from_secs(2);

fn send(signal: Signal, pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

pub(crate) fn kill9(pid: u32) {
    send(Signal::KILL, pid);
}

/// Stops a process, and waits until its last thread stands still: the signal is on its way when it was sent.
async fn freeze(pid: u32) {
    send(Signal::STOP, pid);
    let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        // Behind the name, which is in parentheses.
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    };
    eventually("a process to stand still", || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.all(is_stopped).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_wait_for_the_next_engine_and_only_calls_in_flight_fail() {
    let node = Node::start().await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let callers = Callers::start(port, 4);
    let mut killed = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let engine = node.engine_pid("agent", &killed).await;
        kill9(engine);
        killed.push(engine);
        let since = Instant::now();
        let answer = call(port, "/").await;
        // One more may have been accepted by the engine that ended; the next one waits for the new one.
        if !answer.starts_with("HTTP/1.1 200") {
            let answer = call(port, "/").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let waited = since.elapsed();
        println!("answered {waited:?} after the engine was killed");
        assert!(waited < AGAIN, "{waited:?}");
    }
    let (answered, failed) = callers.end().await;
    println!("{answered} calls were answered, {failed} broke");
    // Each caller has one call under way, and each kill breaks at most that.
    assert!(failed <= 4 * 3, "{failed} of {answered} calls failed");
    assert!(answered > 100);
    assert_eq!(node.state("agent").await.unwrap(), "RUNNING");
    assert!(!node.heard.all().iter().any(|line| line.contains("exit")));
}

/// Waits until a function has so many warm instances in a host whose engine is not `before`.
async fn warm(host: &mut Host, uid: &str, warm: u32, before: Option<u32>) -> u32 {
    let is_warm = |board: &Board| {
        let report = board.functions.get(uid);
        report.is_some_and(|report| report.warm == warm && report.state() == State::Serving)
    };
    loop {
        tokio::time::timeout(DEADLINE, host.board.wait_for(is_warm))
            .await
            .expect("warm instances")
            .unwrap();
        match *host.pid.borrow() {
            Some(pid) if Some(pid) != before => return pid,
            // The board speaks of the engine that was killed.
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_warm_again_and_says_how_many_calls_were_lost() {
    let node = Node::start().await;
    let [metrics, hello, mischief] = [free_port(), free_port(), free_port()];
    let mut host = node.host(metrics).await;
    host.desired.send_modify(|desired| {
        desired.started = true;
        for wanted in [
            node.wanted(Guest::Hello, 20, hello),
            node.wanted(Guest::Mischief, 1, mischief),
        ] {
            let uid = wanted.function.key.uid.clone();
            desired.functions.insert(uid, wanted);
        }
    });
    warm(&mut host, "mischief", 1, None).await;
    let engine = warm(&mut host, "hello-c", 20, None).await;
    let hanging = tokio::spawn(async move { call(mischief, "/never").await });
    let is_called = |board: &Board| board.functions["mischief"].in_use == 1;
    host.board.wait_for(is_called).await.unwrap();

    kill9(engine);
    let since = Instant::now();
    let waiting = tokio::spawn(async move { call(hello, "/").await });
    eventually("its end", || (!runs(engine)).then_some(())).await;
    // Who probes it meets the next one.
    let health = tokio::spawn(async move { call(metrics, "/healthz").await });
    warm(&mut host, "hello-c", 20, Some(engine)).await;
    let waited = since.elapsed();
    println!("20 instances are warm {waited:?} after the engine was killed");
    assert!(waited < 2 * AGAIN, "{waited:?}");
    assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(health.await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(hanging.await.unwrap(), "", "it was in the engine");

    let word = Outcome::EngineLost.as_str();
    let board = host.board.borrow().clone();
    let lost = board.functions["mischief"].calls.iter();
    let lost: u64 = lost
        .filter(|calls| calls.outcome == word)
        .map(|calls| calls.count)
        .sum();
    assert_eq!((lost, board.deaths), (1, 1));
    assert!(
        !board.functions["hello-c"]
            .calls
            .iter()
            .any(|calls| calls.outcome == word)
    );
    // The new engine's metrics say it too: the one that was lost could not.
    let text = call(metrics, "/metrics").await;
    let line = format!(
        "hearth_calls_total{{function=\"mischief\",namespace=\"test\",outcome=\"{word}\",start=\"hit\"}} 1"
    );
    assert!(text.contains(&line), "{line} is not in\n{text}");
}

/// A folder into which engines may look.
fn folder_for_all() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// Puts the engine's binary at a path, in place of another file that may be there.
fn install(path: &Path, mode: u32) {
    let staged = path.with_extension("staged");
    std::fs::copy(engine(), &staged).unwrap();
    std::fs::set_permissions(&staged, PermissionsExt::from_mode(mode)).unwrap();
    std::fs::rename(&staged, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_engine_takes_over_and_no_call_fails() {
    let dir = folder_for_all();
    let installed = dir.path().join("hearth-engine");
    install(&installed, 0o755);
    let node = Node::with_engine(installed.clone()).await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let old = node.engine_pid("agent", &[]).await;
    let callers = Callers::start(port, 8);

    install(&installed, 0o755);
    let new = node.engine_pid("agent", &[old]).await;
    eventually("the old engine to leave", || (!runs(old)).then_some(())).await;
    // Calls go on.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (answered, failed) = callers.end().await;
    println!("{answered} calls were answered while the engine was replaced");
    assert_eq!(failed, 0, "of {answered}");
    assert!(answered > 100);
    assert!(runs(new));
    assert_eq!(node.state("agent").await.unwrap(), "RUNNING");

    // What drains is the new one.
    node.kill("agent", 15).await.unwrap();
    assert_eq!(node.wait("agent").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_engine_that_cannot_be_started_is_tried_again() {
    let dir = folder_for_all();
    let log = dir.path().join("log");
    let writer = Arc::new(File::create(&log).unwrap());
    // Of all tests of this process: the path tells which lines are ours.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(writer)
        .init();
    let installed = dir.path().join("hearth-engine");
    install(&installed, 0o755);
    let node = Node::with_engine(installed.clone()).await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let old = node.engine_pid("agent", &[]).await;
    let callers = Callers::start(port, 2);

    install(&installed, 0);
    let path = installed.display().to_string();
    eventually("a try that failed", || {
        let log = std::fs::read_to_string(&log).unwrap();
        let says = |line: &str| line.contains("could not be started") && line.contains(&path);
        log.lines().any(says).then_some(())
    })
    .await;
    assert!(runs(old));
    // The same file: nothing tells the shim but its next try.
    std::fs::set_permissions(&installed, PermissionsExt::from_mode(0o755)).unwrap();
    node.engine_pid("agent", &[old]).await;
    eventually("the old engine to leave", || (!runs(old)).then_some(())).await;
    let (answered, failed) = callers.end().await;
    assert_eq!(failed, 0, "of {answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_answers_late_and_ends_with_its_pod() {
    let node = Node::start().await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let engine = node.engine_pid("agent", &[]).await;
    freeze(engine).await;
    let waiting = tokio::spawn(async move { call(port, "/").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "nobody answers now");
    assert_eq!(node.state("agent").await.unwrap(), "RUNNING");
    send(Signal::CONT, engine);
    assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    freeze(engine).await;
    // It does not hear that it shall drain; the grace period is over some time.
    node.kill("agent", 15).await.unwrap();
    node.kill("agent", 9).await.unwrap();
    assert_eq!(node.wait("agent").await.unwrap(), 137);
    assert_eq!(node.delete("agent").await.unwrap(), 137);
    eventually("the frozen engine's end", || (!runs(engine)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_ends_again_and_again_ends_a_plain_container_with_its_reason() {
    let node = Node::start().await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    let (spec, said) = node.with_last_words(spec);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let mut killed = Vec::new();
    while node.state("agent").await.unwrap() == "RUNNING" {
        assert!(killed.len() < 5, "it was not given up");
        let engine = node.engine_pid("agent", &killed).await;
        kill9(engine);
        killed.push(engine);
        eventually("its end to be seen", || (!runs(engine)).then_some(())).await;
        if killed.len() == 5 {
            assert_eq!(node.wait("agent").await.unwrap(), 137);
        }
    }
    assert_eq!(killed.len(), 5);
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("signal 9"), "{said}");
}
