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
mod pace;
mod planning;
mod pools;
mod retry;
mod run;
mod scaling;
mod status;
mod stream;
mod succession;
mod tls;
mod unreadable;
mod verify;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Reconciles AgentFunctions and AgentPools, and tells pool pods what to hold.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Option<config::Config>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(verify::Verify),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Line { command, config } = Line::parse();
    if let Some(Command::Verify(verify)) = command {
        return match verify.run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let Some(config) = config else {
        // Without a single flag; clap says which are missing.
        config::Config::parse();
        return ExitCode::FAILURE;
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_run_the_operator_and_a_word_verifies_it() {
        let line = |words: &[&str]| Line::try_parse_from([&["hearth-operator"], words].concat());
        let operator = ["--pool-image=i", "--pod-name=a", "--pod-namespace=n"];
        let config = line(&operator).unwrap().config.unwrap();
        assert_eq!((config.pod_name.as_str(), config.stream_port), ("a", 8443));
        let verify = line(&["verify", "--namespace=n"]).unwrap();
        assert!(verify.command.is_some() && verify.config.is_none());
        assert!(line(&operator[..1]).is_err());
    }
}
