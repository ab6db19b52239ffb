//! Names of Services: CoreDNS in node 1's network namespace, behind a `kube-dns` Service without a selector.

use std::fs;

use anyhow::Result;

use crate::layout::{self, DNS_SERVICE_IP, Layout};
use crate::process::{Launch, Part, start};

/// Starts CoreDNS. It waits for the API server by itself.
pub fn start_dns(layout: &Layout) -> Result<()> {
    let corefile = layout.root().join("Corefile");
    fs::write(
        &corefile,
        render_corefile(&layout.kubeconfig("dns").to_string_lossy()),
    )?;
    let arguments = ["-conf".to_owned(), corefile.to_string_lossy().into_owned()];
    let launch = Launch::new(layout.tool("coredns"), arguments).in_netns(&layout::netns(1));
    start(layout, Part::Dns, launch)?;
    Ok(())
}

fn render_corefile(kubeconfig: &str) -> String {
    let address = layout::node_ip(1);
    format!(
        ".:53 {{
    bind {address}
    errors
    ready {address}:8181
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 5
    }}
}}
"
    )
}

/// The Service that pods ask, its endpoint, and what CoreDNS may read.
pub fn manifests() -> String {
    let address = layout::node_ip(1);
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: hearth-cluster-dns}}
rules:
- {{apiGroups: [\"\"], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: hearth-cluster-dns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: hearth-cluster-dns}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: \"system:coredns\"}}]
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system}}
spec:
  clusterIP: {DNS_SERVICE_IP}
  ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {{kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{{addresses: [\"{address}\"], conditions: {{ready: true}}}}]
ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn manifests_are_yaml_and_agree_on_the_address() {
        let documents: Vec<serde_json::Value> = serde_yaml::Deserializer::from_str(&manifests())
            .map(|document| serde_json::Value::deserialize(document).unwrap())
            .collect();
        assert_eq!(documents.len(), 4);
        assert_eq!(documents[2]["spec"]["clusterIP"], "10.96.0.10");
        assert_eq!(documents[3]["endpoints"][0]["addresses"][0], "10.240.0.2");
        assert!(render_corefile("/k").contains("bind 10.240.0.2"));
    }
}
