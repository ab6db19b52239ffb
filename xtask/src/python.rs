//! Python for the tests of `clients/python`: the real packages that the client is for, from PyPI.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Installs what the client's tests need into an environment of its own, unless it is there.
pub(crate) fn install(repository: &Path) -> Result<()> {
    let wanted = repository.join("clients/python/requirements-test.txt");
    let text = fs::read(&wanted).with_context(|| format!("read {}", wanted.display()))?;
    let folder = repository.join("target/tools/python");
    // Written last.
    let stamp = folder.join("installed.txt");
    if fs::read(&stamp).is_ok_and(|installed| installed == text) {
        return Ok(());
    }
    eprintln!("install AutoGen and LangChain for the tests of clients/python (once)");
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    run(make).context("python3 with its module venv is needed; `cargo xtask up` installs it")?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    pip.arg("--requirement").arg(&wanted);
    run(pip)?;
    fs::write(&stamp, text).with_context(|| format!("write {}", stamp.display()))
}

fn run(mut command: Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("start {name}"))?;
    ensure!(status.success(), "{name} failed: see above");
    Ok(())
}
