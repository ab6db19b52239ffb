//! The way back: what failed, what was put back, and what the error says of it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::containerd::{CONFIG, Restart};
use crate::harness::{DROP_IN, ENGINE, File, Node, PENDING, SHIM, SHIM_CONFIG, refused, shim};

const UNTOUCHED: &str =
    "node n1 was not changed (what was there before was put back; containerd was not touched)";
const PUT_BACK: &str =
    "node n1 was not changed (what was there before was put back, and containerd answers)";
const NOT_PUT_BACK: &str =
    "node n1 WAS LEFT HALF CHANGED: PUTTING BACK WHAT WAS THERE BEFORE FAILED TOO";
const LOOK: &str = "look at `journalctl --unit=containerd.service` on the node";

#[tokio::test]
async fn a_configuration_that_containerd_refuses_is_taken_back_without_a_restart() {
    let check = async |node: Node| {
        let before = node.files();
        node.containerd.refuses(Some("no such plugin"));
        let refuses = "containerd refuses the new configuration: no such plugin";
        refused(node.install().await, &[UNTOUCHED, LOOK, refuses]);
        assert_eq!(node.files(), before);
        assert_eq!(node.containerd.take_restarts(), 0);
        assert!(node.containerd.is_current());

        node.containerd.refuses(None);
        node.install().await.unwrap();
    };
    check(Node::empty().await).await;
    check(Node::outdated().await).await;
    let unconfigured = Node::empty().await;
    fs::remove_file(unconfigured.path(CONFIG)).unwrap();
    unconfigured.containerd.run().await;
    check(unconfigured).await;
}

#[tokio::test]
async fn a_restart_without_the_runtime_is_taken_back_with_another() {
    let check = async |node: Node, first: Restart, says: &str| {
        let before = node.files();
        node.containerd.restarts_next([first]);
        refused(node.install().await, &[PUT_BACK, LOOK, says]);
        assert_eq!(node.files(), before, "{first:?}");
        assert_eq!(node.containerd.take_restarts(), 2, "{first:?}");
        assert!(node.containerd.is_current(), "{first:?}");
    };
    for (first, says) in [
        (
            Restart::ListsNothing,
            "it answers, but offers no runtime hearth",
        ),
        (Restart::Silences, "dial containerd's socket"),
        (
            Restart::Fails,
            "containerd was not restarted: the unit has failed",
        ),
    ] {
        check(Node::empty().await, first, says).await;
        check(Node::outdated().await, first, says).await;
    }
}

#[tokio::test]
async fn a_way_back_that_fails_too_is_said_loudly_and_tried_again() {
    let check = async |node: Node, restarts: [Restart; 2]| {
        let mut expected = node.files();
        let pending = File {
            text: String::new(),
            mode: 0o644,
        };
        expected.insert(PENDING.to_owned(), pending);
        node.containerd.restarts_next(restarts);
        let error = refused(node.install().await, &[NOT_PUT_BACK, LOOK]);
        assert!(!error.contains("was not changed"), "{error}");
        assert_eq!(node.files(), expected, "{restarts:?}");
        assert_eq!(node.containerd.take_restarts(), 2, "{restarts:?}");

        // Somebody looks after containerd; the next run does the rest.
        node.containerd.run().await;
        node.install().await.unwrap();
        assert_eq!(node.containerd.take_restarts(), 1, "{restarts:?}");
        assert!(node.containerd.is_current(), "{restarts:?}");
        assert_eq!(node.read(PENDING), None, "{restarts:?}");
    };
    for restarts in [
        [Restart::Fails, Restart::Fails],
        [Restart::ListsNothing, Restart::Silences],
        [Restart::Silences, Restart::Fails],
    ] {
        check(Node::empty().await, restarts).await;
        check(Node::outdated().await, restarts).await;
    }
}

