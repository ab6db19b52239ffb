//! Every call of containerd's Task API: its answer, or its refusal by name. `docs/shim.md` has the table.

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, ExecProcessRequest,
    KillRequest, PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StateRequest, StatsRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim_async::TaskClient;
use hearth_shim::state_file::StateFile;
use hearth_test_guests::Guest;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ttrpc::Code;

use crate::engine_loss::kill9;
use crate::node::{Node, call, eventually, free_port, limited, plain, refusal, runs, unbounded};

/// A request for the container `agent`.
macro_rules! of_agent {
    ($request:ident $(, $field:ident: $value:expr)*) => {
        $request { id: "agent".to_owned(), $($field: $value,)* ..$request::default() }
    };
}

#[tokio::test]
async fn a_pod_lives_through_every_call_that_is_answered() {
    let node = Node::start().await;
    node.pause().await;
    let port = free_port();
    let spec = plain(&["agent"], &[&format!("PORT={port}"), "GREETING=moin"]);
    let spec = limited(spec, 128 << 20);
    let group = Path::new(spec["linux"]["cgroupsPath"].as_str().unwrap()).to_owned();
    let pid = node.create("agent", Guest::Hello, &spec).await.unwrap();
    assert_eq!(pid, std::process::id(), "the shim is the task's process");
    assert_eq!(node.state("agent").await.unwrap(), "CREATED");
    assert_eq!(node.start_task("agent").await.unwrap(), pid);
    assert_eq!(node.state("agent").await.unwrap(), "RUNNING");
    let answer = call(port, "/").await;
    assert!(answer.contains("moin, world"), "{answer}");

    let task = &node.task;
    let pids = task.pids(unbounded(), &of_agent!(PidsRequest)).await;
    let pids: Vec<_> = pids
        .unwrap()
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    assert_eq!((pids[0], pids.len()), (pid, 2), "the shim and the engine");
    let connected = task.connect(unbounded(), &of_agent!(ConnectRequest)).await;
    let connected = connected.unwrap();
    assert_eq!((connected.shim_pid, connected.task_pid), (pid, pid));
    let before = memory(task).await;
    assert_eq!(before.limit, 128 << 20);
    // The engine is in it.
    assert!(before.usage > 1 << 20, "{}", before.usage);
    update_memory(task, 96 << 20).await;
    assert_eq!(memory(task).await.limit, 96 << 20);
    let close = of_agent!(CloseIORequest, stdin: true);
    task.close_io(unbounded(), &close).await.unwrap();
    // The pod has containers: containerd says so after each container's end, and nothing comes of it.
    let shutdown = of_agent!(ShutdownRequest);
    task.shutdown(unbounded(), &shutdown).await.unwrap();
    assert!(!node.pod.exit.is_cancelled());

    // A signal that servers ignore, then one that ends.
    node.kill("agent", 1).await.unwrap();
    assert_eq!(node.state("agent").await.unwrap(), "RUNNING");
    node.kill("agent", 15).await.unwrap();
    // Whoever has not heard yet that the pod goes is answered still.
    assert!(call(port, "/").await.contains("moin, world"));
    assert_eq!(node.wait("agent").await.unwrap(), 0);
    assert_eq!(node.state("agent").await.unwrap(), "STOPPED");
    assert_eq!(node.delete("agent").await.unwrap(), 0);
    assert!(!runs(pids[1]), "the engine is gone before the exit is told");
    assert!(folders(&group).is_empty(), "{:?}", folders(&group));

    node.kill("pause", 9).await.unwrap();
    assert_eq!(node.wait("pause").await.unwrap(), 137);
    assert_eq!(node.delete("pause").await.unwrap(), 137);
    task.shutdown(unbounded(), &shutdown).await.unwrap();
    eventually("the shim's own end", || {
        node.pod.exit.is_cancelled().then_some(())
    })
    .await;
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit 0",
        "/tasks/delete",
        "/tasks/exit 137",
        "/tasks/delete",
    ];
    eventually("the last event", || {
        (node.heard.all().len() == expected.len()).then_some(())
    })
    .await;
    assert_eq!(node.heard.all(), expected);
}

/// What a container's control group says of its memory.
#[derive(Debug)]
struct MemoryNow {
    usage: u64,
    limit: u64,
}

async fn memory(task: &TaskClient) -> MemoryNow {
    let stats = task.stats(unbounded(), &of_agent!(StatsRequest)).await;
    let stats = stats.unwrap().stats.unwrap();
    match stats.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let memory = v1::Metrics::parse_from_bytes(&stats.value).unwrap().memory;
            MemoryNow {
                usage: memory.usage.usage,
                limit: memory.usage.limit,
            }
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let memory = v2::Metrics::parse_from_bytes(&stats.value).unwrap().memory;
            MemoryNow {
                usage: memory.usage,
                limit: memory.usage_limit,
            }
        }
        other => panic!("{other}"),
    }
}

