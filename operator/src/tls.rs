//! The stream's certificates: an authority and a certificate of our own making, kept in a Secret, so that no other
//! component has to be there.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// Name of the Secret.
const SECRET: &str = "hearth-stream-tls";

/// PEM texts.
#[derive(Clone)]
pub(crate) struct Certificates {
    /// The authority, which pool pods are given.
    pub(crate) ca: String,
    /// The server's certificate.
    pub(crate) certificate: String,
    /// The server's key.
    pub(crate) key: String,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

/// Reads the Secret, or makes it. Of two replicas that make it at once, one wins and both use its.
///
/// # Errors
/// When the Secret can be neither read nor made, or lacks a field.
pub(crate) async fn load(client: &Client, namespace: &str, name: &str) -> Result<Certificates> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Some(secret) = secrets
        .get_opt(SECRET)
        .await
        .context("read the Secret hearth-stream-tls")?
    {
        return parse(&secret);
    }
    let made = make(name)?;
    let field = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            field("ca.crt", &made.ca),
            field("tls.crt", &made.certificate),
            field("tls.key", &made.key),
        ])),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(made),
        Err(kube::Error::Api(status)) if status.code == 409 => parse(&secrets.get(SECRET).await?),
        Err(error) => Err(error).context("make the Secret hearth-stream-tls"),
    }
}

fn parse(secret: &Secret) -> Result<Certificates> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        let bytes = bytes.with_context(|| {
            format!("the Secret {SECRET} has no {name}; delete it, and it is made anew")
        })?;
        String::from_utf8(bytes.0.clone())
            .with_context(|| format!("{name} of the Secret {SECRET} is no PEM"))
    };
    Ok(Certificates {
        ca: field("ca.crt")?,
        certificate: field("tls.crt")?,
        key: field("tls.key")?,
    })
}

/// An authority and a certificate of it for a server of this DNS name.
///
/// # Errors
/// When the name is none.
pub(crate) fn make(name: &str) -> Result<Certificates> {
    // No clock: the bounds are far apart, and deleting the Secret makes new ones.
    let (from, to) = (date_time_ymd(2025, 1, 1), date_time_ymd(2045, 1, 1));
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "hearth-stream-ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (ca.not_before, ca.not_after) = (from, to);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec![name.to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, name);
    (server.not_before, server.not_after) = (from, to);
    let issuer = Issuer::from_params(&ca, &ca_key);
    let certificate = server.signed_by(&key, &issuer)?;
    Ok(Certificates {
        ca: ca_certificate.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_read_back() {
        let made = make("hearth-operator.hearth-system.svc").unwrap();
        assert!(made.ca.contains("BEGIN CERTIFICATE") && made.key.contains("PRIVATE KEY"));
        let error = parse(&Secret::default()).unwrap_err().to_string();
        assert!(
            error.contains("ca.crt") && error.contains("delete it"),
            "{error}"
        );
    }
}
