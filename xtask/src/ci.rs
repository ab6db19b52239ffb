//! `cargo xtask ci`: exactly what CI runs. It stops at the first step that fails, and removes the cluster that it started.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hearth_cluster::{Layout, Steps, down, tools};

use crate::images::Build;
use crate::{bundles, codegen, directions, fuzz, up};

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
    chart(layout, steps)
}

/// The one value without a default.
const REGISTRY: [&str; 2] = ["--set", "image.registry=registry.example/hearth"];

/// Values that the chart refuses, and what it says then.
const REFUSED: [(&str, &str); 6] = [
    (
        "node.mode=remove",
        "'/node/mode': value must be one of 'install', 'uninstall'",
    ),
    (
        "operator.replicas=two",
        "'/operator/replicas': got string, want integer",
    ),
    (
        "node.deadlineSeconds=0",
        "'/node/deadlineSeconds': minimum: got 0, want 1",
    ),
    (
        "node.binDir=opt/hearth/bin",
        "'/node/binDir': 'opt/hearth/bin' does not match",
    ),
    (
        "node.mod=uninstall",
        "'/node': additional properties 'mod' not allowed",
    ),
    ("image.registry=", "image.registry is not set"),
];

fn chart(layout: &Layout, steps: &Steps) -> Result<()> {
    tools::build(layout, steps)?;
    let chart = layout.repository().join("charts/hearth");
    let mut lint = Command::new(layout.tool("helm"));
    run_command(lint.arg("lint").arg(&chart).arg("--strict").args(REGISTRY))?;
    for mode in [
        "node.mode=install",
        "node.mode=uninstall",
        "customMetrics.enabled=false",
    ] {
        let (is_taken, said) = template(layout, mode)?;
        ensure!(is_taken, "the chart refuses {mode}: {said}");
    }
    for (value, sentence) in REFUSED {
        let (is_taken, said) = template(layout, value)?;
        ensure!(
            !is_taken && said.contains(sentence),
            "the chart should refuse {value} and say {sentence:?}; it says: {said}"
        );
    }
    Ok(())
}

/// Renders the chart with one value more. Returns whether it is taken, and what helm says.
fn template(layout: &Layout, value: &str) -> Result<(bool, String)> {
    let mut template = Command::new(layout.tool("helm"));
    template
        .args(["template", "hearth"])
        .arg(layout.repository().join("charts/hearth"))
        .args(["--namespace", "hearth-system"])
        .args(REGISTRY)
        .args(["--set", value]);
    let output = template.output().context("run helm template")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((output.status.success(), said))
}

fn on_cluster(build: &Build, steps: &Steps) -> Result<()> {
    up::up(1, Some(build), steps)?;
    steps.step("e2e");
    // A process of its own: its closing line is the runner's, and its exit code decides.
    let xtask = std::env::current_exe().context("find this program's own path")?;
    run_command(Command::new(xtask).arg("e2e"))
}

fn run_command(command: &mut Command) -> Result<()> {
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
