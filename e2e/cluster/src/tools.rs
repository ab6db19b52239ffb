//! The cluster's programs, built from the Go modules in `tools/`, which pin every one of them by hash.
//!
//! The first build takes about ten minutes on two processors; a stamp keeps later runs from asking Go at all.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::image::digest;
use crate::layout::Layout;
use crate::process::write_atomically;
use crate::steps::Steps;

/// A program: the Go package, and what the program is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    package: String,
    program: String,
}

/// One Go module.
#[derive(Debug)]
struct Module {
    directory: PathBuf,
    targets: Vec<Target>,
    link_flags: String,
    stamp: String,
}

/// Which containerd a cluster's nodes have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Containerd {
    /// The one that Kubernetes is tested with, from the same module.
    #[default]
    V2,
    /// The line before that.
    V2_3,
    /// The last line that does not tell shims which it is.
    V2_2,
    /// The last line before 2.0, which many nodes still have.
    V1_7,
}

impl Containerd {
    const ALL: [Self; 4] = [Self::V2, Self::V2_3, Self::V2_2, Self::V1_7];

    /// A module of its own, where it has one.
    fn module(self) -> Option<&'static str> {
        match self {
            Self::V2 => None,
            Self::V2_3 => Some("containerd-2.3"),
            Self::V2_2 => Some("containerd-2.2"),
            Self::V1_7 => Some("containerd-1.7"),
        }
    }

    /// Where its programs are.
    pub(crate) fn folder(self, layout: &Layout) -> PathBuf {
        let module = self.module();
        module.map_or_else(|| layout.tools(), |module| folder(layout, module))
    }
}

impl fmt::Display for Containerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "2",
            Self::V2_3 => "2.3",
            Self::V2_2 => "2.2",
            Self::V1_7 => "1.7",
        })
    }
}

impl FromStr for Containerd {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL
            .into_iter()
            .find(|known| known.to_string() == text);
        known.with_context(|| {
            let all = Self::ALL.map(|known| known.to_string()).join(", ");
            format!("{text:?} is no containerd of ours; there are {all}")
        })
    }
}

/// Modules whose programs every cluster has.
const MODULES: [&str; 3] = ["kubernetes", "etcd", "coredns"];

fn modules(containerd: Containerd) -> impl Iterator<Item = &'static str> {
    MODULES.into_iter().chain(containerd.module())
}

/// Where a module's programs go: those of another containerd, and KEDA's, have names that are taken.
fn folder(layout: &Layout, module: &str) -> PathBuf {
    match MODULES.contains(&module) {
        true => layout.tools(),
        false => layout.tools().with_file_name(module),
    }
}

/// Builds what is not built yet.
pub fn build(layout: &Layout, containerd: Containerd, steps: &Steps) -> Result<()> {
    modules(containerd).try_for_each(|name| build_module(layout, name, steps))
}

fn build_module(layout: &Layout, name: &str, steps: &Steps) -> Result<()> {
    let module = read(layout, name)?;
    let folder = folder(layout, name);
    let stamp_file = layout.tools().with_file_name(format!("{name}.stamp"));
    let is_current = fs::read_to_string(&stamp_file).is_ok_and(|stamp| stamp == module.stamp)
        && module
            .targets
            .iter()
            .all(|target| folder.join(&target.program).is_file());
    if is_current {
        return Ok(());
    }
    let programs: Vec<&str> = module
        .targets
        .iter()
        .map(|target| target.program.as_str())
        .collect();
    steps.step(format!(
        "build {} (Go; minutes the first time)",
        programs.join(", ")
    ));
    go_build(&module, &folder)?;
    write_atomically(&stamp_file, module.stamp.as_bytes())
}

/// The module of KEDA, which one case needs.
const KEDA: &str = "keda";

/// KEDA, built from its module.
#[derive(Debug)]
pub struct Keda {
    /// Its operator.
    pub operator: PathBuf,
    /// What serves external metrics.
    pub adapter: PathBuf,
    /// Its own manifests, as its releases are made of them.
    pub manifests: PathBuf,
}

impl Keda {
    /// Builds it, which takes a quarter of an hour the first time.
    pub fn build(layout: &Layout, steps: &Steps) -> Result<()> {
        build_module(layout, KEDA, steps)
    }

    /// What was built; nothing where it was not.
    pub fn find(layout: &Layout) -> Result<Option<Self>> {
        let folder = folder(layout, KEDA);
        let [operator, adapter] = ["operator", "adapter"].map(|program| folder.join(program));
        if !operator.is_file() || !adapter.is_file() {
            return Ok(None);
        }
        let output = Command::new("go")
            .args(["list", "-mod=readonly", "-m", "-f={{.Dir}}"])
            .arg("github.com/kedacore/keda/v2")
            .current_dir(layout.repository().join("tools").join(KEDA))
            .output()
            .context("run `go`: is it on PATH?")?;
        ensure!(output.status.success(), "go list: {output:?}");
        let directory = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Some(Self {
            operator,
            adapter,
            manifests: Path::new(&directory).join("config"),
        }))
    }
}

/// A digest of everything that the programs are built from.
pub fn fingerprint(layout: &Layout, containerd: Containerd) -> Result<String> {
    let stamps: Result<Vec<String>> = modules(containerd)
        .map(|name| Ok(read(layout, name)?.stamp))
        .collect();
    Ok(digest(stamps?.join(" ").as_bytes()))
}

