//! Runs the fuzz targets: unit tests whose names begin with `fuzz_`, see `fuzz/src/lib.rs`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hearth_cluster::Layout;

use crate::images::Build;

/// The variable that says how long each target runs.
const SECONDS: &str = "HEARTH_FUZZ_SECONDS";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The target, as it is named without `fuzz_`; all when it is left out
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs what was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let build = Build::new(Layout::find()?.repository(), false)?.with_tests();
    let target = arguments.target.as_deref().unwrap_or_default();
    let tests = format!("fuzz_{target}");
    let mut list = command(&build, &tests, &["--list"]);
    let listed = list.stderr(Stdio::inherit()).output();
    let listed = listed.context("run cargo")?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(
        !listed.status.success() || names.contains(": test"),
        "no fuzz target is called {target}"
    );
    targets(&build, &tests, arguments.seconds)
}

/// Runs all targets for so many seconds each, as many at once as there are processors.
pub(crate) fn all(build: &Build, seconds: u64) -> Result<()> {
    targets(build, "fuzz_", seconds)
}

fn targets(build: &Build, tests: &str, seconds: u64) -> Result<()> {
    let status = command(build, tests, &["--nocapture"])
        .env(SECONDS, seconds.to_string())
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "a fuzz target failed: see above");
    Ok(())
}

fn command(build: &Build, tests: &str, words: &[&str]) -> Command {
    let mut command = build.cargo(&["test", "--workspace", "--exclude", "xtask", "--lib"]);
    command.arg(tests).arg("--").args(words);
    command
}
