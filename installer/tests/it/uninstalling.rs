//! What an installation brought goes, and nothing else does.

use std::fs;

use hearth_installer::config;

use crate::containerd::{CONFIG, Restart};
use crate::harness::{DROP_IN, ENGINE, MAIN, Node, PENDING, SHIM, refused};

/// A compiled bundle.
const ARTIFACT: &str = "/var/lib/hearth/artifacts/f0/d1.cwasm";
/// What a shim that still runs keeps.
const STATE: &str = "/var/lib/hearth/pods/p1.json";

/// Main files of owners.
const MAINS: [&str; 7] = [
    MAIN,
    "version = 2\nimports = [\"/etc/containerd/own.toml\"] # keep\n",
    "version = 3\n# several\nimports = [\n  \"/etc/containerd/own.toml\",\n]\n\n[grpc]\n  gid = 0\n",
    "version = 3\nimports = []\n",
    "version = 4\n[plugins]\n[plugins.'io.containerd.cri.v1.runtime']\nenable_cdi = true\n",
    "version = 2",
    "",
];

#[tokio::test]
async fn the_node_is_as_before_after_one_restart() {
    for main in MAINS {
        let node = Node::with_main(main).await;
        let mut before = node.files();
        node.install().await.unwrap();
        assert_ne!(node.read(CONFIG).unwrap(), main);
        node.containerd.take_restarts();
        node.write(ARTIFACT, "native code");
        node.write(STATE, "{}");

        node.uninstall().await.unwrap();
        // The main file is the owner's again, byte for byte; of all the rest only what is in use is left.
        before.insert(STATE.to_owned(), node.files()[STATE].clone());
        assert_eq!(node.files(), before);
        assert_eq!(node.containerd.take_restarts(), 1);
        assert!(node.containerd.is_current());

        let inodes = node.inodes();
        let plan = node.uninstall().await.unwrap();
        assert!(plan.is_empty(), "{plan:?}");
        assert_eq!((node.files(), node.inodes()), (before, inodes));
        assert_eq!(node.containerd.take_restarts(), 0);
    }
}

#[tokio::test]
async fn lines_that_the_owner_wrote_meanwhile_stay() {
    let node = Node::installed().await;
    let main = node.read(CONFIG).unwrap();
    let more = "\n[debug]\n  level = 'warn'   # ours\n";
    node.write(CONFIG, &format!("{main}{more}"));
    node.uninstall().await.unwrap();
    assert_eq!(node.read(CONFIG), Some(format!("{MAIN}{more}")));
}

#[tokio::test]
async fn without_a_restart_everything_stays() {
    let check = async |restarts: &[Restart],
                       refusal: Option<&'static str>,
                       says: &[&str],
                       restarted: usize| {
        let node = Node::installed().await;
        node.write(ARTIFACT, "native code");
        let before = node.files();
        node.containerd.restarts_next(restarts.iter().copied());
        node.containerd.refuses(refusal);
        refused(node.uninstall().await, says);
        assert_eq!(node.files(), before);
        assert_eq!(node.containerd.take_restarts(), restarted);
        assert!(node.containerd.is_current());
        // What is on the node works.
        node.containerd.refuses(None);
        assert!(node.install().await.unwrap().is_empty());
    };
    let put_back = "what was there before was put back, and containerd answers";
    let fails = "containerd was not restarted: the unit has failed";
    check(&[Restart::Fails], None, &[put_back, fails], 2).await;
    let silent = "dial containerd's socket";
    check(&[Restart::Silences], None, &[put_back, silent], 2).await;
    let untouched = "what was there before was put back; containerd was not touched";
    check(
        &[],
        Some("no such plugin"),
        &[untouched, "no such plugin"],
        0,
    )
    .await;
}

#[tokio::test]
async fn a_runtime_that_is_still_offered_keeps_its_programs() {
    let node = Node::with_main("version = 3\nimports = [\"/etc/containerd/own.toml\"]\n").await;
    node.install().await.unwrap();
    // The owner has the runtime too.
    node.write("/etc/containerd/own.toml", &node.read(DROP_IN).unwrap());
    node.containerd.run().await;
    node.containerd.take_restarts();
    let before = node.files();
    refused(
        node.uninstall().await,
        &["it still offers the runtime hearth"],
    );
    assert_eq!(node.files(), before);
    assert_eq!(node.containerd.take_restarts(), 2);
    assert!(node.containerd.is_current());
}

#[tokio::test]
async fn a_way_back_that_fails_too_is_made_up_for() {
    let node = Node::installed().await;
    let mut before = node.files();
    node.containerd
        .restarts_next([Restart::Fails, Restart::Fails]);
    refused(
        node.uninstall().await,
        &["FAILED TOO", "the unit has failed"],
    );
    before.insert(PENDING.to_owned(), node.files()[PENDING].clone());
    assert_eq!(node.files(), before);
    assert_eq!(node.containerd.take_restarts(), 2);

    node.uninstall().await.unwrap();
    assert_eq!(node.containerd.take_restarts(), 1);
    assert_eq!(node.read(PENDING), None);
    assert_eq!(node.read(SHIM), None);
}

#[tokio::test]
async fn an_uninstallation_that_died_before_its_restart_goes_on() {
    let node = Node::installed().await;
    node.write(CONFIG, MAIN);
    fs::remove_file(node.path(DROP_IN)).unwrap();
    node.write(PENDING, "");
    node.uninstall().await.unwrap();
    assert_eq!(node.containerd.take_restarts(), 1);
    assert!(node.containerd.is_current());
    assert_eq!(node.read(CONFIG).as_deref(), Some(MAIN));
    let left = node.files();
    assert!(left.keys().all(|path| !path.contains("hearth")), "{left:?}");
}

#[tokio::test]
async fn what_an_installation_left_that_died_goes_too() {
    let node = Node::installed().await;
    for name in [ENGINE, SHIM] {
        node.write(&format!("{name}.new"), "half a");
        node.write(&format!("{name}.previous"), "version 0");
    }
    node.uninstall().await.unwrap();
    let left = node.files();
    assert!(left.keys().all(|path| !path.contains("hearth")), "{left:?}");
}

#[tokio::test]
async fn a_containerd_of_its_owners_is_not_restarted() {
    // A restart is owed from the time before `manual`.
    let mut node = Node::abandoned().await;
    node.config.restart = config::Restart::Manual;
    let main = node.read(CONFIG);
    node.uninstall().await.unwrap();
    assert_eq!(node.containerd.take_restarts(), 0);
    assert_eq!(node.read(CONFIG), main);
    assert_eq!((node.read(SHIM), node.read(PENDING)), (None, None));
}
