//! `hearth serve`: the same host without a cluster.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, call};

use crate::support::contains;

/// Ends the process also when the case fails.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is asked.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn serve_answers_without_a_cluster(cx: &Cx) -> Result<()> {
    let started = Instant::now();
    let address = "127.0.0.1:18080";
    let child = Command::new(cx.cluster.binary("hearth"))
        .arg("serve")
        .arg(cx.cluster.guest("hello-c"))
        .args(["--port", "18080"])
        .stdout(Stdio::null())
        .spawn()
        .context("start hearth serve")?;
    let _served = Served(child);
    let answer = until("an answer", Duration::from_secs(20), || async {
        Ok(match call::get(address, "/").await {
            Ok(answer) => Seen::Yes(answer),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    ensure!(answer.status == 200, "{answer:?}");
    contains("the answer", &answer.body, "ello")?;
    ensure!(started.elapsed() < Duration::from_secs(20));
    Ok(())
}
