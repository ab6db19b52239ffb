//! `hearth top`: what the functions of a namespace do now, from the metrics of its pool pods.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use hearth_api::POOL_LABEL;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::cluster::{Access, Cluster, block_on};
use crate::output::Output;

/// Port of an engine's metrics in its pod.
const METRICS: u16 = hearth_contract::METRICS_PORT;
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// The word for an activation that found a warm instance.
const HIT: &str = "hit";

/// Show what the agents of a namespace do.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth top
  hearth top --once --output json

Calls a second, times and misses are those between two looks; --once shows them since the engines started. Needs the right to
get pods/proxy.

Exit codes: 0 shown, 1 not read, 2 wrong options.")]
pub(crate) struct Top {
    /// Show it once.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    access: Access,
}

/// What counters say of one function on one node.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    warm: f64,
    in_use: f64,
    queued: f64,
    calls: f64,
    misses: f64,
    /// Upper bounds in seconds, and calls that took no longer.
    buckets: BTreeMap<Bound, f64>,
}

/// Seconds, in order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// By function and node.
type Table = BTreeMap<(String, String), Counts>;

impl Top {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        block_on(async {
            let cluster = self.access.connect().await?;
            let mut before: Option<(Table, Instant)> = None;
            loop {
                let table = look(&cluster).await?;
                let now = Instant::now();
                let rows = match &before {
                    Some((earlier, then)) => {
                        rows(&table, Some(earlier), (now - *then).as_secs_f64())
                    }
                    None => rows(&table, None, 0.0),
                };
                let mut out = std::io::stdout().lock();
                match output {
                    Output::Json => writeln!(out, "{}", json!(rows))?,
                    Output::Text if self.once => write!(out, "{}", shown(&rows))?,
                    Output::Text => write!(out, "{CLEAR}{}", shown(&rows))?,
                }
                out.flush()?;
                if self.once {
                    return Ok(());
                }
                before = Some((table, now));
                tokio::select! {
                    ended = tokio::signal::ctrl_c() => return Ok(ended?),
                    () = tokio::time::sleep(Duration::from_secs(self.every)) => {}
                }
            }
        })
    }
}

async fn look(cluster: &Cluster) -> Result<Table> {
    let pods = cluster
        .pods()
        .list(&ListParams::default().labels(POOL_LABEL))
        .await;
    let mut table = Table::new();
    for pod in pods.context("list pool pods")?.items {
        let name = pod.name_any();
        let uri = format!(
            "/api/v1/namespaces/{}/pods/{name}:{METRICS}/proxy/metrics",
            cluster.namespace
        );
        let text = cluster
            .client
            .request_text(Request::get(uri).body(Vec::new())?)
            .await;
        match text {
            Ok(text) => read(&text, node(&pod), &mut table),
            Err(error) => eprintln!("hearth: pod {name} shows no metrics: {error}"),
        }
    }
    Ok(table)
}

fn node(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// Adds what one engine says.
fn read(text: &str, node: &str, table: &mut Table) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let (Some((name, labels)), Ok(value)) = (metric.split_once('{'), value.parse::<f64>())
        else {
            continue;
        };
        let label = |wanted: &str| {
            let start = labels.find(&format!("{wanted}=\""))? + wanted.len() + 2;
            labels[start..].split('"').next()
        };
        let Some(function) = label("function") else {
            continue;
        };
        let counts = table
            .entry((function.to_owned(), node.to_owned()))
            .or_default();
        match (name, label("state"), label("start"), label("le")) {
            ("hearth_instances", Some("warm"), ..) => counts.warm += value,
            ("hearth_instances", Some(_), ..) => counts.in_use += value,
            ("hearth_queued_calls", ..) => counts.queued += value,
            ("hearth_calls_total", _, Some(start), _) => {
                counts.calls += value;
                if start != HIT {
                    counts.misses += value;
                }
            }
            ("hearth_call_duration_seconds_bucket", _, _, Some(bound)) => {
                if let Ok(bound) = bound.parse() {
                    *counts.buckets.entry(Bound(bound)).or_default() += value;
                }
            }
            _ => {}
        }
    }
}

impl Counts {
    /// What came since.
    fn since(&self, before: &Self) -> Self {
        // An engine that was replaced counts from zero again.
        let rest = |now: f64, then: f64| if now >= then { now - then } else { now };
        let buckets = self.buckets.iter().map(|(bound, count)| {
            let then = before.buckets.get(bound).copied().unwrap_or_default();
            (*bound, rest(*count, then))
        });
        Self {
            calls: rest(self.calls, before.calls),
            misses: rest(self.misses, before.misses),
            buckets: buckets.collect(),
            ..self.clone()
        }
    }

