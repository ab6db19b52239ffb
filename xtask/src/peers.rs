//! What benches measure beside our programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use hearth_cluster::Layout;

use crate::images::Build;

/// What `wasmtime serve` needs, and what makes it fast. Without the component model's concurrency it does not compile.
const WASMTIME_FEATURES: &str =
    "run,serve,component-model-async,cranelift,parallel-compilation,pooling-allocator";

/// As `profile.release` is in our Cargo.toml.
const OPTIMISATION: [&str; 2] = [
    r#"profile.release.lto="thin""#,
    "profile.release.codegen-units=4",
];

/// Installs `wasmtime`, of the version that our engine is built from and with the same optimisation, unless it is there.
pub(crate) fn wasmtime(layout: &Layout, build: &Build) -> Result<()> {
    let path = layout.repository().join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let version = locked_version(&lock, "wasmtime").context("Cargo.lock names no wasmtime")?;
    let root = layout.repository().join("target/tools/wasmtime");
    if installed_version(&root.join("bin/wasmtime")).as_deref() == Some(version) {
        return Ok(());
    }
    // Standard output is for figures.
    eprintln!("build wasmtime {version}, a peer (minutes, once)");
    let mut install = build.install();
    install.args(["wasmtime-cli", "--locked"]);
    install.arg(format!("--version={version}"));
    install.args(["--no-default-features", "--features", WASMTIME_FEATURES]);
    for setting in OPTIMISATION {
        install.args(["--config", setting]);
    }
    // Its dependencies have other features than ours, so that nothing would be shared.
    install
        .arg("--target-dir")
        .arg(root.with_extension("build"));
    install.arg("--root").arg(&root);
    let status = install.status().context("run cargo")?;
    ensure!(
        status.success(),
        "cargo install wasmtime-cli failed: see above"
    );
    Ok(())
}

/// The peer of `bench js`, of npm. Its newest release when this was written.
const WORKERD: &str = "1.20261117.1";

/// Installs workerd, unless it is there.
pub(crate) fn workerd(layout: &Layout) -> Result<()> {
    let root = layout.repository().join("target/tools/workerd");
    let package = root.join("node_modules/@cloudflare/workerd-linux-64/package.json");
    let version = format!("\"version\": \"{WORKERD}\"");
    if fs::read_to_string(&package).is_ok_and(|text| text.contains(&version)) {
        return Ok(());
    }
    eprintln!("install workerd {WORKERD}, a peer (once)");
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let status = Command::new("npm")
        .args([
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--prefix",
        ])
        .arg(&root)
        .arg(format!("@cloudflare/workerd-linux-64@{WORKERD}"))
        .status()
        .context("start npm; it comes with Node.js")?;
    ensure!(status.success(), "npm install workerd failed: see above");
    Ok(())
}

/// Builds wasmtime's `InstancePre` with nothing around it. No other chore does: it is linked as long as the engine is.
pub(crate) fn bare_instance(build: &Build) -> Result<()> {
    build.run(&[
        "build",
        "--workspace",
        "--exclude",
        "xtask",
        "--example",
        "bare-instance",
    ])
}

/// The version of a package in a Cargo.lock.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next()?.strip_prefix("version = \"")?;
    version.strip_suffix('"')
}

/// What a program says of itself: `wasmtime 1.2.3 (…)`.
fn installed_version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_whitespace().nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_whole_name() {
        let lock = "[[package]]\nname = \"wasmtime-wasi\"\nversion = \"1.0.0\"\n\n\
            [[package]]\nname = \"wasmtime\"\nversion = \"48.0.8\"\nsource = \"registry\"\n";
        assert_eq!(locked_version(lock, "wasmtime"), Some("48.0.8"));
        assert_eq!(locked_version(lock, "wasm"), None);
    }

    #[test]
    fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(installed_version(Path::new("/nowhere/wasmtime")), None);
    }
}
