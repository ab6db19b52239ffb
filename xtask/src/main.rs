//! Chores of this repository. `cargo xtask help` lists them.

mod bundles;
mod chart;
mod ci;
mod codegen;
mod directions;
mod fuzz;
mod images;
mod peers;
mod python;
mod run_inside;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use hearth_cluster::layout::{Layout, NodeNumber};
use hearth_cluster::{Steps, down, supervise};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of this repository", version)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Start a Kubernetes cluster on this machine, install Hearth in it, call the example agent
    Up(up::Arguments),
    /// Remove the cluster and every trace of it
    Down,
    /// Run kubectl against the cluster
    Kubectl(run_inside::Words),
    /// Run helm against the cluster
    Helm(run_inside::Words),
    /// Run hearth against the cluster
    Hearth(run_inside::Words),
    /// Run curl inside node 1's network, where Services and pods are reachable
    Curl(run_inside::Words),
    /// Run any program inside node 1's network
    Inside(run_inside::Words),
    /// Print the log of a part: apiserver, kubelet-1, containerd-2, …
    Logs(run_inside::Logs),
    /// Run the tests that need the cluster
    E2e(run_inside::E2e),
    /// Measure beside a peer: on the cluster, or the engine alone
    Bench(run_inside::Bench),
    /// Write what is generated from the types: CRDs and the chart's copy
    Codegen {
        /// Change nothing; fail where a file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Feed parsers of outside bytes with damaged examples, and say how often
    Fuzz(fuzz::Arguments),
    /// Everything that must be green: what CI runs
    Ci(ci::Arguments),
    /// Hold a node's mounts and keep its containerd running; started by `up`
    #[command(hide = true)]
    Supervise {
        /// The node's number
        #[arg(long)]
        node: NodeNumber,
        /// The clone
        #[arg(long)]
        repository: std::path::PathBuf,
        /// The cluster's directory
        #[arg(long)]
        root: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<ExitCode> {
    match chore {
        Chore::Up(arguments) => up::run(&arguments)?,
        Chore::Down => down::down(&Layout::find()?, &Steps::default())?,
        Chore::Kubectl(words) => return words.run("kubectl"),
        Chore::Helm(words) => return words.run("helm"),
        Chore::Hearth(words) => return words.run_hearth(),
        Chore::Curl(words) => return words.run("curl"),
        Chore::Inside(words) => return words.run_first(),
        Chore::Logs(logs) => return logs.run(),
        Chore::E2e(e2e) => return e2e.run(),
        Chore::Bench(bench) => return bench.run(),
        Chore::Codegen { check } => codegen::run(Layout::find()?.repository(), check)?,
        Chore::Fuzz(arguments) => fuzz::run(&arguments)?,
        Chore::Ci(arguments) => return ci::run(&arguments),
        Chore::Supervise {
            node,
            repository,
            root,
        } => {
            supervise::run(&Layout::new(&repository, &root)?, node)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
