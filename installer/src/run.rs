//! The installer's life: install, label, verify again and again, until it is told to end.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::daemon::Daemon;
use crate::host;
use crate::install::Installer;
use crate::node::Node;

/// Installs and keeps the node as installed until `shutdown`. A failure removes the label and ends it: kubelet starts it again,
/// later and later. A step that was begun is finished before the end.
pub async fn run<D: Daemon>(
    config: Config,
    daemon: D,
    node: Node,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let mut shutdown = pin!(shutdown);
    let (ready, interval) = (config.ready_file.clone(), config.interval());
    let installer = Installer::new(config, daemon);
    loop {
        if let Err(error) = verified(&installer, &node, &ready).await {
            host::remove(&ready)?;
            if let Err(label) = node.mark_unready().await {
                tracing::error!(error = %format!("{label:#}"), "the node's label was not removed");
            }
            return Err(error);
        }
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Takes everything from the node that [`run`] brought: the label first, so that no pod comes meanwhile.
pub async fn uninstall<D: Daemon>(config: Config, daemon: D, node: Node) -> Result<()> {
    let ready = config.ready_file.clone();
    node.mark_unready().await?;
    Installer::new(config, daemon).uninstall().await?;
    tracing::info!("uninstalled");
    make_file(&ready)
}

async fn verified<D: Daemon>(installer: &Installer<D>, node: &Node, ready: &Path) -> Result<()> {
    let plan = installer.install().await?;
    if plan.is_empty() && ready.exists() {
        tracing::debug!("verified");
    } else {
        let files: Vec<String> = plan
            .writes
            .iter()
            .map(|write| write.path.display().to_string())
            .collect();
        tracing::info!(programs = ?plan.programs, ?files, restarted = plan.restart, "installed and verified");
    }
    // Each time: somebody may have removed it, and the same label again writes nothing.
    node.mark_ready().await?;
    make_file(ready)
}

fn make_file(path: &Path) -> Result<()> {
    let make = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, "")
    };
    make().with_context(|| format!("write {}", path.display()))
}
