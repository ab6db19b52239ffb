//! The chart's NetworkPolicies, both ways. The test cluster's network enforces none, and what enforces them elsewhere needs more of
//! a kernel than this machine's has; so what the policies say of the operator's pod is put into its own network namespace as
//! packet filter rules, by this file. It shows that the policies let through what Hearth needs, and nothing else; not that
//! some network plugin understands them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use hearth_cluster::layout::node_ip;
use hearth_e2e::{Cx, call};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::support::{HELLO, contains};

/// Where the operator is.
const NAMESPACE: &str = "hearth-system";
/// The registry of the test cluster: something that listens, and that the operator has no business with.
const REGISTRY: u16 = 5000;
/// A port of the operator's pod that no policy names.
const OTHER: u16 = 9999;

pub(crate) async fn nothing_passes_but_what_policies_allow(cx: &Cx) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cx.client.clone(), NAMESPACE);
    let leaders = ListParams::default().labels("hearth.dev/leader=true");
    let operator = pods.list(&leaders).await?.items.into_iter().next();
    let operator = operator.context("nobody leads")?;
    let policies: Api<NetworkPolicy> = Api::namespaced(cx.client.clone(), NAMESPACE);
    let policies = policies.list(&ListParams::default()).await?.items;
    let rules = rules(&operator, &policies)?;
    let uid = operator.uid().context("a pod has a UID")?;
    let pids = cx.cluster.pids_in_pod(&uid, "hearth-operator")?;
    let inside = Inside(*pids.first().context("the operator has a process")?);
    let address = operator.status.and_then(|status| status.pod_ip);
    let address = address.context("the operator has an address")?;

    let registry = (node_ip(1).to_string(), REGISTRY);
    ensure!(
        inside.reaches(&registry.0, registry.1)?,
        "the registry is not there at all"
    );
    inside.filter(&rules)?;
    let outcome = both_ways(cx, &inside, &address, &registry).await;
    let removed = inside.filter("delete table inet policies\n");
    outcome.and(removed)?;
    ensure!(inside.reaches(&registry.0, registry.1)?, "the rules stayed");
    Ok(())
}

async fn both_ways(
    cx: &Cx,
    inside: &Inside,
    address: &str,
    registry: &(String, u16),
) -> Result<()> {
    // What Hearth needs: the API server, a node's stream, scrapers, and the API server's questions about metrics.
    cx.ready_function("hello", HELLO, "  replicas: 1").await?;
    let metrics = call::get(&format!("{address}:8080"), "/metrics").await?;
    ensure!(metrics.status == 200, "{metrics:?}");
    let path = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/agentfunctions.hearth.dev/hello/hearth_in_flight",
        cx.namespace
    );
    contains(
        "the metric",
        &cx.kubectl(&["get", "--raw", &path])?,
        "MetricValueList",
    )?;
    // And nothing else, out or in.
    ensure!(
        !inside.reaches(&registry.0, registry.1)?,
        "the operator reaches the registry"
    );
    let outside = tokio::net::TcpStream::connect((address, OTHER));
    let outside = tokio::time::timeout(std::time::Duration::from_secs(1), outside).await;
    // Without rules, the kernel says at once that nobody listens.
    ensure!(
        outside.is_err(),
        "port {OTHER} of the operator answers: {outside:?}"
    );
    Ok(())
}

/// The network namespace of a process.
struct Inside(u32);

impl Inside {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.0))
            .arg(program);
        command
    }

    /// Gives the kernel rules.
    fn filter(&self, rules: &str) -> Result<()> {
        let mut nft = self.command("nft");
        let mut nft = nft
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run nft")?;
        let mut input = nft.stdin.take().context("standard input is a pipe")?;
        input.write_all(rules.as_bytes())?;
        drop(input);
        let output = nft.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft: {said} for\n{rules}");
        Ok(())
    }

    /// Whether somebody accepts a connection from here, within a second.
    fn reaches(&self, address: &str, port: u16) -> Result<bool> {
        let dial = format!("exec 3<>/dev/tcp/{address}/{port}");
        let mut bash = self.command("timeout");
        let output = bash.args(["1", "bash", "-c", &dial]).output();
        Ok(output.context("run bash")?.status.success())
    }
}

/// What policies say of a pod, for its own network namespace.
fn rules(pod: &Pod, policies: &[NetworkPolicy]) -> Result<String> {
    let (mut ingress, mut egress) = (Direction::default(), Direction::default());
    for policy in policies {
        let spec = policy.spec.as_ref().context("a policy has a spec")?;
        if !selects(spec, pod)? {
            continue;
        }
        let types = spec.policy_types.iter().flatten();
        for kind in types {
            match kind.as_str() {
                "Ingress" => {
                    ingress.is_isolated = true;
                    for rule in spec.ingress.iter().flatten() {
                        ingress.allow("saddr", rule.from.as_deref(), rule.ports.as_deref())?;
                    }
                }
                "Egress" => {
                    egress.is_isolated = true;
                    for rule in spec.egress.iter().flatten() {
                        egress.allow("daddr", rule.to.as_deref(), rule.ports.as_deref())?;
                    }
                }
                other => bail!("policy type {other}"),
            }
        }
    }
    let mut text = String::from("table inet policies {\n");
    // Replies by their port, not by the connection they belong to: the kernel did not see those begin that are there already.
    for (name, interface, here, there) in [
        ("input", "iif", &ingress, &egress),
        ("output", "oif", &egress, &ingress),
    ] {
        ensure!(here.is_isolated, "no policy isolates the pod's {name}");
        writeln!(
            text,
            "chain {name} {{\ntype filter hook {name} priority 0; policy drop;\n{interface} lo accept\n{}{}}}",
            here.rules, there.replies
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}

#[derive(Default)]
struct Direction {
    is_isolated: bool,
    rules: String,
    /// What comes back of what the rules let through.
    replies: String,
}

impl Direction {
    fn allow(
        &mut self,
        side: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Result<()> {
        let peers = peers.unwrap_or_default().iter().map(|peer| {
            let block = peer.ip_block.as_ref();
            let block = block.context("only addresses are understood as peers here")?;
            Ok(format!("ip {side} {} ", block.cidr))
        });
        let mut peers = peers.collect::<Result<Vec<_>>>()?;
        if peers.is_empty() {
            // Anybody.
            peers.push(String::new());
        }
        for peer in peers {
            for port in ports.context("a rule for all ports")? {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
                let Some(IntOrString::Int(first)) = port.port else {
                    bail!("only numbers are understood as ports here");
                };
                let last = port.end_port.unwrap_or(first);
                writeln!(self.rules, "{peer}{protocol} dport {first}-{last} accept")?;
                writeln!(self.replies, "{protocol} sport {first}-{last} accept")?;
            }
        }
        Ok(())
    }
}

fn selects(spec: &NetworkPolicySpec, pod: &Pod) -> Result<bool> {
    let selector = spec.pod_selector.clone().unwrap_or_default();
    ensure!(
        selector.match_expressions.is_none(),
        "only labels are understood here"
    );
    let mut labels = selector.match_labels.iter().flatten();
    Ok(labels.all(|(key, value)| pod.labels().get(key) == Some(value)))
}
