//! What a plain pod's author asks for and gets: arguments, exit codes, last words, volumes.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use hearth_test_guests::Guest;
use serde_json::{Value, json};

use crate::node::{Node, call, free_port, plain, refusal};

/// Runs a command to its end: its exit code.
async fn run(node: &Node, id: &str, spec: &Value) -> u32 {
    node.create(id, Guest::Command, spec).await.unwrap();
    node.start_task(id).await.unwrap();
    node.wait(id).await.unwrap()
}

#[tokio::test]
async fn a_command_gets_arguments_and_environment_and_its_code_is_the_containers() {
    let node = Node::start().await;
    let spec = plain(
        &["command", "7", "two words"],
        &["GREETING=moin", "PATH=/bin"],
    );
    // WASI 0.2 tells no more than that it is not 0.
    assert_eq!(run(&node, "job", &spec).await, 1);
    let log = node.log("job");
    assert!(log.contains("argument two words"), "{log}");
    assert!(log.contains("greeting moin"), "{log}");
    assert_eq!(node.delete("job").await.unwrap(), 1);
}

#[tokio::test]
async fn a_trap_is_the_containers_last_word_with_the_names_of_its_functions() {
    let node = Node::start().await;
    let (spec, file) = node.with_last_words(plain(&["command", "trap"], &[]));
    assert_eq!(run(&node, "job", &spec).await, 134);
    let said = std::fs::read_to_string(file).unwrap();
    assert!(said.contains("unreachable"), "{said}");
    assert!(
        said.contains("give_up"),
        "the function that trapped: {said}"
    );
    node.heard.ends_with(&["/tasks/exit 134"]).await;
}

#[tokio::test]
async fn a_guest_that_wants_more_memory_than_it_may_have_ends_as_out_of_memory() {
    let node = Node::start().await;
    let (spec, file) = node.with_last_words(plain(&["command", "hoard"], &[]));
    assert_eq!(run(&node, "job", &spec).await, 137);
    let said = std::fs::read_to_string(file).unwrap();
    assert!(said.contains("memory limit"), "{said}");
    node.heard
        .ends_with(&["/tasks/oom", "/tasks/exit 137"])
        .await;
}

/// A folder of the test's as a volume, for every user or for none but its group.
fn volume(node: &Node, name: &str, mode: u32) -> PathBuf {
    let folder = node.dir.path().join("volumes").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
    folder
}

fn mounted(args: &[&str], mounts: Value) -> Value {
    let mut spec = plain(args, &[]);
    spec["mounts"] = mounts;
    spec
}

#[tokio::test]
async fn a_volume_is_read_and_only_a_writable_one_is_written() {
    let node = Node::start().await;
    let (config, scratch) = (
        volume(&node, "config", 0o777),
        volume(&node, "scratch", 0o777),
    );
    // As kubelet lays a ConfigMap out.
    std::fs::create_dir(config.join("..1")).unwrap();
    std::fs::write(config.join("..1/agent.conf"), "temperature 0").unwrap();
    symlink("..1", config.join("..data")).unwrap();
    symlink("..data/agent.conf", config.join("agent.conf")).unwrap();
    let mounts = json!([
        {"destination": "/etc/agent", "type": "bind", "source": config, "options": ["rbind", "ro"]},
        {"destination": "/scratch", "type": "bind", "source": scratch, "options": ["rbind", "rw"]},
    ]);
    for (id, args, code) in [
        ("reads", &["c", "read", "/etc/agent/agent.conf"][..], 0),
        ("writes", &["c", "write", "/scratch/out", "done"][..], 0),
        ("read-only", &["c", "write", "/etc/agent/out", "x"][..], 1),
        (
            "outside",
            &["c", "read", "/scratch/../../config/agent.conf"][..],
            1,
        ),
        ("not-mounted", &["c", "read", "/etc/passwd"][..], 1),
    ] {
        let spec = mounted(args, mounts.clone());
        assert_eq!(run(&node, id, &spec).await, code, "{id}: {}", node.log(id));
    }
    assert!(node.log("reads").contains("read temperature 0"));
    assert_eq!(
        std::fs::read_to_string(scratch.join("out")).unwrap(),
        "done"
    );
    assert!(!config.join("out").exists());
}

