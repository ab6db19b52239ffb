//! Names to addresses, from given servers: the process has no file system to read resolv.conf from.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hearth_contract::proto;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// How long one look-up may take.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No server was given, and the name is in no hosts file.
    #[error("no DNS server is configured for this pod, so {0} cannot be resolved")]
    NoServer(String),
    /// The servers said no.
    #[error("{name} cannot be resolved: {problem}")]
    Failed {
        /// The name.
        name: String,
        /// What the servers said.
        problem: String,
    },
    /// The servers said nothing.
    #[error("{0} was not resolved within 5 s")]
    Timeout(String),
}

/// Resolves names as the pod's resolv.conf and hosts file say.
#[derive(Clone, Default)]
pub struct Names {
    hosts: HashMap<String, IpAddr>,
    resolver: Option<TokioResolver>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names")
            .field("hosts", &self.hosts.len())
            .field("servers", &self.resolver.is_some())
            .finish()
    }
}

impl Names {
    /// From what the shim read. Addresses that cannot be parsed are left out.
    pub fn new(wire: &proto::Resolver) -> Self {
        let mut hosts = HashMap::new();
        for alias in &wire.hosts {
            if let Ok(address) = alias.address.parse::<IpAddr>() {
                // The first line wins, as in a hosts file.
                for name in &alias.names {
                    hosts.entry(name.to_ascii_lowercase()).or_insert(address);
                }
            }
        }
        let servers: Vec<_> = wire
            .nameservers
            .iter()
            .filter_map(|server| server.parse().ok())
            .map(NameServerConfig::udp_and_tcp)
            .collect();
        let search = wire
            .search
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        let resolver = (!servers.is_empty()).then(|| {
            let config = ResolverConfig::from_parts(None, search, servers);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().ndots = wire.ndots.max(1) as usize;
            builder.build().ok()
        });
        Self {
            hosts,
            resolver: resolver.flatten(),
        }
    }

    /// From this machine's own resolv.conf, for `hearth serve`.
    pub fn of_this_machine() -> Self {
        let resolver = TokioResolver::builder_tokio()
            .ok()
            .and_then(|builder| builder.build().ok());
        let hosts = HashMap::from([("localhost".to_owned(), IpAddr::from([127, 0, 0, 1]))]);
        Self { hosts, resolver }
    }

    /// Addresses of `host` (a name or an address, IPv6 in brackets) with `port`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn lookup(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        if let Some(address) = self.hosts.get(&host.to_ascii_lowercase()) {
            return Ok(vec![(*address, port).into()]);
        }
        let Some(resolver) = &self.resolver else {
            return Err(LookupError::NoServer(host.to_owned()));
        };
        let answer = tokio::time::timeout(LOOKUP_DEADLINE, resolver.lookup_ip(host))
            .await
            .map_err(|_| LookupError::Timeout(host.to_owned()))?
            .map_err(|error| LookupError::Failed {
                name: host.to_owned(),
                problem: error.to_string(),
            })?;
        Ok(answer
            .iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_hosts_need_no_server() {
        let names = Names::new(&proto::Resolver {
            hosts: vec![proto::HostAlias {
                address: "10.0.0.9".to_owned(),
                names: vec!["Orders".to_owned()],
            }],
            ..proto::Resolver::default()
        });
        for (host, expected) in [
            ("10.1.2.3", "10.1.2.3:80"),
            ("[::1]", "[::1]:80"),
            ("orders", "10.0.0.9:80"),
        ] {
            assert_eq!(
                names.lookup(host, 80).await.unwrap()[0].to_string(),
                expected
            );
        }
        let error = names.lookup("elsewhere", 80).await.unwrap_err();
        assert!(error.to_string().contains("no DNS server"), "{error}");
    }
}