fn read(layout: &Layout, name: &str) -> Result<Module> {
    let directory = layout.repository().join("tools").join(name);
    let file = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let go_mod = file("go.mod")?;
    let (targets, source) = match name {
        "coredns" => (
            vec![Target {
                package: ".".to_owned(),
                program: name.to_owned(),
            }],
            file("main.go")?,
        ),
        _ => (tool_targets(&go_mod), String::new()),
    };
    let link_flags = link_flags(&go_mod);
    let inputs = [&go_mod, &file("go.sum")?, &source, &link_flags]
        .map(String::as_str)
        .join("\0");
    Ok(Module {
        directory,
        targets,
        link_flags,
        stamp: digest(inputs.as_bytes()),
    })
}

/// The `tool` lines of a go.mod.
fn tool_targets(go_mod: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut in_block = false;
    for line in go_mod.lines().map(str::trim) {
        let package = match line {
            "tool (" => {
                in_block = true;
                continue;
            }
            ")" => {
                in_block = false;
                continue;
            }
            _ if in_block => line,
            _ => match line.strip_prefix("tool ") {
                Some(package) => package.trim(),
                None => continue,
            },
        };
        // etcd's server is a module of its own, whose last element is a version.
        let program = match package {
            "go.etcd.io/etcd/server/v3" => "etcd",
            _ => package.rsplit('/').next().unwrap_or(package),
        };
        targets.push(Target {
            package: package.to_owned(),
            program: program.to_owned(),
        });
    }
    targets
}

/// Versions that the programs report; without them a kubelet calls itself v0.0.0 and the API server's version checks fail.
fn link_flags(go_mod: &str) -> String {
    let mut flags = "-s -w".to_owned();
    if let Some(version) = module_version(go_mod, "k8s.io/kubernetes") {
        let mut numbers = version.trim_start_matches('v').split('.');
        let base = "k8s.io/component-base/version";
        flags += &format!(" -X {base}.gitVersion={version} -X {base}.gitTreeState=clean");
        for part in ["gitMajor", "gitMinor"] {
            flags += &format!(" -X {base}.{part}={}", numbers.next().unwrap_or("0"));
        }
    }
    for module in [
        "github.com/containerd/containerd/v2",
        "github.com/containerd/containerd",
    ] {
        if let Some(version) = module_version(go_mod, module) {
            flags += &format!(" -X {module}/version.Version={version}");
        }
    }
    flags
}

fn module_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line
            .trim()
            .trim_start_matches("require ")
            .split_whitespace();
        (words.next() == Some(module))
            .then(|| words.next().map(str::to_owned))
            .flatten()
    })
}

/// Builds a module's programs into `folder`: several at once, so that one links while another compiles.
fn go_build(module: &Module, folder: &Path) -> Result<()> {
    let output = match &module.targets[..] {
        // Go names it after its package, which is not always what it is called.
        [target] => folder.join(&target.program),
        _ => folder.to_owned(),
    };
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let packages = module.targets.iter().map(|target| &target.package);
    let status = Command::new("go")
        .args([
            "build",
            "-mod=readonly",
            "-trimpath",
            "-tags=no_btrfs,no_zfs",
            // Nobody debugs them.
            "-gcflags=all=-dwarf=false",
        ])
        .args(["-ldflags", &module.link_flags, "-o"])
        .arg(output)
        .args(packages)
        .env("CGO_ENABLED", "0")
        .current_dir(&module.directory)
        .status()
        .context("run `go`: is it on PATH?")?;
    ensure!(
        status.success(),
        "go build in {} failed: see above; the first build needs the Go module proxy",
        module.directory.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module x\n\ntool go.etcd.io/etcd/server/v3\n\ntool (\n\tk8s.io/kubernetes/cmd/kubelet\n)\n\nrequire k8s.io/kubernetes v1.37.2 // indirect\n";

    #[test]
    fn programs_come_from_the_tool_lines() {
        let names: Vec<String> = tool_targets(GO_MOD)
            .into_iter()
            .map(|t| t.program)
            .collect();
        assert_eq!(names, ["etcd", "kubelet"]);
    }

    #[test]
    fn each_containerd_has_a_name_and_a_folder() {
        let layout = Layout::new(Path::new("/src/hearth"), Path::new("/state/cluster")).unwrap();
        for (name, folder) in [
            ("2", "/src/hearth/target/tools/bin"),
            ("2.2", "/src/hearth/target/tools/containerd-2.2"),
            ("1.7", "/src/hearth/target/tools/containerd-1.7"),
        ] {
            let containerd: Containerd = name.parse().unwrap();
            assert_eq!(containerd.to_string(), name);
            assert_eq!(containerd.folder(&layout), Path::new(folder));
        }
        "1.6".parse::<Containerd>().unwrap_err();
    }

    #[test]
    fn programs_know_their_version() {
        let flags = link_flags(GO_MOD);
        assert!(flags.contains("gitVersion=v1.37.2"));
        assert!(flags.contains("gitMajor=1") && flags.contains("gitMinor=37"));
        assert!(!flags.contains("containerd"));
    }
}
