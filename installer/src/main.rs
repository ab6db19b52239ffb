//! `hearth-installer run | uninstall | ready`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use hearth_installer::config::Config;
use hearth_installer::daemon::{self, HostDaemon};
use hearth_installer::node::Node;
use hearth_installer::run;

/// Puts Hearth on this node, or takes it away.
#[derive(Parser)]
#[command(version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install, verify, label the node, and keep it so until SIGTERM.
    Run(Config),
    /// Remove the label, the configuration and the files.
    Uninstall {
        #[command(flatten)]
        config: Config,
        /// Wait for SIGTERM afterwards, as pods of a DaemonSet must.
        #[arg(long)]
        stay: bool,
    },
    /// Succeed where the node is verified; for a probe.
    Ready {
        /// The file that `run` makes.
        #[arg(long, default_value = "/run/hearth-installer/ready")]
        ready_file: PathBuf,
    },
    /// Become a program of the host, in the mount namespace of a process.
    #[command(hide = true)]
    Enter {
        #[arg(long)]
        pid: u32,
        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let command = Line::parse().command;
    // Before anything else starts a thread.
    if let Command::Enter { pid, words } = &command {
        eprintln!("{:#}", daemon::enter(*pid, words));
        return ExitCode::FAILURE;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match act(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match command {
        Command::Run(config) => runtime.block_on(async {
            let (node, shutdown) = start(&config).await?;
            run::run(config.clone(), HostDaemon::new(&config), node, shutdown).await
        }),
        Command::Uninstall { config, stay } => runtime.block_on(async {
            let (node, shutdown) = start(&config).await?;
            run::uninstall(config.clone(), HostDaemon::new(&config), node).await?;
            if stay {
                shutdown.await;
            }
            Ok(())
        }),
        Command::Ready { ready_file } => match ready_file.exists() {
            true => Ok(()),
            false => Err(anyhow!("the node is not verified yet; see this pod's log")),
        },
        Command::Enter { .. } => unreachable!("answered before the runtime starts"),
    }
}

async fn start(config: &Config) -> Result<(Node, impl Future<Output = ()> + use<>)> {
    config.check().map_err(|mistakes| anyhow!(mistakes))?;
    tracing::info!(?config, version = env!("CARGO_PKG_VERSION"), "started");
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let client = kube::Client::try_default()
        .await
        .context("find the API server; is this a pod with a ServiceAccount?")?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok((Node::new(client, &config.node_name), shutdown))
}
