//! The engine's program: `run` hosts instances, told what to do over the socket that is its standard input; `compile` is the
//! confined compile helper, one bundle a process.
//!
//! A library so that tests have a second program of it, with a [`Backdoor`].

mod compile;
mod lockdown;
mod run;

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use hearth_contract::channel::Channel;
use hearth_wasm_host::Probe;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Ways into the process around its sandboxes. `hearth-engine` has none.
#[derive(Debug, Clone, Copy)]
pub struct Backdoor {
    /// What guests may import as `attempt`.
    pub guest: Probe,
    /// Looks at each bundle before it is compiled. What it says of one is the reason why that is not.
    pub bundle: fn(&[u8]) -> Option<String>,
}

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

/// The whole program, to its end.
pub fn main(backdoor: Option<Backdoor>) -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_ansi(false)
        .init();
    let ended = match arguments.command {
        Command::Run => run::main(backdoor),
        Command::Compile => compile::main(backdoor),
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

/// No program that is started from here gains rights, and no bug can switch that off again. Other processes of this user,
/// engines of other pods among them, neither trace this one nor see it in `/proc`.
fn confine(role: lockdown::Role) -> anyhow::Result<()> {
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("let nobody trace this process")?;
    lockdown::engage(role)
}
