//! workerd, of npm, as a process of the test: what runs there unchanged runs here.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::wait::{Seen, until};

/// How long it may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Where xtask installs it, in the repository.
const PROGRAM: &str = "target/tools/workerd/node_modules/@cloudflare/workerd-linux-64/bin/workerd";

/// One module in a workerd of its own. Dropping it kills the process.
#[derive(Debug)]
pub struct Workerd {
    /// Where it answers.
    pub address: String,
    process: Child,
}

impl Workerd {
    /// Runs the text of one module, which finds `variables` and a Worker Loader, `LOADER`, in its env. `name` names its folder.
    ///
    /// # Errors
    /// When it is not installed, or does not listen.
    pub async fn start(
        repository: &Path,
        name: &str,
        module: &str,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let program = repository.join(PROGRAM);
        ensure!(
            program.exists(),
            "{} is missing; `cargo xtask e2e` and `cargo xtask bench js` install it",
            program.display()
        );
        let folder = repository.join("target/workerd").join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        std::fs::write(folder.join("worker.js"), module)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let configuration = folder.join("config.capnp");
        std::fs::write(&configuration, configured(&address, variables))
            .with_context(|| format!("write {}", configuration.display()))?;
        let mut process = Command::new(&program)
            // The Worker Loader is an experiment of theirs.
            .args(["serve", "--experimental"])
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        until("workerd to listen", START, || {
            let ended = process.try_wait();
            let connecting = TcpStream::connect(&address);
            async {
                let ended = ended?;
                ensure!(ended.is_none(), "workerd ended: see above");
                Ok(match connecting.await {
                    Ok(_) => Seen::Yes(()),
                    Err(error) => Seen::NotYet(error.to_string()),
                })
            }
        })
        .await?;
        Ok(Self { address, process })
    }

    /// Its process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn process(&self) -> Result<u32> {
        self.process.id().context("workerd has ended")
    }
}

fn configured(address: &str, variables: &[(&str, &str)]) -> String {
    let variables: String = variables
        .iter()
        .map(|(name, value)| format!("(name = \"{name}\", text = \"{value}\"), "))
        .collect();
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "internet", network = (allow = ["local", "private", "public"])),
  ],
  sockets = [(name = "http", address = "{address}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2026-01-01",
  compatibilityFlags = ["nodejs_als"],
  bindings = [{variables}(name = "LOADER", workerLoader = (id = "loader"))],
);
"#
    )
}
