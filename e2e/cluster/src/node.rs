//! One node: containerd under its supervisor, kubelet and kube-proxy, and their configuration.
//!
//! Inside the node's mount namespace its directory is [`NODE_DIRECTORY`], and the directories that node programs have by
//! habit (`/var/lib/kubelet`, `/run/containerd`, …) are its own. So all nodes are configured alike, and nothing that a node
//! mounts outlives its processes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::State;
use crate::layout::{
    self, DNS_SERVICE_IP, Layout, NODE_DIRECTORY, NodeNumber, PAUSE_IMAGE, POD_CIDR,
};
use crate::process::{Launch, Part, Record, log_tail, start};
use crate::tools::Containerd;
use crate::wait::{Look, wait_for};
use crate::{cgroup, supervise};

/// containerd's configuration file, on every node. Installers edit it, as they do on a user's node.
pub const CONTAINERD_CONFIG: &str = "/run/hearth-node/containerd/config.toml";
/// containerd's socket, on every node.
pub const CONTAINERD_SOCKET: &str = "/run/hearth-node/containerd/containerd.sock";
/// The process id of the running containerd, on every node.
pub const CONTAINERD_PID_FILE: &str = "/run/hearth-node/containerd/containerd.pid";
/// Where an installer puts programs, on every node.
pub const BIN_DIRECTORY: &str = "/run/hearth-node/opt/hearth/bin";
/// Where an installer and shims keep state, on every node.
pub const STATE_DIRECTORY: &str = "/run/hearth-node/var/lib/hearth";

/// Directories that are the node's own: where they are mounted, and what of the node's directory is mounted there.
pub(crate) const PRIVATE: [(&str, &str); 7] = [
    (NODE_DIRECTORY, ""),
    ("/run/containerd", "run-containerd"),
    ("/run/netns", "run-netns"),
    ("/var/lib/kubelet", "kubelet"),
    ("/var/lib/cni", "cni/state"),
    ("/var/log/pods", "pod-logs"),
    ("/var/log/containers", "container-logs"),
];

/// Writes a node's configuration and starts what runs on it. `supervisor` is the program whose `supervise` command calls
/// [`supervise::run`].
pub fn start_node(layout: &Layout, node: NodeNumber, supervisor: &Path) -> Result<()> {
    write_configuration(layout, node)?;
    cgroup::create(&layout::netns(node))?;
    let record = start(
        layout,
        Part::Supervisor(node),
        supervisor_launch(layout, node, supervisor),
    )?;
    wait_for_containerd(layout, node)?;
    let mount = format!("--mount=/proc/{}/ns/mnt", record.pid);
    let net = format!(
        "--net={}",
        layout::netns_path(&layout::netns(node)).display()
    );
    let kubelet = Launch::new(layout.tool("kubelet"), kubelet_arguments(layout, node));
    start(
        layout,
        Part::Kubelet(node),
        kubelet.under("nsenter", [net, mount]),
    )?;
    let proxy = Launch::new(layout.tool("kube-proxy"), proxy_arguments(layout, node));
    start(
        layout,
        Part::Proxy(node),
        proxy.in_netns(&layout::netns(node)),
    )?;
    Ok(())
}

/// Waits until a node's containerd answers for CRI. 1.7 listens before it has found again what it ran, and kubelet, which asks
/// once and ends, would not be started again here.
pub(crate) fn wait_for_containerd(layout: &Layout, node: NodeNumber) -> Result<()> {
    let supervisor = Record::read(layout, Part::Supervisor(node))?
        .with_context(|| format!("node {node} was never started"))?;
    // Through the node's own mounts: there the path is short enough for a socket, wherever the cluster's directory is.
    let socket = format!("/proc/{}/root{CONTAINERD_SOCKET}", supervisor.pid);
    let what = format!("containerd of node {node}");
    wait_for(
        &what,
        Duration::from_secs(60),
        Duration::from_millis(50),
        || {
            Ok(match cri_answers(&socket) {
                Ok(()) => Look::Done(()),
                Err(error) => Look::NotYet(format!(
                    "{error:#}; its logs end with:\n{}\n{}",
                    log_tail(layout, Part::Supervisor(node)),
                    log_tail(layout, Part::Containerd(node))
                )),
            })
        },
    )
}

