//! What must be true of the chart without a cluster: it is taken with the values that are allowed and refused with others, and
//! what it renders says what it should.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use hearth_cluster::tools::Containerd;
use hearth_cluster::{Layout, Steps, tools};

use crate::ci::run_command;

/// The one value without a default.
const REGISTRY: &str = "image.registry=registry.example/hearth";

/// APIs of Prometheus' operator, which a cluster may have.
const MONITORING: [&str; 4] = [
    "--api-versions",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "--api-versions",
    "monitoring.coreos.com/v1/PrometheusRule",
];

/// Values that the chart refuses, and what it says then.
const REFUSED: [(&str, &str); 16] = [
    (
        "node.mode=remove",
        "'/node/mode': value must be one of 'install', 'uninstall'",
    ),
    (
        "operator.replicas=two",
        "'/operator/replicas': got string, want integer",
    ),
    (
        "operator.replicas=0",
        "'/operator/replicas': minimum: got 0, want 1",
    ),
    (
        "operator.spread=often",
        "'/operator/spread': got string, want boolean",
    ),
    (
        "operator.priorityClassName=Very_High",
        "'/operator/priorityClassName': 'Very_High' does not match",
    ),
    (
        "pool.priorityClass=high",
        "'/pool': additional properties 'priorityClass' not allowed",
    ),
    (
        "node.deadlineSeconds=0",
        "'/node/deadlineSeconds': minimum: got 0, want 1",
    ),
    (
        "node.binDir=opt/hearth/bin",
        "'/node/binDir': 'opt/hearth/bin' does not match",
    ),
    (
        "node.mod=uninstall",
        "'/node': additional properties 'mod' not allowed",
    ),
    (
        "image.digests.operator=sha256:12",
        "'/image/digests/operator': 'sha256:12' does not match",
    ),
    (
        "image.digests.shim=",
        "'/image/digests': additional properties 'shim' not allowed",
    ),
    (
        "metrics.interval=often",
        "'/metrics/interval': 'often' does not match",
    ),
    (
        "networkPolicy.enabled=maybe",
        "'/networkPolicy/enabled': got string, want boolean",
    ),
    (
        "networkPolicy.apiServerPorts={70000}",
        "'/networkPolicy/apiServerPorts/0': maximum: got 70,000, want 65,535",
    ),
    (
        "networkPolicy.apiServers={anywhere}",
        "'/networkPolicy/apiServers/0': 'anywhere' does not match",
    ),
    ("image.registry=", "image.registry is not set"),
];

/// Values, and parts of what is rendered with them: with `!` in front, parts that must not be there.
const RENDERED: [(&[&str], &[&str]); 9] = [
    (
        &[],
        &[
            "name: hearth-default-deny",
            "priorityClassName: system-cluster-critical",
            "priorityClassName: system-node-critical",
            "topologyKey: topology.kubernetes.io/zone",
            "registry.example/hearth/operator:",
            "!kind: ServiceMonitor",
            "!kind: PrometheusRule",
            "!kind: PodDisruptionBudget",
            "!hearth-dashboard",
            "!--pool-priority-class",
        ],
    ),
    (&["operator.replicas=2"], &["kind: PodDisruptionBudget"]),
    (
        &["operator.spread=false", "operator.priorityClassName="],
        &["!topologySpreadConstraints", "!system-cluster-critical"],
    ),
    (
        &["pool.priorityClassName=agents"],
        &["--pool-priority-class=agents"],
    ),
    (&["networkPolicy.enabled=false"], &["!kind: NetworkPolicy"]),
    (
        &[
            "networkPolicy.apiServers={10.0.0.1/32}",
            "networkPolicy.scrapers[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=monitoring",
        ],
        &[
            "cidr: \"10.0.0.1/32\"",
            "kubernetes.io/metadata.name: monitoring",
        ],
    ),
    (
        &["metrics.dashboard.enabled=true"],
        &["name: hearth-dashboard", "grafana_dashboard: \"1\""],
    ),
    (
        &["customMetrics.enabled=false"],
        &["!kind: APIService", "!port: 8444"],
    ),
    (
        &["node.enabled=false"],
        &["!kind: DaemonSet", "!name: hearth-node"],
    ),
];

