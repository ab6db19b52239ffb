//! containerd 1.7, which takes a plugin's table whole from one file: what is written there, and what becomes of it when containerd
//! gets newer or older.

use std::fs;

use hearth_installer::config;

use crate::containerd::{CONFIG, Line, Restart};
use crate::harness::{DROP_IN, Node, SHIM, refused};

/// What the node's owner wrote into containerd's main file, as `containerd config default` has it.
const MAIN: &str = "\
# the owner's
version = 2

[plugins]
  [plugins.\"io.containerd.grpc.v1.cri\"]
    sandbox_image = \"registry.example.com/pause:3\" # why
    [plugins.\"io.containerd.grpc.v1.cri\".containerd]
      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes]
        [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
          runtime_type = \"io.containerd.runc.v2\"
  [plugins.\"io.containerd.internal.v1.opt\"]
    path = \"/opt/containerd\"
";
/// The table that 1.7 reads from one file alone.
const TABLE: &str = "[plugins.'io.containerd.grpc.v1.cri']\nenable_cdi = true\n";

#[tokio::test]
async fn the_runtime_is_written_in_place_and_taken_out_again() {
    for main in [MAIN, MAIN.trim_end(), "version = 2\n", "", TABLE_ONLY] {
        let node = Node::of_1_7(main).await;
        let before = node.files();
        node.install().await.unwrap();
        assert_eq!(node.containerd.take_restarts(), 1);
        assert!(node.containerd.is_current());
        assert!(node.read(CONFIG).unwrap().starts_with(main));
        assert_eq!(node.read(DROP_IN), None);

        let inodes = node.inodes();
        assert!(node.install().await.unwrap().is_empty());
        assert_eq!(node.inodes(), inodes);

        node.uninstall().await.unwrap();
        assert_eq!(node.files(), before);
        assert_eq!(node.containerd.take_restarts(), 1);
        assert!(node.containerd.is_current());
    }
}

/// No runtime at all: containerd's own must not get lost.
const TABLE_ONLY: &str = "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nenable_cdi = true\n";

#[tokio::test]
async fn a_node_without_a_main_file_has_none_afterwards() {
    let node = Node::of_1_7(MAIN).await;
    fs::remove_file(node.path(CONFIG)).unwrap();
    node.containerd.run().await;
    let before = node.files();
    node.install().await.unwrap();
    assert!(node.read(CONFIG).is_some());
    node.uninstall().await.unwrap();
    assert_eq!(node.files(), before);
}

#[tokio::test]
async fn a_restart_without_the_runtime_is_taken_back() {
    for first in [Restart::ListsNothing, Restart::Silences, Restart::Fails] {
        let node = Node::of_1_7(MAIN).await;
        let before = node.files();
        node.containerd.restarts_next([first]);
        let put_back = "what was there before was put back, and containerd answers";
        refused(node.install().await, &[put_back]);
        assert_eq!(node.files(), before, "{first:?}");
        assert_eq!(node.containerd.take_restarts(), 2, "{first:?}");
        assert!(node.containerd.is_current(), "{first:?}");
    }
}

#[tokio::test]
async fn a_table_that_hides_the_main_files_is_seen_before_a_restart() {
    let main = format!("imports = [\"/etc/containerd/own.toml\"]\n{MAIN}");
    let node = Node::of_1_7(&main).await;
    node.write("/etc/containerd/own.toml", &format!("version = 2\n{TABLE}"));
    node.containerd.run().await;
    let before = node.files();
    let words = [
        "containerd was not touched",
        "a file that /etc/containerd/config.toml imports has the table plugins.'io.containerd.grpc.v1.cri' too",
        "set node.restart=manual",
    ];
    refused(node.install().await, &words);
    assert_eq!(node.files(), before);
    assert_eq!(node.containerd.take_restarts(), 0);

    // containerd 2 merges.
    node.containerd.becomes(Line::V2);
    node.containerd.run().await;
    node.install().await.unwrap();
}

#[tokio::test]
async fn a_runtime_of_the_owners_is_left_alone() {
    let theirs =
        "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.hearth]\nruntime_type = 'x'\n";
    let node = Node::of_1_7(&format!("{MAIN}{theirs}")).await;
    let before = node.files();
    let words = [
        "that Hearth's installer did not write",
        "set node.restart=manual",
    ];
    refused(node.install().await, &words);
    assert_eq!(node.files(), before);
    assert_eq!(node.containerd.take_restarts(), 0);
}

#[tokio::test]
async fn containerd_may_become_newer_and_older() {
    let node = Node::of_1_7(MAIN).await;
    let before = node.files();
    node.install().await.unwrap();
    node.containerd.take_restarts();
    for line in [Line::V2, Line::V1_7] {
        node.containerd.becomes(line);
        node.containerd.run().await;
        let (files, inodes) = (node.files(), node.inodes());
        assert!(node.install().await.unwrap().is_empty(), "{line:?}");
        assert_eq!((node.files(), node.inodes()), (files, inodes));
        assert_eq!(node.containerd.take_restarts(), 0);
    }
    node.containerd.becomes(Line::V2);
    node.containerd.run().await;
    node.uninstall().await.unwrap();
    assert_eq!(node.files(), before);
}

#[tokio::test]
async fn a_configuration_that_becomes_newer_and_older_is_followed() {
    let node = Node::of_1_7(MAIN).await;
    node.install().await.unwrap();
    let in_place = node.files();

    // Its owner migrates it for containerd 2, and keeps what is there.
    node.containerd.becomes(Line::V2);
    let newer = |text: String| {
        text.replace("version = 2", "version = 3")
            .replace("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
    };
    node.write(CONFIG, &newer(node.read(CONFIG).unwrap()));
    node.containerd.run().await;
    node.install().await.unwrap();
    assert!(node.containerd.is_current());
    let main = node.read(CONFIG).unwrap();
    assert!(
        main.contains("imports = ") && !main.contains("runtimes.hearth"),
        "{main}"
    );
    assert!(node.read(DROP_IN).is_some());

    // And back. The import finds a file that 1.7 does not read, so it goes first.
    let older = main
        .replace("version = 3", "version = 2")
        .replace("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri");
    node.write(CONFIG, &older);
    node.containerd.run().await;
    node.install().await.unwrap();
    assert_eq!(node.files(), in_place);
    node.containerd.becomes(Line::V1_7);
    node.containerd.run().await;
    assert!(node.install().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_drop_in_of_before_is_replaced() {
    // As installers wrote it that knew containerd 2 alone.
    let node = Node::with_main(MAIN).await;
    node.install().await.unwrap();
    let in_place = node.files();
    let main = format!(
        "imports = [\"/etc/containerd/conf.d/hearth*.toml\"] # added by Hearth's installer\n{MAIN}"
    );
    node.write(CONFIG, &main);
    node.write(
        DROP_IN,
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.hearth]\n",
    );
    node.containerd.run().await;
    node.containerd.take_restarts();
    node.install().await.unwrap();
    assert_eq!(node.files(), in_place);
    assert_eq!(node.containerd.take_restarts(), 1);
}

#[tokio::test]
async fn a_containerd_of_its_owners_gets_a_text_that_it_reads() {
    let mut node = Node::of_1_7(MAIN).await;
    node.config.restart = config::Restart::Manual;
    let error = refused(node.install().await, &["node.restart=manual: add this"]);
    let table = error.split_once("version = 2\n").unwrap().1;
    let (table, _) = table.split_once("\n: ").unwrap();
    node.write(CONFIG, &format!("{MAIN}{table}"));
    node.containerd.run().await;
    node.install().await.unwrap();
    assert!(node.read(SHIM).is_some());
    assert_eq!(node.containerd.take_restarts(), 0);
}
