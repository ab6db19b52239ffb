//! Who stands beside the engine.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long a peer may take until it listens: `wasmtime serve` compiles first.
const START: Duration = Duration::from_secs(30);

/// What `wasmtime serve` is told beside the component and the address.
///
/// The guest imports `wasi:cli/environment`, which only `-S cli` offers. The rest is what wasmtime's book advises for fast
/// instantiation, with the sizes that our engine has too: a pool of instances, memory that begins as a copy-on-write image,
/// pages that stay mapped between two instances, and the kernel's help to find those that were written.
const SERVE: [&str; 4] = [
    "-S",
    "cli",
    "-O",
    "pooling-allocator=y,memory-init-cow=y,pooling-pagemap-scan=auto,pooling-memory-keep-resident=393216,\
     pooling-table-keep-resident=16384,pooling-async-stack-keep-resident=32768",
];

/// A server in a process of its own. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it answers.
    pub(crate) address: String,
    _process: Child,
}

impl Peer {
    /// The least that answers HTTP.
    pub(crate) async fn bare_hyper(program: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command.arg(port.to_string());
        Self::start(command, port).await
    }

    /// The same, of the lowest priority: it stands for another machine, which takes no time of this one's.
    pub(crate) async fn elsewhere(program: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("nice");
        command
            .args(["-n", "19"])
            .arg(program)
            .arg(port.to_string());
        Self::start(command, port).await
    }

    /// The same component in wasmtime's own server, a fresh instance for each call.
    pub(crate) async fn wasmtime_serve(program: &Path, component: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command.arg("serve").args(SERVE);
        command.arg(format!("--addr=127.0.0.1:{port}"));
        command.arg(component);
        Self::start(command, port).await
    }

    async fn start(mut command: Command, port: u16) -> Result<Self> {
        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let address = format!("127.0.0.1:{port}");
        until(&format!("{program} to listen"), START, || {
            let ended = process.try_wait();
            let connecting = TcpStream::connect(&address);
            async {
                let ended = ended?;
                ensure!(ended.is_none(), "{program} ended: see above");
                Ok(match connecting.await {
                    Ok(_) => Seen::Yes(()),
                    Err(error) => Seen::NotYet(error.to_string()),
                })
            }
        })
        .await?;
        Ok(Self {
            address,
            _process: process,
        })
    }
}

/// A port that nobody listens on; both peers open theirs by number.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
