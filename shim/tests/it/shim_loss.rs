//! The shim itself is killed, and containerd executes `delete` for each of its containers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use containerd_shim_protos::api::{CreateTaskRequest, PidsRequest, StartRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use hearth_test_guests::Guest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::node::{Node, engine, eventually, free_port, plain, runs, unbounded};

const SHIM: &str = "containerd-shim-hearth-v1";

/// Installs the shim in a node's folder, so that its state is there too.
fn install(node: &Node) -> PathBuf {
    let bin = node.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let shim = bin.join(SHIM);
    for (from, to) in [
        (
            Path::new(env!("CARGO_BIN_EXE_containerd-shim-hearth-v1")),
            shim.clone(),
        ),
        (&engine(), bin.join("hearth-engine")),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    let state = node.dir.path().join("state");
    let settings = format!("state_dir = {:?}\n", state.display().to_string());
    std::fs::write(node.dir.path().join("shim.toml"), settings).unwrap();
    shim
}

/// Executes an action the way containerd 2.3 does, and returns what it printed.
fn act(shim: &Path, node: &Node, action: &str, id: &str, bundle: &Path) -> Vec<u8> {
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    let sockets = node.dir.path().join("s");
    let params = BootstrapParams {
        instance_id: id.to_owned(),
        namespace: "k8s.io".to_owned(),
        containerd_grpc_address: path("containerd.sock"),
        containerd_ttrpc_address: path("events.sock"),
        socket_dir: Some(sockets.display().to_string()),
        ..BootstrapParams::default()
    };
    let mut child = Command::new(shim)
        .args(["-namespace", "k8s.io", "-id", id])
        .args(["-address", &path("containerd.sock")])
        .args(["-publish-binary", "/bin/false", "-bundle"])
        .arg(bundle)
        .arg(action)
        .current_dir(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = params.write_to_bytes().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{action}: {output:?}");
    output.stdout
}

fn of_pod(mut spec: Value, kind: &str, words: &Path) -> Value {
    spec["annotations"]["io.kubernetes.cri.container-type"] = json!(kind);
    spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("pause");
    spec["annotations"]["io.kubernetes.cri.sandbox-uid"] = json!("u-1");
    spec["mounts"] = json!([{"destination": "/dev/termination-log", "source": words}]);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_ends_and_clears_what_a_killed_shim_left() {
    let node = Node::start().await;
    let shim = install(&node);
    let folder = node.dir.path().join("pods/u-1/containers/agent");
    std::fs::create_dir_all(&folder).unwrap();
    let words = folder.join("1f2e");
    std::fs::write(&words, "").unwrap();
    let port = format!("PORT={}", free_port());
    let spec = of_pod(plain(&["agent"], &[&port]), "container", &words);
    let pause = of_pod(json!({}), "sandbox", &words);
    let bundle = node.bundle("agent", &spec);
    let sandbox = node.bundle("pause", &pause);
    let image = "registry.example.com/hello-c:1";
    node.store.put(image, Guest::Hello.wasm().unwrap());
    node.store.container("agent", image);

    let since = Instant::now();
    let started = act(&shim, &node, "start", "pause", &sandbox);
    println!("start took {:?}", since.elapsed());
    let address = BootstrapResult::parse_from_bytes(&started).unwrap().address;
    let again = act(&shim, &node, "start", "pause", &sandbox);
    let again = BootstrapResult::parse_from_bytes(&again).unwrap().address;
    assert_eq!(address, again, "a pod has one shim");
    let task = TaskClient::new(Client::connect(&address).await.unwrap());
    for (id, bundle) in [("pause", &sandbox), ("agent", &bundle)] {
        let create = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.display().to_string(),
            ..CreateTaskRequest::default()
        };
        task.create(unbounded(), &create).await.unwrap();
        let start = StartRequest {
            id: id.to_owned(),
            ..StartRequest::default()
        };
        task.start(unbounded(), &start).await.unwrap();
    }
    let request = PidsRequest {
        id: "agent".to_owned(),
        ..PidsRequest::default()
    };
    let pids = task.pids(unbounded(), &request).await.unwrap().processes;
    let [shim_pid, engine_pid] = [pids[0].pid, pids[1].pid];
    let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
    // An ordinary delete of another container of the pod takes nothing from it.
    act(&shim, &node, "delete", "pause", &sandbox);
    assert!(socket.exists());

    let pid = Pid::from_raw(shim_pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    eventually("the shim's end", || (!runs(shim_pid)).then_some(())).await;
    for (id, bundle) in [("agent", &bundle), ("pause", &sandbox)] {
        act(&shim, &node, "delete", id, bundle);
    }
    assert!(!runs(engine_pid), "the engine is gone");
    assert!(!socket.exists(), "the socket is gone");
    let said = std::fs::read_to_string(&words).unwrap();
    assert!(said.contains("the pod's shim ended"), "{said:?}");
    // The name can be used again.
    act(&shim, &node, "start", "pause", &sandbox);
    assert!(socket.exists());
    let task = TaskClient::new(Client::connect(&address).await.unwrap());
    let shutdown = containerd_shim_protos::api::ShutdownRequest::default();
    task.shutdown(unbounded(), &shutdown).await.unwrap();
    eventually("the second shim's end", || (!socket.exists()).then_some(())).await;
}
