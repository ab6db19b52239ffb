//! `hearth serve` as a process of the test, ended with it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_cluster::Cluster;

use crate::process::Process;
use crate::wait::{Seen, until};

/// How long it may take to say where it answers, or why it does not.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that answers without a cluster.
#[derive(Debug)]
pub struct Served {
    /// Where: `address:port`.
    pub address: String,
    _process: Process,
    /// Kept open: who writes to a pipe that nobody holds is ended.
    _stderr: BufReader<ChildStderr>,
}

impl Served {
    /// Runs `hearth serve` with `words` on a free port, and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead, with what it said.
    pub async fn start(cluster: &Cluster, words: &[&OsStr]) -> Result<Self> {
        let mut process = spawn(cluster, words)?;
        let stderr = process.stderr.take().context("standard error is a pipe")?;
        let reading = tokio::task::spawn_blocking(move || listens(BufReader::new(stderr)));
        // Past the deadline the process is dropped, which ends the reading too.
        let (address, stderr) = tokio::time::timeout(PATIENCE, reading)
            .await
            .context("hearth serve says nothing")???;
        Ok(Self {
            address,
            _process: process,
            _stderr: stderr,
        })
    }
}

/// Runs `hearth serve` with words that it must refuse, and returns what it says.
///
/// # Errors
/// When it takes them.
pub async fn refused(cluster: &Cluster, words: &[&OsStr]) -> Result<String> {
    let mut process = spawn(cluster, words)?;
    let mut stderr = process.stderr.take().context("standard error is a pipe")?;
    let status = until("hearth serve to refuse", PATIENCE, || {
        let ended = process.try_wait();
        async move { Ok(ended?.map_or_else(|| Seen::NotYet("it runs".to_owned()), Seen::Yes)) }
    })
    .await?;
    ensure!(!status.success(), "hearth serve took {words:?}");
    let mut said = String::new();
    stderr.read_to_string(&mut said)?;
    Ok(said)
}

fn spawn(cluster: &Cluster, words: &[&OsStr]) -> Result<Process> {
    let program: PathBuf = cluster.binary("hearth");
    let child = Command::new(&program)
        .args(["serve", "--port", "0"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.with_context(|| format!("start {}", program.display()))?;
    Ok(child.into())
}

/// Reads up to the line that says where it listens.
fn listens(mut stderr: BufReader<ChildStderr>) -> Result<(String, BufReader<ChildStderr>)> {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if stderr.read_line(&mut line)? == 0 {
            bail!("hearth serve ended: {said}");
        }
        let address = line
            .strip_prefix("http://")
            .and_then(|rest| rest.split_whitespace().next());
        match address {
            Some(address) => return Ok((address.to_owned(), stderr)),
            None => said += &line,
        }
    }
}
