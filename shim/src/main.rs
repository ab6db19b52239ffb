//! `containerd-shim-hearth-v1`: the supervisor of one pod.
//!
//! containerd executes it with `start`, `delete` or `-info`; `start` leaves the process behind that serves the pod
//! (action `serve`). It translates containerd's Task API into engines and what they are told. It contains no wasm and
//! never looks into a bundle's bytes.

use std::io::Write;

use anyhow::Context;
use containerd_shim::Flags;
use hearth_shim::config::Config;
use hearth_shim::{serve, start};
use tracing::Level;

const RUNTIME: &str = "io.containerd.hearth.v1";

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("{RUNTIME}: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let flags = containerd_shim::parse(&arguments).context("reading the command line")?;
    if flags.version {
        println!("{RUNTIME} {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if flags.action == start::ACTION {
        let answer = start::answer(&flags)?;
        return std::io::stdout()
            .write_all(&answer)
            .context("writing the answer");
    }
    // One thread: a shim waits, it does not compute. Reading files happens on few and short-lived others.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
        .context("starting the runtime")?;
    if flags.action == serve::ACTION {
        start_telemetry(&flags);
        let exe = std::env::current_exe().context("finding the own binary")?;
        let config = Config::load(&exe)?;
        tracing::info!(?config, version = env!("CARGO_PKG_VERSION"), "configured");
        let ttrpc_address = std::env::var(serve::TTRPC_ADDRESS).context("no address for events")?;
        runtime.block_on(serve::run(flags, config, ttrpc_address))
    } else {
        runtime.block_on(containerd_shim::run::<start::Actions>(RUNTIME, None));
        Ok(())
    }
}

/// Standard error is containerd's log.
fn start_telemetry(flags: &Flags) {
    let level = match flags.debug {
        true => Level::DEBUG,
        false => Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .compact()
        .init();
}
