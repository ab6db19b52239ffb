//! Building our programs as static executables, and the images that they ship in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use hearth_cluster::Image;
use hearth_cluster::image::{Pack, Packed};

use crate::bundles;
use crate::run_inside::executable_in;

/// How cargo is called. Every build of `xtask` has the same target and flags, so that one set of artifacts serves the images,
/// the tests and clippy.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    repository: PathBuf,
    triple: String,
    is_release: bool,
    with_tests: bool,
}

impl Build {
    /// For this machine, in the profile `dev` or `release`.
    pub(crate) fn new(repository: &Path, is_release: bool) -> Result<Self> {
        let output = Command::new("rustc")
            .arg("-vV")
            .current_dir(repository)
            .output();
        let output = output.context("run `rustc`: is Rust on PATH?")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
        let triple = triple.context("rustc -vV names no host")?.to_owned();
        Ok(Self {
            repository: repository.to_owned(),
            triple,
            is_release,
            with_tests: false,
        })
    }

    /// For runs that test too: programs then have the features that tests switch on, and one set of dependencies serves
    /// both.
    pub(crate) fn with_tests(self) -> Self {
        Self {
            with_tests: true,
            ..self
        }
    }

    /// The clone.
    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }

    /// Where programs end up.
    pub(crate) fn directory(&self) -> PathBuf {
        let profile = if self.is_release { "release" } else { "debug" };
        self.repository
            .join("target")
            .join(&self.triple)
            .join(profile)
    }

    /// A program's path.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// `cargo <subcommand> --target … --config … <rest>`.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare_cargo();
        command.args(self.arguments(arguments));
        command
    }

    /// `cargo install --target … --config …`, for programs that are not ours: what follows says which, and where to.
    pub(crate) fn install(&self) -> Command {
        let mut command = self.bare_cargo();
        command.arg("install").args(self.target());
        command
    }

    fn bare_cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.repository);
        // What cargo told this program of its own package. Build scripts that ask to be run again when it changes would
        // be, and much with them, whenever somebody calls cargo by hand in between.
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        for (name, _) in std::env::vars_os() {
            if told
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
    }

    fn target(&self) -> [String; 4] {
        let triple = &self.triple;
        // Static executables run in images without a libc. Macros load at build time and cannot be static, which is why
        // the target is named: flags then do not apply to them.
        let flags = format!(r#"target.{triple}.rustflags=["-C","target-feature=+crt-static"]"#);
        [
            "--config".to_owned(),
            flags,
            "--target".to_owned(),
            triple.clone(),
        ]
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let (subcommand, rest) = arguments.split_first().unwrap_or((&"build", &[]));
        let mut all = vec![(*subcommand).to_owned()];
        all.extend(self.target());
        // One target directory, whatever the caller's environment says.
        all.extend(["--target-dir".to_owned(), "target".to_owned()]);
        if self.is_release {
            all.push("--release".to_owned());
        }
        all.extend(rest.iter().map(|word| (*word).to_owned()));
        all
    }

    /// Runs it, its output going to the terminal.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<()> {
        let status = self.cargo(arguments).status().context("run cargo")?;
        ensure!(
            status.success(),
            "cargo {} failed: see above",
            arguments.join(" ")
        );
        Ok(())
    }

    /// Builds all programs.
    pub(crate) fn programs(&self) -> Result<()> {
        // The whole workspace: a part of it has other features, and would compile most of the dependencies once more.
        let mut arguments = vec!["build", "--workspace", "--exclude", "xtask", "--bins"];
        if self.with_tests {
            arguments.push("--tests");
        }
        self.run(&arguments)
    }

    /// Builds one executable and returns its path, which for tests is not known before.
    pub(crate) fn executable(&self, arguments: &[&str], name: &str) -> Result<PathBuf> {
        let mut command = self.cargo(arguments);
        command
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit());
        let output = command.output().context("run cargo")?;
        ensure!(
            output.status.success(),
            "cargo {} failed: see above",
            arguments.join(" ")
        );
        executable_in(&String::from_utf8_lossy(&output.stdout), name)
            .with_context(|| format!("cargo built no executable {name}"))
    }
}

/// An image of ours and its name.
pub(crate) struct Named {
    /// The last part of the repository: `operator`, `installer`, `pool`.
    pub(crate) part: &'static str,
    /// The image.
    pub(crate) image: Packed,
}

impl Named {
    /// The name in a pod.
    pub(crate) fn name(&self) -> String {
        format!("{REPOSITORY}/{}:{TAG}", self.part)
    }
}

/// Where our images are.
pub(crate) const REPOSITORY: &str = "localhost:5000/hearth";
/// Their tag.
pub(crate) const TAG: &str = "dev";

/// Makes images of the built programs.
pub(crate) fn pack(build: &Build) -> Result<Vec<Named>> {
    let operator = Image::new()
        .program("/hearth-operator", &build.program("hearth-operator"))?
        .directory("/tmp")
        .entrypoint(["/hearth-operator"])
        .user("65532:65532");
    let mut installer = Image::new()
        .program("/hearth-installer", &build.program("hearth-installer"))?
        .entrypoint(["/hearth-installer"]);
    for program in ["containerd-shim-hearth-v1", "hearth-engine"] {
        installer = installer.program(
            &format!("/opt/hearth/bin/{program}"),
            &build.program(program),
        )?;
    }
    let javascript = bundles::directory(build.repository()).join("hearth-javascript.wasm");
    installer = installer.program("/opt/hearth/bin/hearth-javascript.wasm", &javascript)?;
    // Nothing of it runs: it only names what a pool pod is.
    let pool = Image::new()
        .file(
            "/hearth-pool",
            0o644,
            "A pod with this image and the runtime class \"hearth\" hosts instances of AgentFunctions.\n",
        );
    [
        ("operator", operator),
        ("installer", installer),
        ("pool", pool),
    ]
    .into_iter()
    .map(|(part, image)| {
        Ok(Named {
            part,
            image: image.pack()?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_build_is_static_and_names_its_target() {
        let build = Build {
            repository: "/src/hearth".into(),
            triple: "x86_64-unknown-linux-gnu".to_owned(),
            is_release: true,
            with_tests: false,
        };
        let words = build.arguments(&["test", "--workspace"]).join(" ");
        assert!(words.starts_with("test --config target.x86_64-unknown-linux-gnu.rustflags="));
        assert!(words.contains("+crt-static"));
        assert!(words.ends_with(
            "--target x86_64-unknown-linux-gnu --target-dir target --release --workspace"
        ));
        assert!(
            build
                .program("x")
                .ends_with("target/x86_64-unknown-linux-gnu/release/x")
        );
    }
}
