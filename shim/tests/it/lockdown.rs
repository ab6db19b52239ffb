//! What a guest reaches whose sandbox is broken, and a bundle that broke the compiler: the engine here has a door for that.

use hearth_shim::host::{Board, Desired, Host};
use hearth_test_guests::Guest;
use serde_json::json;

use crate::node::{Group, Node, call, free_port, plain, program, refusal};

/// What no engine and no compile helper does for anybody.
const REFUSED: [&str; 32] = [
    "execve",
    "execveat",
    "fork",
    "ptrace",
    "process_vm_readv",
    "mount",
    "umount",
    "pivot_root",
    "chroot",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "keyctl",
    "setuid",
    "setgid",
    "setgroups",
    "capset",
    "unshare",
    "setns",
    "kill",
    "tgkill",
    "pidfd_send_signal",
    "reboot",
    "init_module",
    "socket-unix",
    "socket-netlink",
    "socket-packet",
    "socket-vsock",
    // Not by the filter of system calls, but by what there is to see and to write to.
    "open",
    "open-of-parent",
    "create",
];

fn body(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn each_escape_from_an_engine_is_refused() {
    let node = Node::with_engine(program("backdoored-engine")).await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    node.create("agent", Guest::Backdoor, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let engine = node.engine_pid("agent", &[]).await;
    // The door works: this is what engines need, and may.
    assert_eq!(attempt(port, "socket-inet").await, "done");
    for name in REFUSED {
        let expected = match name {
            "open" | "open-of-parent" => "ENOENT",
            "create" => "EROFS",
            _ => "EPERM",
        };
        assert_eq!(attempt(port, name).await, expected, "{name}");
    }
    // C libraries take this for an old kernel, and make threads otherwise.
    assert_eq!(attempt(port, "clone3").await, "ENOSYS");
    assert_eq!(attempt(port, "root").await, "dev hearth-engine proc");
    // An engine of the same user beside it, as another pod has one.
    let beside = plain(&["agent"], &[&format!("PORT={}", free_port())]);
    node.create("beside", Guest::Hello, &beside).await.unwrap();
    node.start_task("beside").await.unwrap();
    let beside = node.engine_pid("beside", &[]).await.to_string();
    let others = attempt(port, "others").await;
    assert!(!others.split(' ').any(|other| other == beside), "{others}");
    assert_eq!(
        node.engine_pid("agent", &[]).await,
        engine,
        "it lived through all that"
    );
}

async fn attempt(port: u16, name: &str) -> String {
    // Hyper's chunks would be in the way of a shorter text: the answers have no length.
    let answer = call(port, &format!("/{name}")).await;
    let body = body(&answer);
    match answer.to_lowercase().contains("transfer-encoding: chunked") {
        true => body
            .lines()
            .skip(1)
            .step_by(2)
            .next()
            .unwrap_or_default()
            .to_owned(),
        false => body.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compile_helper_may_do_less_still() {
    let node = Node::with_engine(program("backdoored-engine")).await;
    let names = REFUSED.into_iter().chain(["root", "socket-inet"]);
    for (at, name) in names.enumerate() {
        let (id, image) = (format!("c{at}"), format!("registry.example.com/{name}:1"));
        node.store
            .put(&image, format!("backdoor:{name}").into_bytes());
        node.store.container(&id, &image);
        let spec = plain(&["agent"], &[]);
        let request = node.request(&id, &spec);
        let (_, sentence) = refusal(node.task.create(crate::node::unbounded(), &request).await);
        assert!(sentence.ends_with("EPERM"), "{name}: {sentence}");
    }
}

/// Whether an engine is up and serves a function, with one warm instance.
fn serves(name: &'static str) -> impl Fn(&Board) -> bool {
    move |board| {
        let report = board.functions.get(name);
        board.down.is_none() && report.is_some_and(|report| report.answers && report.warm == 1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_engines_die_of_is_kept_away_and_the_others_run_on() {
    let node = Node::start().await;
    let [metrics, poison, hello] = [free_port(), free_port(), free_port()];
    let mut host = node.host_of(program("backdoored-engine"), metrics).await;
    host.desired.send_modify(|desired| {
        desired.started = true;
        for wanted in [
            node.wanted(Guest::Backdoor, 1, poison),
            node.wanted(Guest::Hello, 1, hello),
        ] {
            let uid = wanted.function.key.uid.clone();
            desired.functions.insert(uid, wanted);
        }
    });
    let crashed = |times| move |board: &Board| board.deaths == times;
    for times in 1..=3 {
        node.board(&mut host, serves("backdoor")).await;
        node.board(&mut host, serves("hello-c")).await;
        assert_eq!(
            call(poison, "/crash").await,
            "",
            "the engine ends with the call in it"
        );
        node.board(&mut host, crashed(times)).await;
    }
    let board = node.board(&mut host, serves("hello-c")).await;
    let report = &board.functions["backdoor"];
    let failure = report.failure.clone().unwrap();
    assert_eq!(
        (failure.reason.as_str(), report.answers),
        ("Quarantined", false)
    );
    assert!(
        failure.message.contains("after 10 s"),
        "{}",
        failure.message
    );
    assert!(call(hello, "/").await.starts_with("HTTP/1.1 200"));
    // Nobody waits for it.
    tokio::net::TcpStream::connect(("127.0.0.1", poison))
        .await
        .unwrap_err();
    // It is changed, and served at once.
    host.desired.send_modify(|desired| {
        let wanted = desired.functions.get_mut("backdoor").unwrap();
        wanted.function.generation += 1;
    });
    node.board(&mut host, serves("backdoor")).await;
    assert_eq!(attempt(poison, "setuid").await, "EPERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_takes_its_engines_memory_is_kept_away_too() {
    let node = Node::start().await;
    let group = Group::new(128 << 20);
    let [metrics, poison, hello] = [free_port(), free_port(), free_port()];
    // Nothing bounds guests before the group does, as when the host takes memory for them that is not theirs.
    let mut parts = node.parts(program("hearth-engine"), metrics);
    parts.setup.cgroup = Some(group.0.clone());
    let mut host = Host::start(parts, Desired::default());
    let mut hoarder = node.wanted(Guest::Mischief, 1, poison);
    hoarder.function.limits.memory_bytes = (1 << 30).try_into().unwrap();
    host.desired.send_modify(|desired| {
        desired.started = true;
        for wanted in [hoarder, node.wanted(Guest::Hello, 1, hello)] {
            let uid = wanted.function.key.uid.clone();
            desired.functions.insert(uid, wanted);
        }
    });
    for times in 1..=3 {
        node.board(&mut host, serves("mischief")).await;
        node.board(&mut host, serves("hello-c")).await;
        assert_eq!(call(poison, "/hoard").await, "", "the kernel ends it");
        let died = move |board: &Board| board.deaths == times;
        node.board(&mut host, died).await;
    }
    let board = node.board(&mut host, serves("hello-c")).await;
    let report = &board.functions["mischief"];
    let failure = report.failure.clone().unwrap();
    assert_eq!(
        (failure.reason.as_str(), report.answers),
        ("Quarantined", false)
    );
    let message = failure.message;
    assert!(message.contains("resources.limits.memory"), "{message}");
    assert!(call(hello, "/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_engine_of_a_pod_that_names_its_user_sees_as_little() {
    let node = Node::with_engine(program("backdoored-engine")).await;
    let port = free_port();
    let mut spec = plain(&["agent"], &[&format!("PORT={port}")]);
    spec["process"]["user"] = json!({"uid": 1000, "gid": 3000, "additionalGids": [2000]});
    node.create("agent", Guest::Backdoor, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    for (name, expected) in [("root", "dev hearth-engine proc"), ("setuid", "EPERM")] {
        assert_eq!(attempt(port, name).await, expected, "{name}");
    }
}