/// Asks for the version, as kubelet does: an empty message, which is five zeros before nothing.
fn cri_answers(socket: &str) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "5"])
        .args(["--http2-prior-knowledge", "--unix-socket", socket])
        .args(["--header", "content-type: application/grpc"])
        .args(["--header", "te: trailers", "--data-binary", "@-"])
        .args(["--dump-header", "-", "--output", "/dev/null"])
        .arg("http://containerd/runtime.v1.RuntimeService/Version");
    let mut child = curl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run curl: is the package curl installed?")?;
    // Where nobody listens curl does not read it; what it says then is read below.
    let mut input = child.stdin.take().context("curl has a standard input")?;
    let _ = input.write_all(&[0; 5]);
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        said.contains("grpc-status: 0"),
        "CRI does not answer: {} {}",
        said.trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn supervisor_launch(layout: &Layout, node: NodeNumber, supervisor: &Path) -> Launch {
    let arguments = [
        "supervise".to_owned(),
        format!("--node={node}"),
        format!("--repository={}", layout.repository().display()),
        format!("--root={}", layout.root().display()),
    ];
    Launch::new(supervisor, arguments)
        // Private first: where the machine's mounts are shared, ours must not travel back.
        .under(
            "unshare",
            ["--mount".to_owned(), "--propagation=private".to_owned()],
        )
        .in_netns(&layout::netns(node))
}

/// How the supervisor starts containerd, from inside the node's namespaces.
pub(crate) fn containerd_launch(layout: &Layout) -> Result<Launch> {
    let tools = containerd_of(layout)?.folder(layout);
    let mut launch = Launch::new(tools.join("containerd"), ["--config", CONTAINERD_CONFIG]);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
    launch.environment.insert("PATH".to_owned(), path);
    Ok(launch)
}

/// The containerd of this cluster's nodes.
fn containerd_of(layout: &Layout) -> Result<Containerd> {
    let state = State::read(layout)?;
    Ok(state.map(|state| state.containerd).unwrap_or_default())
}

fn write_configuration(layout: &Layout, node: NodeNumber) -> Result<()> {
    let directory = layout.node(node);
    for (_, own) in PRIVATE {
        make_directory(&directory.join(own))?;
    }
    let registry = format!("containerd/certs.d/{}", layout::REGISTRY);
    for own in ["cni/net.d", &registry] {
        make_directory(&directory.join(own))?;
    }
    for (name, text) in configuration(layout, node, containerd_of(layout)?)? {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    // What a hold left over from an earlier life would stop.
    supervise::release(layout, node)
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))
}

/// Files of a node's directory, and what is in them.
pub(crate) fn configuration(
    layout: &Layout,
    node: NodeNumber,
    containerd: Containerd,
) -> Result<[(String, String); 6]> {
    let containerd = match containerd {
        Containerd::V2 | Containerd::V2_3 | Containerd::V2_2 => containerd_config(),
        Containerd::V1_7 => containerd_1_7_config(),
    };
    Ok([
        ("containerd/config.toml".to_owned(), containerd),
        (
            format!("containerd/certs.d/{}/hosts.toml", layout::REGISTRY),
            registry_hosts(),
        ),
        ("cni/net.d/10-ptp.conflist".to_owned(), cni_config(node)),
        ("kubelet.yaml".to_owned(), kubelet_config(layout, node)?),
        ("kube-proxy.yaml".to_owned(), proxy_config(layout, node)?),
        (
            "resolv.conf".to_owned(),
            format!("nameserver {}\n", layout::node_ip(1)),
        ),
    ])
}

fn containerd_config() -> String {
    let directory = format!("{NODE_DIRECTORY}/containerd");
    format!(
        r#"version = 3
root = "{directory}/root"
state = "{directory}/state"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins.'io.containerd.cri.v1.runtime']
  # The harness may run without CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{NODE_DIRECTORY}/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{directory}/certs.d"
[plugins.'io.containerd.transfer.v1.local']
  config_path = "{directory}/certs.d"
[plugins.'io.containerd.internal.v1.opt']
  path = "{directory}/opt"
# Its socket would be one for all nodes.
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"#
    )
}

/// The same for containerd 1.7, which has other names for it.
fn containerd_1_7_config() -> String {
    let directory = format!("{NODE_DIRECTORY}/containerd");
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{NODE_DIRECTORY}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{directory}/certs.d"

[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"#
    )
}