    /// The upper bound, in milliseconds, of what a share of the calls took.
    fn quantile(&self, share: f64) -> Option<f64> {
        let all = self
            .buckets
            .values()
            .last()
            .copied()
            .filter(|all| *all > 0.0)?;
        let reached = self
            .buckets
            .iter()
            .find(|(_, count)| **count >= share * all);
        reached
            .map(|(bound, _)| bound.0 * 1e3)
            .filter(|bound| bound.is_finite())
    }
}

fn rows(table: &Table, before: Option<&Table>, seconds: f64) -> Vec<Value> {
    let row = |((function, node), counts): (&(String, String), &Counts)| {
        let key = (function.clone(), node.clone());
        let earlier = before.and_then(|before| before.get(&key));
        let since = match earlier {
            Some(earlier) => counts.since(earlier),
            None => counts.clone(),
        };
        json!({
            "function": function,
            "node": node,
            "warm": counts.warm,
            "inFlight": counts.in_use,
            "queued": counts.queued,
            "calls": since.calls,
            "callsPerSecond": earlier.map(|_| since.calls / seconds),
            "p50Milliseconds": since.quantile(0.5),
            "p99Milliseconds": since.quantile(0.99),
            "misses": since.misses,
        })
    };
    table.iter().map(row).collect()
}

fn shown(rows: &[Value]) -> String {
    let mut text = format!(
        "{:<32} {:<16} {:>6} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7}\n",
        "FUNCTION",
        "NODE",
        "WARM",
        "IN FLIGHT",
        "QUEUED",
        "CALLS",
        "CALLS/S",
        "P50 MS",
        "P99 MS",
        "MISSES"
    );
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let whole = |key: &str| format!("{:.0}", row[key].as_f64().unwrap_or_default());
        let part = |key: &str| {
            row[key]
                .as_f64()
                .map_or("-".to_owned(), |value| format!("{value:.2}"))
        };
        text += &format!(
            "{:<32} {:<16} {:>6} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7}\n",
            word("function"),
            word("node"),
            whole("warm"),
            whole("inFlight"),
            whole("queued"),
            whole("calls"),
            part("callsPerSecond"),
            part("p50Milliseconds"),
            part("p99Milliseconds"),
            whole("misses"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# TYPE hearth_calls_total counter
hearth_calls_total{function="a",namespace="n",outcome="answered",start="hit"} 90
hearth_calls_total{function="a",namespace="n",outcome="threw",start="compile"} 10
hearth_call_duration_seconds_bucket{function="a",namespace="n",start="hit",le="0.001"} 60
hearth_call_duration_seconds_bucket{function="a",namespace="n",start="hit",le="0.002"} 99
hearth_call_duration_seconds_bucket{function="a",namespace="n",start="hit",le="+Inf"} 100
hearth_instances{function="a",namespace="n",state="warm"} 4
hearth_instances{function="a",namespace="n",state="in_use"} 1
hearth_queued_calls{function="a",namespace="n"} 2
process_cpu_seconds_total 3
"#;

    #[test]
    fn metrics_become_rows() {
        let mut table = Table::new();
        read(METRICS, "node-1", &mut table);
        let row = &rows(&table, None, 0.0)[0];
        assert_eq!(
            *row,
            json!({"function": "a", "node": "node-1", "warm": 4.0, "inFlight": 1.0, "queued": 2.0, "calls": 100.0,
                "callsPerSecond": null, "p50Milliseconds": 1.0, "p99Milliseconds": 2.0, "misses": 10.0})
        );
        assert!(shown(std::slice::from_ref(row)).contains("node-1"));
    }

    #[test]
    fn between_two_looks_only_what_came_counts() {
        let mut table = Table::new();
        read(METRICS, "node-1", &mut table);
        let later = METRICS
            .replace("\"hit\"} 90", "\"hit\"} 190")
            .replace("} 60", "} 61")
            .replace("} 99", "} 199")
            .replace("} 100", "} 200");
        let mut after = Table::new();
        read(&later, "node-1", &mut after);
        let row = &rows(&after, Some(&table), 2.0)[0];
        assert_eq!(
            (&row["calls"], &row["callsPerSecond"], &row["misses"]),
            (&json!(100.0), &json!(50.0), &json!(0.0))
        );
        assert_eq!(row["p50Milliseconds"], json!(2.0));
    }
}
