//! What an installation changes, and what it leaves alone.

use hearth_installer::config;
use hearth_installer::plan::PROGRAMS;

use crate::containerd::{CONFIG, Restart};
use crate::harness::{
    DROP_IN, ENGINE, File, JAVASCRIPT, Node, PENDING, SHIM, SHIM_CONFIG, refused, shim,
};

/// [`MAIN`](crate::harness::MAIN) with the one line that an installation adds.
const IMPORTING_MAIN: &str = "\
# the owner's
version = 3 # since 2.0
imports = [\"/etc/containerd/conf.d/hearth*.toml\"] # added by Hearth's installer

[plugins.'io.containerd.cri.v1.images']
  snapshotter = \"native\" # why
";

#[tokio::test]
async fn an_empty_node_gets_everything_with_one_restart() {
    let node = Node::empty().await;
    let mut expected = node.files();
    let plan = node.install().await.unwrap();
    assert_eq!(plan.programs, PROGRAMS);
    assert_eq!(node.containerd.take_restarts(), 1);
    assert!(node.containerd.is_current());

    // Byte for byte, and nothing else: no pending restart, no copy, no previous program.
    let file = |text: &str, mode| File {
        text: text.to_owned(),
        mode,
    };
    let files = node.files();
    expected.extend([
        (JAVASCRIPT.to_owned(), file("environment", 0o755)),
        (ENGINE.to_owned(), file("engine 1", 0o755)),
        (SHIM.to_owned(), file(&shim("1"), 0o755)),
        (CONFIG.to_owned(), file(IMPORTING_MAIN, 0o600)),
        (SHIM_CONFIG.to_owned(), files[SHIM_CONFIG].clone()),
        (DROP_IN.to_owned(), files[DROP_IN].clone()),
    ]);
    assert_eq!(files, expected);
    let shim_config = &files[SHIM_CONFIG].text;
    assert!(
        shim_config.contains("state_dir = \"/var/lib/hearth\"\n"),
        "{shim_config}"
    );
    let drop_in = &files[DROP_IN].text;
    let runtime_path = format!("runtime_path = \"{SHIM}\"\n");
    assert!(drop_in.contains(&runtime_path), "{drop_in}");
}

#[tokio::test]
async fn an_installed_node_is_left_alone() {
    let node = Node::installed().await;
    let (files, inodes) = (node.files(), node.inodes());
    let plan = node.install().await.unwrap();
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!((node.files(), node.inodes()), (files, inodes));
    assert_eq!(node.containerd.take_restarts(), 0);
}

#[tokio::test]
async fn new_programs_come_without_a_restart() {
    let node = Node::installed().await;
    node.payload("engine 2", &shim("2"));
    let mut expected = node.files();
    expected.get_mut(ENGINE).unwrap().text = "engine 2".to_owned();
    expected.get_mut(SHIM).unwrap().text = shim("2");
    let plan = node.install().await.unwrap();
    assert_eq!(plan.programs, PROGRAMS[1..]);
    assert_eq!(node.files(), expected);
    assert_eq!(node.containerd.take_restarts(), 0);
}

#[tokio::test]
async fn a_shim_that_does_not_run_replaces_nothing() {
    let check = async |node: Node, shim: &str, says: &str| {
        node.payload("engine 2", shim);
        let (files, inodes) = (node.files(), node.inodes());
        let not_replaced = "the new shim does not run on this node; nothing was replaced";
        refused(node.install().await, &[not_replaced, says]);
        assert_eq!((node.files(), node.inodes()), (files, inodes));
        assert_eq!(node.containerd.take_restarts(), 0);
    };
    let other_processor = "#!/bin/sh\necho 'wrong ELF class' >&2\nexit 126\n";
    check(Node::installed().await, other_processor, "wrong ELF class").await;
    check(Node::empty().await, other_processor, "wrong ELF class").await;
    let mute = "#!/bin/sh\nexit 0\n";
    check(Node::installed().await, mute, "-info answered nothing").await;
}

#[tokio::test]
async fn a_containerd_that_does_not_answer_leaves_the_node_alone() {
    let check = async |node: Node| {
        node.containerd.stop().await;
        let (files, inodes) = (node.files(), node.inodes());
        let words = [
            "nothing was changed on this node",
            "dial containerd's socket",
        ];
        refused(node.install().await, &words);
        refused(node.uninstall().await, &words);
        assert_eq!((node.files(), node.inodes()), (files, inodes));
        assert_eq!(node.containerd.take_restarts(), 0);
    };
    check(Node::empty().await).await;
    check(Node::outdated().await).await;
}

#[tokio::test]
async fn a_containerd_that_needs_a_moment_is_waited_for() {
    let install = async |deadline_seconds: u64| {
        let mut node = Node::empty().await;
        node.config.deadline_seconds = deadline_seconds;
        node.containerd.restarts_next([Restart::Hesitates]);
        node.install().await
    };
    install(60).await.unwrap();
    let not_ready = "containerd says that it is not ready: Starting plugins are loaded";
    refused(install(0).await, &[not_ready]);
}

#[tokio::test]
async fn a_restart_that_an_installer_died_before_is_made_up_for() {
    let node = Node::abandoned().await;
    assert!(!node.containerd.is_current());
    let mut expected = node.files();
    expected.remove(PENDING);
    let plan = node.install().await.unwrap();
    assert!(
        plan.programs.is_empty() && plan.writes.is_empty(),
        "{plan:?}"
    );
    assert_eq!(node.containerd.take_restarts(), 1);
    assert!(node.containerd.is_current());
    assert_eq!(node.files(), expected);

    assert!(node.install().await.unwrap().is_empty());
    assert_eq!(node.containerd.take_restarts(), 0);
}

#[tokio::test]
async fn what_an_installer_left_that_died_between_two_programs_goes() {
    let node = Node::installed().await;
    node.payload("engine 2", &shim("2"));
    let mut expected = node.files();
    expected.get_mut(ENGINE).unwrap().text = "engine 2".to_owned();
    expected.get_mut(SHIM).unwrap().text = shim("2");
    // The engine was replaced, the shim was not.
    node.write(&format!("{ENGINE}.previous"), "engine 1");
    node.write(ENGINE, "engine 2");
    node.write(&format!("{SHIM}.new"), "half a sh");
    let plan = node.install().await.unwrap();
    assert_eq!(plan.programs, PROGRAMS[2..]);
    assert_eq!(node.files(), expected);
}

#[tokio::test]
async fn a_containerd_of_its_owners_gets_a_text_and_no_file() {
    let mut node = Node::with_main("version = 3\nimports = [\"/etc/containerd/own.toml\"]\n").await;
    node.config.restart = config::Restart::Manual;
    let (files, inodes) = (node.files(), node.inodes());
    let add = "add this to containerd's configuration and restart containerd:\n";
    let look = "look at containerd's log on the node";
    let error = refused(node.install().await, &["node.restart=manual", add, look]);
    assert_eq!((node.files(), node.inodes()), (files, inodes));

    let (_, rest) = error.split_once(add).unwrap();
    let (text, _) = rest.split_once("\n: ").unwrap();
    node.write("/etc/containerd/own.toml", text);
    node.containerd.run().await;
    let mut expected = node.files();
    node.install().await.unwrap();
    let files = node.files();
    for path in [JAVASCRIPT, ENGINE, SHIM, SHIM_CONFIG] {
        expected.insert(path.to_owned(), files[path].clone());
    }
    assert_eq!(files, expected);
    assert_eq!(node.containerd.take_restarts(), 0);
}