#[tokio::test]
async fn a_restart_that_is_owed_outlives_a_refused_configuration() {
    let node = Node::abandoned().await;
    let before = node.files();
    node.containerd.refuses(Some("no such plugin"));
    refused(node.install().await, &[UNTOUCHED]);
    assert_eq!(node.files(), before, "the restart is still pending");

    node.containerd.refuses(None);
    node.install().await.unwrap();
    assert_eq!(node.containerd.take_restarts(), 1);
    assert!(node.containerd.is_current());
    assert_eq!(node.read(PENDING), None);
}

#[tokio::test]
async fn a_restart_on_the_way_back_is_the_one_that_was_owed() {
    let node = Node::abandoned().await;
    node.containerd.restarts_next([Restart::ListsNothing]);
    refused(node.install().await, &[PUT_BACK]);
    assert_eq!(node.containerd.take_restarts(), 2);
    assert!(node.containerd.is_current());
    assert_eq!(node.read(PENDING), None);
    assert!(node.install().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_main_file_that_is_a_link_is_its_makers() {
    let node = Node::empty().await;
    fs::rename(node.path(CONFIG), node.path("/etc/containerd/made.toml")).unwrap();
    symlink("made.toml", node.path(CONFIG)).unwrap();
    let before = node.files();
    refused(node.install().await, &[UNTOUCHED, "it is a symbolic link"]);
    assert_eq!(node.files(), before);
    assert!(node.path(CONFIG).is_symlink());
    assert_eq!(node.containerd.take_restarts(), 0);
}

#[tokio::test]
async fn a_program_that_cannot_be_replaced_stays() {
    let check = async |sabotage: fn(&Node)| {
        let node = Node::outdated().await;
        sabotage(&node);
        let before = node.files();
        let replace = "replace /opt/hearth/bin/hearth-engine of the host";
        refused(node.install().await, &[UNTOUCHED, replace]);
        assert_eq!(node.files(), before);
        assert_eq!(node.containerd.take_restarts(), 0);
    };
    // It cannot be kept under its second name.
    check(|node| fs::create_dir(node.path(&format!("{ENGINE}.previous"))).unwrap()).await;
    // It can, and then the new one is not there to be moved.
    check(|node| {
        let lost = node.path(&format!("{ENGINE}.new"));
        node.payload(
            "engine 2",
            &format!("#!/bin/sh\nrm '{}'\necho shim 2\n", lost.display()),
        );
    })
    .await;
}

#[tokio::test]
async fn what_can_be_put_back_is_where_something_cannot() {
    let node = Node::outdated().await;
    // Meanwhile the main file became a link, and the shim runs beside its place only.
    let main = node.path(CONFIG);
    let shim_of_a_changing_node = format!(
        "#!/bin/sh\ncase $0 in *.new) echo shim 2 ;; *) mv '{main}' '{main}.made'; ln -s config.toml.made '{main}'; exit 1 ;; esac\n",
        main = main.display()
    );
    node.payload("engine 2", &shim_of_a_changing_node);
    // The owner's file has no import yet, so that it is one of those that change.
    let own = node.read(CONFIG).unwrap().replace("hearth*", "other*");
    node.write(CONFIG, &own);
    let before = node.files();

    refused(
        node.install().await,
        &[NOT_PUT_BACK, "it is a symbolic link", "-info` ended with"],
    );
    let after = node.files();
    for path in [ENGINE, SHIM, SHIM_CONFIG, DROP_IN] {
        assert_eq!(after.get(path), before.get(path), "{path}");
    }
    // Without a restart, containerd would go on with what failed.
    assert_eq!(node.containerd.take_restarts(), 2);
    assert!(node.containerd.is_current());
    assert!(after.contains_key(PENDING));

    // Its owner takes the link away, and the next run does the rest.
    fs::remove_file(&main).unwrap();
    node.write(CONFIG, &own);
    node.payload("engine 2", &shim("2"));
    node.install().await.unwrap();
    assert_eq!(node.read(PENDING), None);
}
