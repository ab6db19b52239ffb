//! Programs that run inside the cluster's network: kubectl, helm, curl, the tests and the benches.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hearth_cluster::layout::{PROGRAMS_VARIABLE, SUPERVISOR_VARIABLE};
use hearth_cluster::tools::{Containerd, Keda};
use hearth_cluster::{Cluster, Layout, Part, Steps};
use serde_json::Value;

use crate::images::Build;
use crate::{bundles, peers, python, up};

/// Everything after the chore's name, as it stands.
#[derive(Args)]
pub(crate) struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Words {
    /// Runs a program with these words as arguments.
    pub(crate) fn run(&self, program: &str) -> Result<ExitCode> {
        execute(Cluster::open()?.command(1, program).args(&self.words))
    }

    /// Runs `hearth` with these words, as it is installed.
    pub(crate) fn run_hearth(&self) -> Result<ExitCode> {
        let cluster = Cluster::open()?;
        let program = bundles::hearth(cluster.layout().repository());
        ensure!(
            program.exists(),
            "{} does not exist: cargo xtask up puts it there",
            program.display()
        );
        execute(cluster.command(1, program).args(&self.words))
    }

    /// Runs the first word with the others as arguments.
    pub(crate) fn run_first(&self) -> Result<ExitCode> {
        let (program, words) = self
            .words
            .split_first()
            .context("name a program: cargo xtask inside PROGRAM …")?;
        execute(Cluster::open()?.command(1, program).args(words))
    }
}

/// Which log.
#[derive(Args)]
pub(crate) struct Logs {
    /// The part; `kubelet` alone means node 1's
    part: Part,
    /// Wait for more
    #[arg(short, long)]
    follow: bool,
    /// How many lines from the end
    #[arg(long, default_value_t = 200)]
    tail: u32,
}

impl Logs {
    /// Prints it.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        // Not `Cluster::open`: a start that failed is when logs are wanted most.
        let path = hearth_cluster::process::log_path(&Layout::find()?, self.part);
        ensure!(
            path.exists(),
            "{} does not exist: {} was never started",
            path.display(),
            self.part
        );
        let mut command = Command::new("tail");
        command.arg(format!("--lines={}", self.tail));
        if self.follow {
            command.arg("--follow");
        }
        execute(command.arg(path))
    }
}

/// Which tests.
#[derive(Args)]
pub(crate) struct E2e {
    /// Run them on a cluster with this containerd, 2, 2.3, 2.2 or 1.7, which is started first
    #[arg(long)]
    containerd: Option<Containerd>,
    /// Build KEDA, for the case that needs it: a quarter of an hour the first time
    #[arg(long)]
    keda: bool,
    /// Words for the test runner: a filter, `--list`, `--nocapture`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl E2e {
    /// Builds the tests outside and runs them inside, on the cluster that is up.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let build = Build::new(Layout::find()?.repository(), false)?.with_tests();
        let cluster = match self.containerd {
            Some(containerd) => up::up(1, containerd, Some(&build), &Steps::default())?,
            None => Cluster::open()?,
        };
        if self.keda {
            Keda::build(cluster.layout(), &Steps::default())?;
        }
        // Programs that tests start or put into images.
        build.programs()?;
        python::install(cluster.layout().repository())?;
        peers::workerd(cluster.layout())?;
        let program = build.executable(
            &[
                "test",
                "--workspace",
                "--exclude",
                "xtask",
                "--test",
                "cluster",
                "--no-run",
            ],
            "cluster",
        )?;
        let mut command = cluster.command(1, program);
        environment(&mut command, &build)?;
        execute(
            command
                .args(&self.words)
                .current_dir(cluster.layout().repository().join("e2e")),
        )
    }
}

/// Which measurement.
#[derive(Args)]
pub(crate) struct Bench {
    /// One of apply, pod, call, serve, lost, scale, engine, js, planner; all but scale when it is left out. `engine`, `js` and `planner`
    /// need no cluster
    name: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Where the bench `engine` or `js` draws its calls, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// A recorded trace for the bench `planner`, in the form of Azure's public ones: a CSV file of each of three days, the first
    /// one first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    trace: Vec<PathBuf>,
}

