//! What the machine must offer, and the Debian packages that a cluster needs.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Packages that are always needed, each with what needs it.
const PACKAGES: [(&str, &str); 17] = [
    ("runc", "ordinary containers"),
    ("containernetworking-plugins", "pod networks"),
    ("docker-registry", "images"),
    ("iptables", "pod networks"),
    ("nftables", "Services"),
    ("conntrack", "kube-proxy"),
    ("iproute2", "network namespaces"),
    ("util-linux", "nsenter, unshare and setsid"),
    ("curl", "cargo xtask curl"),
    ("busybox-static", "the pause image and test pods"),
    ("clang-19", "guests in C"),
    ("lld-19", "guests in C"),
    ("wasi-libc", "guests in C"),
    ("libclang-rt-19-dev-wasm32", "guests in C"),
    (
        "libc++-19-dev-wasm32",
        "the JavaScript environment, whose URL parser is in C++",
    ),
    ("kmod", "kube-proxy"),
    ("make", "components in C and Python, as a user builds them"),
];

/// Needed only where the machine has no Node.js of its own.
const NODE_PACKAGES: [&str; 2] = ["nodejs", "npm"];
/// Needed only where the machine has no Python that makes environments, for the tests of clients/python.
const PYTHON_PACKAGES: [&str; 2] = ["python3", "python3-venv"];

/// Checks what cannot be installed from here. Reports everything that is missing at once.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root: the cluster makes network namespaces and mounts; run it with sudo, in a virtual machine or a container that may".to_owned());
    }
    if !runs("apt-get", &["--version"]) {
        missing.push("Debian's apt-get: packages are installed from Debian 12 or later; use such a machine or container".to_owned());
    }
    match Command::new("go").arg("version").output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if go_minor(&text).is_some_and(|minor| minor < 21) {
                missing.push(format!("Go 1.21 or later, which fetches the version it needs; this is {}: see https://go.dev/doc/install", text.trim()));
            }
        }
        _ => missing.push("Go, which builds Kubernetes, containerd, etcd and Helm: install it from https://go.dev/doc/install and put it on PATH".to_owned()),
    }
    ensure!(
        missing.is_empty(),
        "this machine cannot run the cluster. Missing:\n  - {}",
        missing.join("\n  - ")
    );
    Ok(())
}

fn go_minor(version: &str) -> Option<u32> {
    version
        .split_once("go1.")?
        .1
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Packages that are not installed.
pub fn missing_packages() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .output()
        .context("run `dpkg-query`: is this Debian?")?;
    let installed = String::from_utf8_lossy(&output.stdout);
    let mut needed: Vec<&str> = PACKAGES.iter().map(|(package, _)| *package).collect();
    if !runs("node", &["--version"]) {
        needed.extend(NODE_PACKAGES);
    }
    if !runs("python3", &["-c", "import ensurepip, venv"]) {
        needed.extend(PYTHON_PACKAGES);
    }
    Ok(not_installed(&needed, &installed))
}

fn not_installed<'a>(needed: &[&'a str], listing: &str) -> Vec<&'a str> {
    let is_there = |package: &&&str| {
        !listing
            .lines()
            .any(|line| line == format!("{package} installed"))
    };
    needed.iter().filter(is_there).copied().collect()
}

/// Installs packages. Only reached when something is missing, so a later run needs no network.
pub fn install(packages: &[&str]) -> Result<()> {
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments).with_context(|| {
        format!(
            "install {}: the list of sources must have Debian 12 or later",
            packages.join(" ")
        )
    })
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("run `apt-get`")?;
    if !output.status.success() {
        bail!(
            "apt-get {}: {}",
            arguments[0],
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_that_are_installed_count() {
        let listing = "runc installed\niptables-persistent installed\nconntrack config-files\n";
        assert_eq!(
            not_installed(&["runc", "iptables", "conntrack"], listing),
            ["iptables", "conntrack"]
        );
    }

    #[test]
    fn go_versions_are_read() {
        assert_eq!(go_minor("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(go_minor("go version devel"), None);
    }
}