/// Every node finds the one registry under the name that images carry.
fn registry_hosts() -> String {
    let host = format!("http://{}:5000", layout::node_ip(1));
    format!("server = \"{host}\"\n\n[host.\"{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// Point-to-point links, not a bridge: every packet is routed, so Services work between pods of one node whether or not
/// this kernel shows bridged packets to iptables.
fn cni_config(node: NodeNumber) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": layout::pod_cidr(node)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn kubelet_config(layout: &Layout, node: NodeNumber) -> Result<String> {
    let pki = layout.pki();
    let text = serde_yaml::to_string(&serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": pki.join("ca.crt")}, "webhook": {"enabled": true}},
        "tlsCertFile": pki.join(format!("kubelet-{node}.crt")),
        "tlsPrivateKeyFile": pki.join(format!("kubelet-{node}.key")),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": format!("{NODE_DIRECTORY}/resolv.conf"),
        // A cgroup root of its own: the machine's groups belong to the machine.
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", layout::netns(node)),
        "failCgroupV1": false,
        "failSwapOn": false,
        // The harness may run without CAP_SYS_RESOURCE.
        "featureGates": {"KubeletInUserNamespace": true},
        "maxPods": 250,
        // So that a test sees a log rotated: the least that kubelet takes, every ten seconds by default.
        "containerLogMaxSize": "1Mi",
        "containerLogMonitorInterval": "3s",
        "serializeImagePulls": false,
        // The disk is the developer's: neither its fill level nor our images are kubelet's to judge.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }))?;
    Ok(text)
}

/// How kubelet and kube-proxy are called.
pub(crate) fn command_lines(layout: &Layout, node: NodeNumber) -> [Vec<String>; 2] {
    [
        kubelet_arguments(layout, node),
        proxy_arguments(layout, node),
    ]
}

fn kubelet_arguments(layout: &Layout, node: NodeNumber) -> Vec<String> {
    vec![
        format!("--config={NODE_DIRECTORY}/kubelet.yaml"),
        format!(
            "--kubeconfig={}",
            layout.kubeconfig(&format!("kubelet-{node}")).display()
        ),
        "--root-dir=/var/lib/kubelet".to_owned(),
        format!("--hostname-override={}", layout::node_name(node)),
        format!("--node-ip={}", layout::node_ip(node)),
    ]
}

/// How kube-proxy is configured.
fn proxy_config(layout: &Layout, node: NodeNumber) -> Result<String> {
    let config = serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": layout.kubeconfig("proxy")},
        "hostnameOverride": layout::node_name(node),
        "clusterCIDR": POD_CIDR,
        "mode": "nftables",
        // By default changes within a second become one; a test of what follows a change would measure that second.
        "nftables": {"minSyncPeriod": "10ms"},
        // The machine's connection table is not ours to size.
        "conntrack": {"maxPerCore": 0, "min": 0},
    });
    Ok(serde_yaml::to_string(&config)?)
}

fn proxy_arguments(layout: &Layout, node: NodeNumber) -> Vec<String> {
    let config = layout.node(node).join("kube-proxy.yaml");
    vec![format!("--config={}", config.display())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(Path::new("/src/hearth"), Path::new("/state/cluster")).unwrap()
    }

    #[test]
    fn nodes_differ_in_name_address_and_cgroup_only() {
        let config: serde_json::Value =
            serde_yaml::from_str(&kubelet_config(&layout(), 2).unwrap()).unwrap();
        assert_eq!(config["cgroupRoot"], "/hearth-n2");
        assert_eq!(config["tlsCertFile"], "/state/cluster/pki/kubelet-2.crt");
        assert_eq!(config["clusterDNS"][0], "10.96.0.10");
        let cni: serde_json::Value = serde_json::from_str(&cni_config(2)).unwrap();
        assert_eq!(
            cni["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.244.2.0/24"
        );
    }

    #[test]
    fn containerd_is_left_to_the_installer() {
        for (config, version) in [(containerd_config(), 3), (containerd_1_7_config(), 2)] {
            assert!(!config.contains("imports"));
            assert!(!config.contains("runtimes.hearth"));
            assert!(config.starts_with(&format!("version = {version}")));
        }
    }

    #[test]
    fn the_supervisor_enters_the_network_before_it_leaves_the_mounts() {
        let launch = supervisor_launch(&layout(), 1, Path::new("/x/xtask"));
        assert_eq!(launch.program, Path::new("nsenter"));
        let words = launch.arguments.join(" ");
        assert!(words.starts_with(
            "--net=/run/netns/hearth-n1 -- unshare --mount --propagation=private -- /x/xtask supervise --node=1"
        ));
    }
}
