//! The shim's long life: one process for a pod, serving the Task API on a socket that `start` bound for it.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use containerd_shim::Flags;
use containerd_shim_protos::shim_async::create_task;
use ttrpc::asynchronous::{Server, Service};

use crate::config::Config;
use crate::containerd::Containerd;
use crate::events::Events;
use crate::pod::Pod;
use crate::task::TaskService;

/// The word on the command line.
pub const ACTION: &str = "serve";
/// Variable with containerd's ttrpc address.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

const V3: &str = "containerd.task.v3.Task";
const V2: &str = "containerd.task.v2.Task";

/// A shim that got no container so long after its start, or lost the last and was not told to go, goes.
const IDLE: Duration = Duration::from_secs(300);
/// How long the last events may take.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until no container is left and containerd says goodbye.
pub async fn run(flags: Flags, config: Config, ttrpc_address: String) -> anyhow::Result<()> {
    // The bound socket is our standard input; keep it from children.
    let listener = UnixListener::from(
        std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("standard input is no socket; this is started by the action start")?,
    );
    let containerd = Containerd::new(&flags.address, &flags.namespace)?;
    let (events, sender) = Events::start(ttrpc_address, flags.namespace.clone());
    let pod = Arc::new(Pod::new(config, containerd, events.clone()));
    let mut server = Server::new()
        .add_listener(listener.try_into().context("the socket cannot be served")?)
        .register_service(services(&pod));
    server.start().await.context("serving")?;
    tracing::info!(id = flags.id, "serving");

    tokio::select! {
        () = pod.exit.cancelled() => {}
        () = idle(&pod) => tracing::warn!("no container came or the last one was forgotten"),
    }
    if let Err(error) = server.shutdown().await {
        tracing::debug!(%error, "server did not end cleanly");
    }
    drop(server);
    drop(pod);
    drop(events);
    if tokio::time::timeout(LAST_EVENTS, sender).await.is_err() {
        tracing::warn!("last events were not taken by containerd");
    }
    let path = socket_path(&flags.socket);
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path, %error, "socket was not removed");
    }
    Ok(())
}

/// Both versions of the Task service on one pod.
pub fn services(pod: &Arc<Pod>) -> HashMap<String, Service> {
    let mut services = create_task(Arc::new(TaskService::new(pod.clone())));
    let again = create_task(Arc::new(TaskService::new(pod.clone())));
    services.extend(again.into_values().map(|service| (V2.to_owned(), service)));
    debug_assert!(
        services.contains_key(V3),
        "containerd-shim-protos serves v3"
    );
    services
}

/// The file of a socket's address.
pub fn socket_path(address: &str) -> &str {
    address.strip_prefix("unix://").unwrap_or(address)
}

async fn idle(pod: &Pod) {
    let mut empty_before = false;
    loop {
        tokio::time::sleep(IDLE).await;
        let empty = pod.is_empty();
        if empty && empty_before {
            return;
        }
        empty_before = empty;
    }
}
