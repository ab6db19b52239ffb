//! `cargo xtask ci`: exactly what CI runs. It stops at the first step that fails, and removes the cluster that it started.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hearth_cluster::tools::Containerd;
use hearth_cluster::{Layout, Steps, down};

use crate::images::Build;
use crate::{bundles, chart, codegen, directions, fuzz, up};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u64 = 3;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Leave out the cluster: for a quick look before a commit
    #[arg(long)]
    no_cluster: bool,
    /// Leave the cluster running
    #[arg(long)]
    keep: bool,
}

/// Runs all steps.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let steps = Steps::default();
    let layout = Layout::find()?;
    let build = Build::new(layout.repository(), false)?.with_tests();
    up::prepare(&steps)?;
    checks(&layout, &build, &steps)?;
    if !arguments.no_cluster {
        let tested = on_cluster(&build, &steps);
        if !arguments.keep {
            steps.step("down");
            down::down(&layout, &steps)?;
        }
        tested?;
    }
    steps.step("ci: all steps passed");
    Ok(ExitCode::SUCCESS)
}

fn checks(layout: &Layout, build: &Build, steps: &Steps) -> Result<()> {
    steps.step("dependency direction");
    directions::check(build)?;
    steps.step("fmt");
    let mut fmt = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    run_command(
        fmt.args(["fmt", "--all", "--check"])
            .current_dir(build.repository()),
    )?;
    steps.step("clippy");
    build.run(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ])?;
    steps.step("guests");
    bundles::build(build)?;
    bundles::test(build)?;
    steps.step("unit tests");
    // The cases of `hearth-e2e/tests` need a cluster and come later.
    build.run(&["test", "--workspace", "--lib", "--bins", "--tests"])?;
    steps.step("fuzz");
    fuzz::all(build, FUZZ_SECONDS)?;
    steps.step("doc tests");
    build.run(&["test", "--workspace", "--doc"])?;
    steps.step("codegen drift");
    codegen::run(layout.repository(), true)?;
    steps.step("chart");
    chart::check(layout, steps)
}

fn on_cluster(build: &Build, steps: &Steps) -> Result<()> {
    up::up(1, Containerd::default(), Some(build), steps)?;
    steps.step("e2e");
    // A process of its own: its closing line is the runner's, and its exit code decides.
    let xtask = std::env::current_exe().context("find this program's own path")?;
    run_command(Command::new(xtask).arg("e2e"))
}

pub(crate) fn run_command(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("run {program}"))?;
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    ensure!(
        status.success(),
        "{program} {} failed: see above",
        words.join(" ")
    );
    Ok(())
}