#[tokio::test]
async fn a_guest_has_the_rights_of_the_pods_user_and_groups() {
    let node = Node::start().await;
    let ours = volume(&node, "ours", 0o770);
    std::os::unix::fs::chown(&ours, Some(0), Some(2000)).unwrap();
    let mounts = json!([
        {"destination": "/data", "type": "bind", "source": ours, "options": ["rbind", "rw"]},
    ]);
    for (id, user, code) in [
        (
            "nobody",
            json!({"uid": 0, "gid": 0, "additionalGids": [0]}),
            1,
        ),
        (
            "fs-group",
            json!({"uid": 1000, "gid": 0, "additionalGids": [0, 2000]}),
            0,
        ),
        ("run-as-group", json!({"uid": 1000, "gid": 2000}), 0),
    ] {
        let mut spec = mounted(&["c", "write", "/data/out", id], mounts.clone());
        spec["process"]["user"] = user;
        assert_eq!(run(&node, id, &spec).await, code, "{id}: {}", node.log(id));
    }
    let owner = std::fs::metadata(ours.join("out")).unwrap();
    assert_eq!(owner.uid(), 1000);
}

#[tokio::test]
async fn a_volume_that_cannot_be_given_is_a_reason_not_to_start() {
    let node = Node::start().await;
    let file = volume(&node, "config", 0o755).join("agent.conf");
    std::fs::write(&file, "").unwrap();
    let mounts = json!([{"destination": "/etc/agent.conf", "type": "bind", "source": file}]);
    let spec = mounted(&["c", "0"], mounts);
    let (code, sentence) = refusal(node.create("job", Guest::Command, &spec).await);
    assert_eq!(code, ttrpc::Code::INVALID_ARGUMENT);
    assert!(
        sentence.contains("/etc/agent.conf is a single file"),
        "{sentence}"
    );
}

#[tokio::test]
async fn several_bundles_share_a_pod_and_its_ports() {
    let node = Node::start().await;
    node.pause().await;
    let ports = [free_port(), free_port()];
    for (id, port) in ["one", "two"].into_iter().zip(ports) {
        let spec = plain(
            &["agent"],
            &[&format!("PORT={port}"), &format!("GREETING={id}")],
        );
        node.create(id, Guest::Hello, &spec).await.unwrap();
        node.start_task(id).await.unwrap();
    }
    let taken = plain(&["agent"], &[&format!("PORT={}", ports[0])]);
    node.create("three", Guest::Hello, &taken).await.unwrap();
    let (_, sentence) = refusal(node.start_task("three").await);
    assert!(sentence.contains(&ports[0].to_string()), "{sentence}");
    // One ends, and the other answers.
    node.kill("one", 9).await.unwrap();
    assert_eq!(node.wait("one").await.unwrap(), 137);
    assert!(call(ports[1], "/").await.contains("two, world"));
}

#[tokio::test]
async fn an_engine_has_no_rights_and_cannot_get_any() {
    let node = Node::start().await;
    let spec = plain(&["agent"], &[&format!("PORT={}", free_port())]);
    node.create("agent", Guest::Hello, &spec).await.unwrap();
    node.start_task("agent").await.unwrap();
    let engine = node.engine_pid("agent", &[]).await;
    let status = std::fs::read_to_string(format!("/proc/{engine}/status")).unwrap();
    for line in [
        "Uid:\t64532\t64532\t64532\t64532",
        "Gid:\t64532\t64532\t64532\t64532",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line:?} is not in\n{status}");
    }
    let groups = status.lines().find(|line| line.starts_with("Groups:"));
    assert_eq!(groups.unwrap().trim(), "Groups:");
    let limits = std::fs::read_to_string(format!("/proc/{engine}/limits")).unwrap();
    for name in [
        "Max core file size",
        "Max locked memory",
        "Max pending signals",
        "Max msgqueue size",
        "Max nice priority",
        "Max realtime priority",
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap().split_whitespace().take(2);
        assert_eq!(line.collect::<Vec<_>>(), ["0", "0"], "{name} in\n{limits}");
    }
    let environment = std::fs::read(format!("/proc/{engine}/environ")).unwrap();
    assert!(environment.is_empty());
}
