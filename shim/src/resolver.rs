//! The pod's name resolution, read from the files that kubelet made for it. Parsing is pure.

use std::path::Path;

use hearth_contract::proto::{HostAlias, Resolver};

use crate::pod_file::read_no_link;
use crate::spec::Spec;

/// Largest file that is read, in bytes.
const FILE_BYTES: u64 = 64 << 10;

/// Reads what the pod's `/etc/resolv.conf` and `/etc/hosts` say. A file that is not there says nothing.
pub fn of_pod(spec: &Spec) -> Resolver {
    let read = |path: &str| {
        let host_path = spec.host_path(Path::new(path))?;
        read_no_link(&host_path, FILE_BYTES)
            .map_err(|error| tracing::warn!(path, %error, "the pod's file cannot be read"))
            .ok()
    };
    let mut resolver = resolv_conf(&read("/etc/resolv.conf").unwrap_or_default());
    resolver.hosts = hosts(&read("/etc/hosts").unwrap_or_default());
    resolver
}

fn resolv_conf(text: &str) -> Resolver {
    let mut resolver = Resolver {
        ndots: 1,
        ..Resolver::default()
    };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            // The last line counts.
            Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
            Some("options") => {
                for word in words {
                    if let Some(ndots) = word.strip_prefix("ndots:") {
                        resolver.ndots = ndots.parse().unwrap_or(1).min(15);
                    }
                }
            }
            _ => {}
        }
    }
    resolver
}

fn hosts(text: &str) -> Vec<HostAlias> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let address = words.next()?.to_owned();
            let names: Vec<_> = words.map(str::to_owned).collect();
            (!names.is_empty()).then_some(HostAlias { address, names })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_resolver() {
        let examples = [
            "nameserver 10.96.0.10\nsearch a.svc b.svc\noptions ndots:5 edns0\n",
            "127.0.0.1\tlocalhost # this\n10.0.0.9 orders orders.default\n",
        ];
        hearth_fuzz::text("fuzz_resolver", &examples, |input| {
            assert!(resolv_conf(input).ndots <= 15);
            assert!(hosts(input).iter().all(|alias| !alias.names.is_empty()));
        });
    }

    #[test]
    fn kubelets_files_are_read() {
        let resolver = resolv_conf(
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5 timeout:2\n",
        );
        assert_eq!(resolver.nameservers, ["10.96.0.10", "fd00::10"]);
        assert_eq!(
            resolver.search,
            ["default.svc.cluster.local", "svc.cluster.local"]
        );
        assert_eq!(resolver.ndots, 5);
        let aliases =
            hosts("# Kubernetes-managed\n127.0.0.1\tlocalhost\n10.0.0.7 pod a # self\n\n::1\n");
        assert_eq!(aliases.len(), 2);
        assert_eq!(aliases[1].names, ["pod", "a"]);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(resolv_conf("").ndots, 1);
        assert!(hosts("").is_empty());
    }
}
