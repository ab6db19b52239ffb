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
    /// The servers say that there is none.
    #[error("{0} cannot be resolved: no such name")]
    Unknown(String),
    /// The servers failed.
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
        let resolver = (!servers.is_empty()).then(|| resolver(wire, servers));
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
            .map_err(|error| match error.is_nx_domain() {
                true => LookupError::Unknown(host.to_owned()),
                false => LookupError::Failed {
                    name: host.to_owned(),
                    problem: error.to_string(),
                },
            })?;
        Ok(answer
            .iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }
}

fn resolver(wire: &proto::Resolver, servers: Vec<NameServerConfig>) -> Option<TokioResolver> {
    let search = wire.search.iter();
    let search = search.filter_map(|name| name.parse().ok()).collect();
    let config = ResolverConfig::from_parts(None, search, servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().ndots = wire.ndots.max(1) as usize;
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    /// Names of a server that answers every question with this code.
    async fn answering(code: u8) -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut message = [0; 512];
            loop {
                let (length, asker) = socket.recv_from(&mut message).await.unwrap();
                // An answer to the same question, with nothing in it but the code.
                message[2] |= 0x80;
                message[3] = 0x80 | code;
                socket.send_to(&message[..length], asker).await.unwrap();
            }
        });
        let mut server = NameServerConfig::udp(address.ip());
        server.connections[0].port = address.port();
        Names {
            hosts: HashMap::new(),
            resolver: resolver(&proto::Resolver::default(), vec![server]),
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_differs_from_a_server_that_fails() {
        let unknown = answering(3).await.lookup("a.example.", 80).await;
        assert!(
            matches!(unknown, Err(LookupError::Unknown(_))),
            "{unknown:?}"
        );
        let failed = answering(2).await.lookup("a.example.", 80).await;
        assert!(
            matches!(failed, Err(LookupError::Failed { .. })),
            "{failed:?}"
        );
    }

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
