//! The cluster's certificate authority, its certificates, and the kubeconfig of each user.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::layout::{self, Layout, NodeNumber};

/// A certificate to make: file name, organization (the Kubernetes group), common name (the user), alternative names.
struct Subject {
    file: String,
    group: Option<&'static str>,
    user: String,
    names: Vec<String>,
}

impl Subject {
    fn client(file: &str, group: Option<&'static str>, user: &str) -> Self {
        Self {
            file: file.to_owned(),
            group,
            user: user.to_owned(),
            names: Vec::new(),
        }
    }
}

/// All but the kubelets.
fn subjects() -> Vec<Subject> {
    let masters = Some("system:masters");
    let api_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ];
    let api_addresses = [
        layout::API_SERVICE_IP,
        layout::node_ip(1),
        [127, 0, 0, 1].into(),
    ];
    vec![
        Subject {
            names: (api_names.map(str::to_owned).into_iter())
                .chain(api_addresses.map(|address| address.to_string()))
                .collect(),
            ..Subject::client("apiserver", None, "kube-apiserver")
        },
        Subject::client(
            "apiserver-kubelet",
            masters,
            "kube-apiserver-kubelet-client",
        ),
        Subject::client("front-proxy", None, "front-proxy-client"),
        Subject::client("admin", masters, "admin"),
        Subject::client("controller-manager", None, "system:kube-controller-manager"),
        Subject::client("scheduler", None, "system:kube-scheduler"),
        Subject::client("proxy", None, "system:kube-proxy"),
        Subject::client("dns", None, "system:coredns"),
    ]
}

/// kubelet's own.
fn kubelet(node: NodeNumber) -> Subject {
    let name = layout::node_name(node);
    Subject {
        file: format!("kubelet-{node}"),
        group: Some("system:nodes"),
        user: format!("system:node:{name}"),
        names: vec![name, layout::node_ip(node).to_string()],
    }
}

/// Writes the authority, and certificates and kubeconfigs of all but the kubelets.
pub(crate) fn write(layout: &Layout) -> Result<()> {
    let directory = layout.pki();
    fs::create_dir_all(&directory)?;
    let key = KeyPair::generate()?;
    write_secret(&directory.join("ca.key"), &key.serialize_pem())?;
    let authority = CertifiedIssuer::self_signed(authority()?, key)?;
    fs::write(directory.join("ca.crt"), authority.pem())?;
    for subject in subjects() {
        write_subject(layout, subject, &authority)?;
    }
    let service_accounts = KeyPair::generate()?;
    write_secret(&directory.join("sa.key"), &service_accounts.serialize_pem())?;
    fs::write(directory.join("sa.pub"), service_accounts.public_key_pem())?;
    Ok(())
}

/// Writes certificate and kubeconfig of a node's kubelet, signed by the authority that [`write`] made.
pub(crate) fn write_kubelet(layout: &Layout, node: NodeNumber) -> Result<()> {
    let path = layout.pki().join("ca.key");
    let key = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    // Name and key are all that a signature needs of its issuer.
    let authority = Issuer::new(authority()?, KeyPair::from_pem(&key)?);
    write_subject(layout, kubelet(node), &authority)
}

fn authority() -> Result<CertificateParams> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name = distinguished_name(None, "hearth-cluster");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(authority)
}

fn write_subject(layout: &Layout, subject: Subject, authority: &Issuer<'_, KeyPair>) -> Result<()> {
    let directory = layout.pki();
    let key = KeyPair::generate()?;
    let mut certificate = CertificateParams::new(subject.names)?;
    certificate.distinguished_name = distinguished_name(subject.group, &subject.user);
    certificate.use_authority_key_identifier_extension = true;
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    certificate.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = certificate
        .signed_by(&key, authority)
        .with_context(|| format!("sign the certificate of {}", subject.user))?;
    fs::write(
        directory.join(format!("{}.crt", subject.file)),
        certificate.pem(),
    )?;
    write_secret(
        &directory.join(format!("{}.key", subject.file)),
        &key.serialize_pem(),
    )?;
    let config = kubeconfig(&directory, &subject.file);
    write_secret(&layout.kubeconfig(&subject.file), &config)
}

fn distinguished_name(group: Option<&str>, user: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    name
}

fn kubeconfig(pki: &Path, user: &str) -> String {
    let pki = pki.display();
    // Every node reaches node 1's address; so does whoever runs inside a node's namespace.
    let server = layout::node_ip(1);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: hearth
  cluster: {{server: \"https://{server}:6443\", certificate-authority: {pki}/ca.crt}}
users:
- name: {user}
  user: {{client-certificate: {pki}/{user}.crt, client-key: {pki}/{user}.key}}
contexts:
- name: hearth
  context: {{cluster: hearth, user: {user}}}
current-context: hearth
"
    )
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path);
    let mut file = file.with_context(|| format!("create {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kubelet_is_its_own_user() {
        let kubelet = kubelet(2);
        assert_eq!(kubelet.file, "kubelet-2");
        assert_eq!(kubelet.group, Some("system:nodes"));
        assert_eq!(kubelet.user, "system:node:node2");
        assert!(kubelet.names.contains(&"10.240.0.3".to_owned()));
    }

    #[test]
    fn a_kubeconfig_is_yaml() {
        let text = kubeconfig(Path::new("/x/pki"), "admin");
        let value: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(
            value["clusters"][0]["cluster"]["server"],
            "https://10.240.0.2:6443"
        );
    }
}
