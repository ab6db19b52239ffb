//! `hearth logs`: what one agent wrote, out of the logs of the pods that it shares with others.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use kube::ResourceExt;
use kube::api::LogParams;
use serde_json::json;

use crate::cluster::{Access, block_on};
use crate::output::Output;

/// Show what an agent wrote.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth logs support-agent
  hearth logs support-agent --follow --since 10m

A line of an exception has file, line and column of the source where the bundle has a source map.

Exit codes: 0 shown, 1 not read, 2 wrong options.")]
pub(crate) struct Logs {
    /// Name of the AgentFunction.
    name: String,
    /// Go on with what is written from now on.
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines of each pod. The pod's other agents count.
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Only what is newer: a number with s, m or h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    since: Option<i64>,
    #[command(flatten)]
    access: Access,
}

fn seconds(text: &str) -> Result<i64, String> {
    let wrong = || "write a number with s, m or h, for example 10m".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(wrong()),
    };
    let number: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

impl Logs {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        block_on(async {
            let cluster = self.access.connect().await?;
            let function = cluster.function(&self.name).await?;
            let pods = cluster.pods_of(&function).await?;
            ensure!(
                !pods.is_empty(),
                "no pod hosts {}; `kubectl describe agentfunction {}` says why",
                self.name,
                self.name
            );
            let parameters = LogParams {
                follow: self.follow,
                tail_lines: self.tail,
                since_seconds: self.since,
                ..LogParams::default()
            };
            let mut streams = Vec::new();
            for pod in &pods {
                let pod = pod.name_any();
                let log = cluster.pods().log_stream(&pod, &parameters).await;
                let log = log.with_context(|| format!("read the log of pod {pod}"))?;
                streams.push(log.lines().map_ok(move |line| (pod.clone(), line)));
            }
            let mut lines = futures::stream::select_all(streams);
            let prefix = format!("{}: ", self.name);
            let mut out = std::io::stdout().lock();
            while let Some(line) = lines.next().await {
                let (pod, line) = line.context("read a log")?;
                let Some(text) = line.strip_prefix(&prefix) else {
                    continue;
                };
                match output {
                    Output::Text => writeln!(out, "{text}")?,
                    Output::Json => writeln!(out, "{}", json!({"pod": pod, "line": text}))?,
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(
            (seconds("10m"), seconds("2h"), seconds("1s")),
            (Ok(600), Ok(7200), Ok(1))
        );
        for wrong in ["", "10", "m", "-1s", "0s", "9223372036854775807h", "1ü"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
