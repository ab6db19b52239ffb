//! Python for tests: the real packages from PyPI that `clients/python` is for, and what makes components of Python.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is installed, as pip reads it.
const WANTED: [&str; 2] = [
    "clients/python/requirements-test.txt",
    "cli/templates/python/requirements.txt",
];

/// Installs what tests need into an environment of its own, unless it is there.
pub(crate) fn install(repository: &Path) -> Result<()> {
    let wanted = WANTED.map(|path| repository.join(path));
    let mut text = String::new();
    for path in &wanted {
        text += &fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    }
    let folder = repository.join("target/tools/python");
    // Written last.
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == text) {
        return Ok(());
    }
    eprintln!("install AutoGen, LangChain and componentize-py for the tests (once)");
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
    for path in &wanted {
        pip.arg("--requirement").arg(path);
    }
    run(pip)?;
    fs::write(&stamp, text).with_context(|| format!("write {}", stamp.display()))
}

fn run(mut command: Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("start {name}"))?;
    ensure!(status.success(), "{name} failed: see above");
    Ok(())
}
