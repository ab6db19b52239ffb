//! `hearth-engine run`: the process that runs instances, told what to do over the socket that is its standard input.
//! `hearth-engine compile`: the confined compile helper, one bundle a process.

mod compile;
mod lockdown;
mod run;

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use hearth_contract::channel::Channel;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs WebAssembly agents for the shim. It is started by the shim, not by hand.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run instances; the control socket is the standard input.
    Run,
    /// Compile one bundle; the request comes over the standard input.
    Compile,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_ansi(false)
        .init();
    let ended = match arguments.command {
        Command::Run => run::main(),
        Command::Compile => compile::main(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The socket that the shim left as standard input.
fn control() -> anyhow::Result<Channel> {
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("standard input")?;
    Channel::new(socket)
        .context("standard input is not the shim's control socket; the shim starts this program")
}

/// No program that is started from here gains rights, and no bug can switch that off again.
fn confine(sockets: lockdown::Sockets) -> anyhow::Result<()> {
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    lockdown::engage(sockets)
}
