//! The life around installations: the node's label and the ready file go with them.

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};

use hearth_api::NODE_READY_LABEL;
use hearth_installer::node;
use hearth_installer::run::{run, uninstall};
use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{DROP_IN, Node, refused};

/// The Node object, at an API server that answers with a status what `answer` makes of each new value of the label.
fn labelled(
    answer: impl Fn(Option<&str>) -> StatusCode + Clone + Send + Sync + 'static,
) -> node::Node {
    let server = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            assert_eq!(request.uri().path(), "/api/v1/nodes/n1");
            let body = request.into_body().collect_bytes().await.unwrap();
            let patch: Value = serde_json::from_slice(&body).unwrap();
            let status = answer(patch["metadata"]["labels"][NODE_READY_LABEL].as_str());
            let object = json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata",
                "metadata": {"name": "n1"},
            });
            let mut response = Response::new(Body::from(object.to_string().into_bytes()));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    node::Node::new(kube::Client::new(server, "default"), "n1")
}

#[tokio::test]
async fn label_and_ready_file_are_there_while_the_node_is_verified() {
    let node = Node::empty().await;
    let labels = Arc::new(Mutex::new(Vec::new()));
    let run_once = async || {
        let labels = labels.clone();
        let object = labelled(move |label| {
            labels.lock().unwrap().push(label.map(str::to_owned));
            StatusCode::OK
        });
        run(node.config.clone(), &node.containerd, object, ready(())).await
    };
    run_once().await.unwrap();
    assert_eq!(*labels.lock().unwrap(), [Some("true".to_owned())]);
    assert!(node.config.ready_file.exists());

    node.containerd.stop().await;
    refused(run_once().await, &["nothing was changed on this node"]);
    assert_eq!(*labels.lock().unwrap(), [Some("true".to_owned()), None]);
    assert!(!node.config.ready_file.exists());
}

#[tokio::test]
async fn the_label_goes_before_what_it_promises() {
    let node = Node::installed().await;
    let attempt = async |status: StatusCode| {
        let drop_in = node.path(DROP_IN);
        let object = labelled(move |label| {
            assert_eq!(label, None);
            assert!(drop_in.exists());
            status
        });
        uninstall(node.config.clone(), &node.containerd, object).await
    };
    let before = node.files();
    refused(attempt(StatusCode::FORBIDDEN).await, &["label node n1"]);
    assert_eq!(node.files(), before);
    assert!(!node.config.ready_file.exists());

    attempt(StatusCode::OK).await.unwrap();
    assert_eq!(node.read(DROP_IN), None);
    assert!(node.config.ready_file.exists());
}