/// Checks the chart.
pub(crate) fn check(layout: &Layout, steps: &Steps) -> Result<()> {
    tools::build(layout, Containerd::default(), steps)?;
    let chart = Chart { layout };
    let mut lint = Command::new(layout.tool("helm"));
    run_command(
        lint.arg("lint")
            .arg(chart.folder())
            .args(["--strict", "--set", REGISTRY]),
    )?;
    chart.rendered(&["node.mode=uninstall"], &[])?;
    for (value, sentence) in REFUSED {
        let said = match chart.template(&[value], &[])? {
            Ok(_) => "nothing".to_owned(),
            Err(said) => said,
        };
        ensure!(
            said.contains(sentence),
            "the chart should refuse {value} and say {sentence:?}; it says: {said}"
        );
    }
    for (values, parts) in RENDERED {
        says(&chart.rendered(values, &[])?, values, parts)?;
    }
    chart.digests()?;
    chart.monitoring()
}

struct Chart<'a> {
    layout: &'a Layout,
}

impl Chart<'_> {
    fn folder(&self) -> std::path::PathBuf {
        self.layout.repository().join("charts/hearth")
    }

    /// Renders the chart with more values: what helm prints, or why it refuses.
    fn template(&self, values: &[&str], words: &[&str]) -> Result<Result<String, String>> {
        let mut template = Command::new(self.layout.tool("helm"));
        template.args(["template", "hearth"]).arg(self.folder());
        template.args(["--namespace", "hearth-system", "--set", REGISTRY]);
        template.args(words);
        for value in values {
            template.args(["--set", value]);
        }
        let output = template.output().context("run helm template")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        })
    }

    fn rendered(&self, values: &[&str], words: &[&str]) -> Result<String> {
        let rendered = self.template(values, words)?;
        rendered.map_err(|said| anyhow::anyhow!("the chart refuses {values:?}: {said}"))
    }

    /// An image that has a digest is named by it, and the others by the tag.
    fn digests(&self) -> Result<()> {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for image in ["operator", "installer", "pool"] {
            let values = [
                format!("image.digests.{image}={digest}"),
                "image.tag=t".to_owned(),
            ];
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            let rendered = self.rendered(&values, &[])?;
            let name = |of: &str| match of == image {
                true => format!("registry.example/hearth/{of}@{digest}"),
                false => format!("registry.example/hearth/{of}:t"),
            };
            let names = ["operator", "installer", "pool"].map(name);
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            says(&rendered, &values, &names)?;
        }
        Ok(())
    }

    /// Monitors and rules are there where the cluster has their API, unless they are switched off; and what they and the
    /// dashboard ask for is what our programs export.
    fn monitoring(&self) -> Result<()> {
        let all = [
            "kind: ServiceMonitor",
            "kind: PodMonitor",
            "kind: PrometheusRule",
        ];
        says(&self.rendered(&[], &MONITORING)?, &[], &all)?;
        let off = [
            "metrics.serviceMonitor.enabled=false",
            "metrics.rules.enabled=false",
        ];
        let none = [
            "!kind: ServiceMonitor",
            "!kind: PodMonitor",
            "!kind: PrometheusRule",
        ];
        says(&self.rendered(&off, &MONITORING)?, &off, &none)?;

        let folder = self.folder().join("files");
        let dashboard = read(&folder.join("dashboard.json"))?;
        let parsed: serde_json::Value =
            serde_json::from_str(&dashboard).context("parse dashboard.json")?;
        let panels = parsed["panels"].as_array();
        ensure!(
            panels.is_some_and(|panels| !panels.is_empty()),
            "the dashboard has no panels"
        );
        let operations = read(&self.layout.repository().join("docs/operations.md"))?;
        let known = metrics(&operations);
        for (what, text) in [
            ("dashboard.json", dashboard),
            ("rules.yaml", read(&folder.join("rules.yaml"))?),
        ] {
            let asked = metrics(&text);
            ensure!(!asked.is_empty(), "{what} asks for no metric");
            for metric in asked {
                let family = metric.strip_suffix("_bucket").unwrap_or(&metric);
                ensure!(
                    known.contains(family),
                    "{what} asks for {metric}, which docs/operations.md does not list"
                );
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("hearth_"));
    ours.map(str::to_owned).collect()
}

fn says(rendered: &str, values: &[&str], parts: &[&str]) -> Result<()> {
    for part in parts {
        match part.strip_prefix('!') {
            Some(part) => ensure!(
                !rendered.contains(part),
                "with {values:?} the chart has {part:?}"
            ),
            None => ensure!(
                rendered.contains(part),
                "with {values:?} the chart lacks {part:?}"
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_in_any_text() {
        let text = "sum(rate(hearth_calls_total{outcome=\"x\"}[5m])) | `hearth_queued` |";
        let expected = ["hearth_calls_total", "hearth_queued"].map(str::to_owned);
        assert_eq!(metrics(text), expected.into());
    }
}
