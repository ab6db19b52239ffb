//! `hearth`: an agent from its first line to its calls in a cluster; and without a cluster, on the same host as in one.

mod build;
mod bundler;
mod cluster;
mod completion;
mod component;
mod deploy;
mod dev;
mod doctor;
mod invoke;
mod local;
mod logs;
mod manifest;
mod new;
mod output;
mod progress;
mod project;
mod push;
mod registry;
mod serve;
mod top;
mod why;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use output::Output;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// AI agents as WebAssembly: made, run here, put on a cluster, looked at there.
#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    after_help = "\
As kubectl hearth it is the same program: a link named kubectl-hearth on the PATH, `ln -s $(which hearth) ~/bin/kubectl-hearth`.

Exit codes: 0 done, 1 not done, 2 wrong options, 3 done, and what came of it is bad (invoke, doctor)."
)]
struct Arguments {
    /// The form of results on standard output.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::New),
    Dev(dev::Dev),
    Build(build::Build),
    Component(component::Component),
    Serve(serve::Serve),
    Push(push::Push),
    Deploy(deploy::Deploy),
    Invoke(invoke::Invoke),
    Logs(logs::Logs),
    Top(top::Top),
    Doctor(doctor::Doctor),
    Why(why::Why),
    Completion(completion::Completion),
}

fn run(Arguments { output, command }: Arguments) -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match command {
        Command::New(new) => done(new.run(output)),
        Command::Dev(dev) => done(dev.run()),
        Command::Build(build) => done(build.run(output)),
        Command::Component(component) => done(component.run(output)),
        Command::Serve(serve) => done(serve.run()),
        Command::Push(push) => done(push.run(output)),
        Command::Deploy(deploy) => done(deploy.run(output)),
        Command::Invoke(invoke) => invoke.run(output),
        Command::Logs(logs) => done(logs.run(output)),
        Command::Top(top) => done(top.run(output)),
        Command::Doctor(doctor) => doctor.run(output),
        Command::Why(why) => done(why.run()),
        Command::Completion(completion) => {
            completion.run(Arguments::command());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn"))
        .init();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hearth: {error:#}");
            ExitCode::FAILURE
        }
    }
}
