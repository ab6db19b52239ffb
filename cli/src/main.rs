//! `hearth`: an agent without a cluster, on the same host as in one; and what a cluster's agents do.

mod manifest;
mod serve;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs AI agents as WebAssembly, and looks at those of a cluster.
#[derive(Debug, Parser)]
#[command(name = "hearth", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer HTTP calls with an agent, here and now.
    Serve(serve::Serve),
    Why(why::Why),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn"))
        .init();
    let outcome = match command {
        Command::Serve(serve) => serve.run(),
        Command::Why(why) => why.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth: {error:#}");
            ExitCode::FAILURE
        }
    }
}
