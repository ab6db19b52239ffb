//! The operator: AgentFunction and AgentPool objects to cluster objects, warm targets and metrics.

mod config;
mod fleet;
mod functions;
mod http;
mod leader;
mod memory;
mod meter;
mod metrics;
mod metrics_api;
mod objects;
mod planning;
mod pools;
mod retry;
mod run;
mod scaling;
mod status;
mod stream;
mod tls;
mod world;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let config = config::Config::parse();
    let filter =
        tracing_subscriber::EnvFilter::new("info,kube_runtime=warn,kube_lease_manager=warn");
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .init();
    tracing::info!(?config, "start");
    match run::run(config, terminated()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM, as kubelet sends it, or Ctrl-C.
async fn terminated() {
    let mut terminate =
        signal(SignalKind::terminate()).expect("signals can be handled before anything else runs");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