/// Changes the memory limit of the container `agent`, as kubelet does for a pod that is resized in place.
async fn update_memory(task: &TaskClient, bytes: u64) {
    let limits = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
        value: format!(r#"{{"memory":{{"limit":{bytes}}}}}"#).into_bytes(),
        ..Any::default()
    };
    let update = of_agent!(UpdateTaskRequest, resources: MessageField::some(limits));
    task.update(unbounded(), &update).await.unwrap();
}

/// Folders of a control group, in all hierarchies that are mounted.
fn folders(group: &Path) -> Vec<PathBuf> {
    let below = group.strip_prefix("/").unwrap();
    let mounts = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let mounts = mounts.map(|mount| mount.unwrap().path());
    let all = mounts.chain([PathBuf::from("/sys/fs/cgroup")]);
    let found = all.map(|mount| mount.join(below));
    found.filter(|folder| folder.exists()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_keep_to_a_memory_limit_that_is_changed_in_place() {
    let node = Node::start().await;
    let port = free_port();
    let mut spec = limited(plain(&["agent"], &[&format!("PORT={port}")]), 512 << 20);
    spec["annotations"]["hearth.dev/memory"] = "400Mi".into();
    node.create("agent", Guest::Mischief, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let engine = node.engine_pid("agent", &[]).await;
    update_memory(&node.task, 128 << 20).await;
    // More than the kernel gives now: it would end the engine where guests were not bounded.
    let hoarded = call(port, "/hoard").await.to_lowercase();
    assert!(
        hoarded.contains("hearth-outcome: out_of_memory"),
        "{hoarded}"
    );
    assert_eq!(node.engine_pid("agent", &[]).await, engine);
    // The next engine knows it from its start.
    kill9(engine);
    node.engine_pid("agent", &[engine]).await;
    let hoarded = call(port, "/hoard").await.to_lowercase();
    assert!(
        hoarded.contains("hearth-outcome: out_of_memory"),
        "{hoarded}"
    );
    assert_eq!(node.state("agent").await.unwrap(), "RUNNING");
    node.kill("agent", 9).await.unwrap();
    assert_eq!(node.wait("agent").await.unwrap(), 137);
}

#[tokio::test]
async fn calls_that_need_processes_are_refused_by_name() {
    let node = Node::start().await;
    node.pause().await;
    let task = &node.task;
    let id = || "pause".to_owned();
    let exec_id = || "e".to_owned();
    let exec = ExecProcessRequest {
        id: id(),
        exec_id: exec_id(),
        ..Default::default()
    };
    let resize = ResizePtyRequest {
        id: id(),
        ..Default::default()
    };
    let pause = PauseRequest {
        id: id(),
        ..Default::default()
    };
    let resume = ResumeRequest {
        id: id(),
        ..Default::default()
    };
    let checkpoint = CheckpointTaskRequest {
        id: id(),
        ..Default::default()
    };
    for (answer, word) in [
        (task.exec(unbounded(), &exec).await, "exec"),
        (task.resize_pty(unbounded(), &resize).await, "terminal"),
        (task.pause(unbounded(), &pause).await, "pause"),
        (task.resume(unbounded(), &resume).await, "resume"),
        (
            task.checkpoint(unbounded(), &checkpoint).await,
            "checkpoint",
        ),
    ] {
        let (code, sentence) = refusal(answer);
        assert_eq!(code, Code::UNIMPLEMENTED, "{sentence}");
        assert!(sentence.contains(word), "{sentence}");
    }
    let terminal = CreateTaskRequest {
        terminal: true,
        ..node.request("t", &plain(&[], &[]))
    };
    let restored = CreateTaskRequest {
        checkpoint: "/c".to_owned(),
        ..node.request("r", &plain(&[], &[]))
    };
    for request in [terminal, restored] {
        let (code, sentence) = refusal(task.create(unbounded(), &request).await);
        assert_eq!(code, Code::UNIMPLEMENTED, "{sentence}");
    }
    // What never was cannot be looked at: containerd takes NOT_FOUND for that.
    let started = StartRequest {
        id: id(),
        exec_id: exec_id(),
        ..Default::default()
    };
    let state = StateRequest {
        id: id(),
        exec_id: exec_id(),
        ..Default::default()
    };
    let killed = KillRequest {
        id: id(),
        exec_id: exec_id(),
        ..Default::default()
    };
    let waited = WaitRequest {
        id: id(),
        exec_id: exec_id(),
        ..Default::default()
    };
    for (code, sentence) in [
        refusal(task.start(unbounded(), &started).await),
        refusal(task.state(unbounded(), &state).await),
        refusal(task.kill(unbounded(), &killed).await),
        refusal(task.wait(unbounded(), &waited).await),
    ] {
        assert_eq!(code, Code::NOT_FOUND, "{sentence}");
    }
}

#[tokio::test]
async fn an_unknown_container_is_not_found_by_any_call() {
    let node = Node::start().await;
    let task = &node.task;
    let (pids, stats) = (of_agent!(PidsRequest), of_agent!(StatsRequest));
    let (connect, update) = (of_agent!(ConnectRequest), of_agent!(UpdateTaskRequest));
    for (code, sentence) in [
        refusal(node.start_task("agent").await),
        refusal(node.state("agent").await),
        refusal(node.kill("agent", 9).await),
        refusal(node.wait("agent").await),
        refusal(node.delete("agent").await),
        refusal(task.pids(unbounded(), &pids).await),
        refusal(task.stats(unbounded(), &stats).await),
        refusal(task.connect(unbounded(), &connect).await),
        refusal(task.update(unbounded(), &update).await),
        refusal(task.close_io(unbounded(), &of_agent!(CloseIORequest)).await),
    ] {
        assert_eq!(code, Code::NOT_FOUND, "{sentence}");
        assert!(sentence.contains("agent"), "{sentence}");
    }
}

#[tokio::test]
async fn what_is_asked_twice_is_done_once() {
    let node = Node::start().await;
    node.pause().await;
    let request = node.request("pause", &plain(&[], &[]));
    let again = node.task.create(unbounded(), &request).await;
    assert_eq!(refusal(again).0, Code::ALREADY_EXISTS);
    assert_eq!(
        refusal(node.start_task("pause").await).0,
        Code::FAILED_PRECONDITION
    );
    assert_eq!(
        refusal(node.delete("pause").await).0,
        Code::FAILED_PRECONDITION
    );
    node.kill("pause", 15).await.unwrap();
    // containerd takes NOT_FOUND for done, of a kill and of a delete.
    assert_eq!(refusal(node.kill("pause", 9).await).0, Code::NOT_FOUND);
    assert_eq!(node.wait("pause").await.unwrap(), 143);
    assert_eq!(node.wait("pause").await.unwrap(), 143);
    assert_eq!(node.delete("pause").await.unwrap(), 143);
    assert_eq!(refusal(node.delete("pause").await).0, Code::NOT_FOUND);
    let exits = |lines: &[String]| lines.iter().filter(|line| line.contains("exit")).count();
    eventually("an event", || (exits(&node.heard.all()) == 1).then_some(())).await;
}

#[tokio::test]
async fn a_container_that_never_started_is_deleted_and_leaves_no_process() {
    let node = Node::start().await;
    let spec = plain(&["agent"], &[&format!("PORT={}", free_port())]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    let engine = node.engine_pid("agent", &[]).await;
    assert_eq!(node.delete("agent").await.unwrap(), 0);
    eventually("the engine's end", || (!runs(engine)).then_some(())).await;
    assert_eq!(refusal(node.state("agent").await).0, Code::NOT_FOUND);
}

/// containerd gives up a create that takes longer than kubelet waits, and then deletes what may be there.
#[tokio::test]
async fn a_create_that_is_given_up_is_deleted_whole() {
    let node = Node::start().await;
    let image = "registry.example.com/slow:1";
    node.store.slow(image);
    node.store.container("agent", image);
    let spec = plain(&["agent"], &[&format!("PORT={}", free_port())]);
    let soon = ttrpc::context::with_duration(Duration::from_millis(500));
    let given_up = node.task.create(soon, &node.request("agent", &spec)).await;
    assert!(given_up.is_err());
    assert_eq!(node.state("agent").await.unwrap(), "CREATED");
    assert_eq!(
        refusal(node.start_task("agent").await).0,
        Code::FAILED_PRECONDITION
    );
    let bundle = node.dir.path().join("bundles/agent");
    let engine = StateFile::in_bundle(&bundle).noted().unwrap();
    assert!(engine.is_there());
    assert_eq!(node.delete("agent").await.unwrap(), 137);
    assert_eq!(refusal(node.delete("agent").await).0, Code::NOT_FOUND);
    eventually("the engine's end", || (!runs(engine.pid)).then_some(())).await;
    // The name is free again.
    node.create("agent", Guest::Hello, &spec).await.unwrap();
}

#[tokio::test]
async fn a_start_that_failed_is_no_start_the_second_time() {
    let node = Node::start().await;
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("::", port)).unwrap();
    let spec = plain(&["agent"], &[&format!("PORT={port}")]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    let (_, sentence) = refusal(node.start_task("agent").await);
    assert!(sentence.contains(&port.to_string()), "{sentence}");
    let (code, sentence) = refusal(node.start_task("agent").await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(sentence.contains("anew"), "{sentence}");
    assert_eq!(node.delete("agent").await.unwrap(), 0);
}