/// The benches that run beside no cluster.
const ENGINE: &str = "engine";
const JS: &str = "js";
const PLANNER: &str = "planner";

impl Bench {
    /// Builds the benches with optimisation and runs what was asked for. A cluster should be up with `--release`.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        ensure!(
            self.trace.is_empty() || self.name.as_deref() == Some(PLANNER),
            "--trace is for the bench {PLANNER}: cargo xtask bench {PLANNER} --trace …"
        );
        let layout = Layout::find()?;
        let build = Build::new(layout.repository(), true)?;
        let needs_cluster = !matches!(self.name.as_deref(), Some(ENGINE | JS | PLANNER));
        let cluster = needs_cluster.then(Cluster::open).transpose()?;
        build.programs()?;
        if let Some(cluster) = cluster {
            let ended = self.on_cluster(&cluster, &build)?;
            if self.name.is_some() || ended != ExitCode::SUCCESS {
                return Ok(ended);
            }
        }
        if !matches!(self.name.as_deref(), Some(ENGINE | JS)) {
            let mut command = Command::new(build.program("hearth-bench"));
            command.arg(PLANNER).args(self.options());
            if !self.trace.is_empty() {
                command.arg("--trace").args(&self.trace);
            }
            let ended = execute(&mut command)?;
            if self.name.is_some() || ended != ExitCode::SUCCESS {
                return Ok(ended);
            }
        }
        bundles::build(&build)?;
        if self.name.as_deref() != Some(ENGINE) {
            peers::workerd(&layout)?;
            let ended = self.alone(&build, JS)?;
            if self.name.is_some() || ended != ExitCode::SUCCESS {
                return Ok(ended);
            }
        }
        peers::wasmtime(&layout, &build)?;
        peers::bare_instance(&build)?;
        self.alone(&build, ENGINE)
    }

    /// Inside node 1's network.
    fn on_cluster(&self, cluster: &Cluster, build: &Build) -> Result<ExitCode> {
        let mut command = cluster.command(1, build.program("hearth-bench"));
        environment(&mut command, build)?;
        command.args(&self.name).args(self.options());
        execute(command.current_dir(cluster.layout().repository().join("e2e")))
    }

    /// In a network of its own, which nothing but its processes is in.
    fn alone(&self, build: &Build, name: &str) -> Result<ExitCode> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c"]);
        command.arg(r#"ip link set lo up && exec "$0" "$@""#);
        command.arg(build.program("hearth-bench")).arg(name);
        // One file holds one drawing.
        if let Some(plot) = self.plot.as_ref().filter(|_| self.name.is_some()) {
            command.arg("--plot").arg(plot);
        }
        execute(command.args(self.options()))
    }

    fn options(&self) -> Option<&'static str> {
        self.json.then_some("--json")
    }
}

/// What tests and benches find in their environment beside the cluster's own variables.
fn environment(command: &mut Command, build: &Build) -> Result<()> {
    let supervisor = std::env::current_exe().context("find this program's own path")?;
    command
        .env(PROGRAMS_VARIABLE, build.directory())
        .env(SUPERVISOR_VARIABLE, supervisor);
    Ok(())
}

/// The path of an executable that `cargo … --message-format=json` reports under a target's name.
pub(crate) fn executable_in(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back()
}

/// Runs a program to its end and hands on its exit code.
pub(crate) fn execute(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("run {}", command.get_program().to_string_lossy()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_one_of_that_name() {
        let messages = "{\"target\":{\"name\":\"lib\"},\"executable\":null}\n\
            not json\n\
            {\"target\":{\"name\":\"it\"},\"executable\":\"/t/it-1\"}\n";
        assert_eq!(
            executable_in(messages, "it"),
            Some(PathBuf::from("/t/it-1"))
        );
        assert_eq!(executable_in(messages, "lib"), None);
    }
}
