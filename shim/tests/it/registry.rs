//! A registry that does not answer.

use hearth_contract::proto::State;
use hearth_test_guests::Guest;

use crate::containerd::BLACK_HOLE;
use crate::node::{DEADLINE, Node, call, eventually, free_port, source};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_keeps_no_other_bundle_waiting() {
    let node = Node::start().await;
    let mut host = node.host(free_port()).await;
    let port = free_port();
    let mut function = node.wanted(Guest::Hello, 1, port);
    let image = "other.example.com/hello:2";
    function.source = source(image);
    let wasm = Guest::Hello.wasm().unwrap();
    host.desired.send_modify(|desired| {
        desired.started = true;
        for at in 0..5 {
            let mut silent = function.clone();
            silent.function.key.uid = format!("silent-{at}");
            silent.source = source(format!("{BLACK_HOLE}agent-{at}:1"));
            silent.port = free_port();
            let uid = silent.function.key.uid.clone();
            desired.functions.insert(uid, silent);
        }
    });
    let silent = || node.store.pulls().len();
    eventually("pulls from the silent registry", || {
        (silent() == 2).then_some(())
    })
    .await;

    node.store.publish(image, wasm);
    host.desired.send_modify(|desired| {
        let uid = function.function.key.uid.clone();
        desired.functions.insert(uid, function.clone());
    });
    let serves = host.board.wait_for(|board| {
        let report = board.functions.get("hello-c");
        report.is_some_and(|report| report.state() == State::Serving)
    });
    let board = tokio::time::timeout(DEADLINE, serves)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(board.functions["silent-0"].state(), State::Pulling);
    drop(board);
    assert!(call(port, "/").await.starts_with("HTTP/1.1 200"));
    assert_eq!(
        silent(),
        3,
        "the silent registry has two places, and this one was the third pull"
    );
}
