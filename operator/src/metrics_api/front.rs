//! Who asks: the API server's front proxy, by its client certificate, and the user that it names.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::Certificates;

/// Where the API server says how it is to be known: namespace and name.
const CONFIG: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

/// The user of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct User {
    /// Name.
    pub(super) name: String,
    /// UID, where there is one.
    pub(super) uid: String,
    /// Groups.
    pub(super) groups: Vec<String>,
    /// More, by key.
    pub(super) extra: Vec<(String, Vec<String>)>,
}

/// How the API server is known.
pub(super) struct Front {
    /// Our certificate, and the authority of the caller's.
    pub(super) tls: Arc<ServerConfig>,
    /// Common names of certificates that may name users. Empty: any that the authority signed.
    names: Vec<String>,
    users: Vec<String>,
    uids: Vec<String>,
    groups: Vec<String>,
    extras: Vec<String>,
}

/// Follows the API server's configuration. `None` while it is not known.
pub(super) fn watch(
    client: Client,
    certificates: Certificates,
    stop: CancellationToken,
) -> watch::Receiver<Option<Arc<Front>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let api: Api<ConfigMap> = Api::namespaced(client, CONFIG.0);
        let follow = watcher::watch_object(api, CONFIG.1)
            .default_backoff()
            .for_each(|event| {
                let front = match event {
                    Ok(Some(config)) => Front::new(&config, &certificates).map(Arc::new),
                    Ok(None) => Err(anyhow::anyhow!("the ConfigMap is not there")),
                    Err(error) => Err(error).context("watch"),
                };
                match front {
                    Ok(front) => drop(sender.send_replace(Some(front))),
                    // What was known stays: a watch that is lost for a moment changes nothing.
                    Err(error) => tracing::warn!(
                        error = %format!("{error:#}"),
                        "{}/{} does not say how the API server is known; custom metrics wait for it",
                        CONFIG.0,
                        CONFIG.1
                    ),
                }
                std::future::ready(())
            });
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    });
    receiver
}

impl Front {
    /// From the API server's ConfigMap and our own certificate.
    ///
    /// # Errors
    /// When one of them lacks what is needed, or cannot be read.
    pub(super) fn new(config: &ConfigMap, certificates: &Certificates) -> Result<Self> {
        let text = |key: &str| config.data.as_ref().and_then(|data| data.get(key));
        let list = |key: &str| -> Result<Vec<String>> {
            let list = text(key).map_or("[]", String::as_str);
            serde_json::from_str(list).with_context(|| format!("{key} is no list"))
        };
        let authority = text("requestheader-client-ca-file").context(
            "requestheader-client-ca-file is not set: the API server aggregates no APIs",
        )?;
        let users = list("requestheader-username-headers")?;
        ensure!(!users.is_empty(), "requestheader-username-headers is empty");
        Ok(Self {
            tls: Arc::new(tls(authority, certificates)?),
            names: list("requestheader-allowed-names")?,
            users,
            uids: list("requestheader-uid-headers")?,
            groups: list("requestheader-group-headers")?,
            extras: list("requestheader-extra-headers-prefix")?
                .into_iter()
                .map(|prefix| prefix.to_lowercase())
                .collect(),
        })
    }

    /// Whether the first certificate of a chain, which the handshake has verified, may name users.
    pub(super) fn is_allowed(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((_, first)) = chain
            .first()
            .and_then(|first| X509Certificate::from_der(first).ok())
        else {
            return false;
        };
        let mut names = first.subject().iter_common_name();
        self.names.is_empty()
            || names.any(|name| {
                name.as_str()
                    .is_ok_and(|name| self.names.iter().any(|allowed| allowed == name))
            })
    }

    /// The user that a request names.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let first = |names: &[String]| {
            let values = names.iter().filter_map(|name| headers.get(name.as_str()));
            let mut values = values.filter_map(|value| value.to_str().ok());
            values.find(|value| !value.is_empty()).map(str::to_owned)
        };
        let groups = self
            .groups
            .iter()
            .flat_map(|name| headers.get_all(name.as_str()));
        let groups = groups.filter_map(|value| value.to_str().ok().map(str::to_owned));
        Some(User {
            name: first(&self.users)?,
            uid: first(&self.uids).unwrap_or_default(),
            groups: groups.collect(),
            extra: self.extra(headers),
        })
    }

    fn extra(&self, headers: &HeaderMap) -> Vec<(String, Vec<String>)> {
        let key = |name: &http::HeaderName| {
            let mut prefixes = self.extras.iter();
            let key = prefixes.find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()))?;
            Some(decoded(key))
        };
        let extra = headers.keys().filter_map(|name| {
            let values = headers.get_all(name).iter();
            let values = values.filter_map(|value| value.to_str().ok().map(str::to_owned));
            Some((key(name)?, values.collect()))
        });
        extra.collect()
    }
}

/// A key of extra fields, in which the API server percent-encodes what a header's name cannot hold.
fn decoded(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tls(authority: &str, certificates: &Certificates) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.context("requestheader-client-ca-file")?;
        roots
            .add(certificate)
            .context("requestheader-client-ca-file")?;
    }
    // One without a certificate is answered 401, which says more than a broken handshake.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("requestheader-client-ca-file")?;
    let own = CertificateDer::pem_slice_iter(certificates.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("our certificate")?;
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).context("our key")?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own, key)
        .context("our certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_extra_fields_are_decoded() {
        for (key, expected) in [
            ("scopes", "scopes"),
            (
                "authentication.kubernetes.io%2fpod-name",
                "authentication.kubernetes.io/pod-name",
            ),
            ("a%2", "a%2"),
            ("a%zz", "a%zz"),
            ("%25", "%"),
        ] {
            assert_eq!(decoded(key), expected);
        }
    }
}
