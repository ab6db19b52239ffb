//! etcd, API server, controller manager, scheduler and the image registry: their command lines. All of them run in node 1's
//! network namespace.

use std::fs;

use anyhow::{Context, Result};

use crate::layout::{self, Layout, POD_CIDR, SERVICE_CIDR};
use crate::process::{Launch, Part};

/// Writes the registry's configuration; the others have only flags.
pub fn write_configuration(layout: &Layout) -> Result<()> {
    let registry = layout.root().join("registry");
    let data = registry.join("data");
    fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
    fs::write(
        registry.join("config.yml"),
        registry_config(&data.to_string_lossy()),
    )
    .context("write the registry's configuration")
}

/// How each of them is started.
pub fn launches(layout: &Layout) -> Vec<(Part, Launch)> {
    let registry = layout
        .root()
        .join("registry/config.yml")
        .to_string_lossy()
        .into_owned();
    [
        (Part::Etcd, layout.tool("etcd"), etcd(layout)),
        (
            Part::Registry,
            "docker-registry".into(),
            vec!["serve".to_owned(), registry],
        ),
        (
            Part::ApiServer,
            layout.tool("kube-apiserver"),
            api_server(layout),
        ),
        (
            Part::ControllerManager,
            layout.tool("kube-controller-manager"),
            controller_manager(layout),
        ),
        (
            Part::Scheduler,
            layout.tool("kube-scheduler"),
            scheduler(layout),
        ),
    ]
    .into_iter()
    .map(|(part, program, arguments)| {
        (
            part,
            Launch::new(program, arguments).in_netns(&layout::netns(1)),
        )
    })
    .collect()
}

fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

fn etcd(layout: &Layout) -> Vec<String> {
    let client = "http://127.0.0.1:2379".to_owned();
    flags(&[
        (
            "data-dir",
            layout.root().join("etcd").to_string_lossy().into(),
        ),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", "http://127.0.0.1:2380".into()),
        // Nothing here outlives a power cut, so nothing waits for the disk.
        ("unsafe-no-fsync", "true".into()),
    ])
}

fn api_server(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| layout.pki().join(file).to_string_lossy().into_owned();
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379".into()),
        ("secure-port", "6443".into()),
        ("bind-address", "0.0.0.0".into()),
        ("advertise-address", layout::node_ip(1).to_string()),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("client-ca-file", pki("ca.crt")),
        ("service-account-key-file", pki("sa.pub")),
        ("service-account-signing-key-file", pki("sa.key")),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".into(),
        ),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("service-cluster-ip-range", SERVICE_CIDR.into()),
        ("allow-privileged", "true".into()),
        ("kubelet-client-certificate", pki("apiserver-kubelet.crt")),
        ("kubelet-client-key", pki("apiserver-kubelet.key")),
        // Node names do not resolve here; logs and exec would time out.
        ("kubelet-preferred-address-types", "InternalIP".into()),
        // An aggregated API (custom.metrics.k8s.io) needs these six and the routing.
        ("requestheader-client-ca-file", pki("ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        (
            "requestheader-extra-headers-prefix",
            "X-Remote-Extra-".into(),
        ),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        ("proxy-client-cert-file", pki("front-proxy.crt")),
        ("proxy-client-key-file", pki("front-proxy.key")),
        ("enable-aggregator-routing", "true".into()),
    ])
}

fn controller_manager(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| layout.pki().join(file).to_string_lossy().into_owned();
    let kubeconfig = layout
        .kubeconfig("controller-manager")
        .to_string_lossy()
        .into_owned();
    flags(&[
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("use-service-account-credentials", "true".into()),
        ("service-account-private-key-file", pki("sa.key")),
        ("root-ca-file", pki("ca.crt")),
        ("cluster-signing-cert-file", pki("ca.crt")),
        ("cluster-signing-key-file", pki("ca.key")),
        // Each node's pod addresses are fixed by its number.
        ("allocate-node-cidrs", "false".into()),
        ("cluster-cidr", POD_CIDR.into()),
        ("service-cluster-ip-range", SERVICE_CIDR.into()),
        ("leader-elect", "false".into()),
        // The default of 15 s would make every autoscaling test a minute long.
        ("horizontal-pod-autoscaler-sync-period", "1s".into()),
    ])
}

fn scheduler(layout: &Layout) -> Vec<String> {
    let kubeconfig = layout
        .kubeconfig("scheduler")
        .to_string_lossy()
        .into_owned();
    flags(&[
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("leader-elect", "false".into()),
    ])
}

fn registry_config(data: &str) -> String {
    format!(
        "version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {data}}}
  delete: {{enabled: true}}
http: {{addr: \"0.0.0.0:5000\"}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_api_server_serves_aggregated_apis_and_reaches_kubelets() {
        let layout = Layout::new(Path::new("/src/hearth"), Path::new("/state/cluster")).unwrap();
        let arguments = api_server(&layout);
        for expected in [
            "--enable-aggregator-routing=true",
            "--kubelet-preferred-address-types=InternalIP",
            "--requestheader-client-ca-file=/state/cluster/pki/ca.crt",
            "--advertise-address=10.240.0.2",
        ] {
            assert!(
                arguments.iter().any(|argument| argument == expected),
                "{expected}"
            );
        }
    }

    #[test]
    fn the_registry_config_is_yaml() {
        let value: serde_json::Value = serde_yaml::from_str(&registry_config("/r/data")).unwrap();
        assert_eq!(value["http"]["addr"], "0.0.0.0:5000");
    }
}
