//! The engine process alone, without Kubernetes, beside its peers in the same run and on the same loopback: bare hyper,
//! `wasmtime serve`, wasmtime's `InstancePre`.
//!
//! Who is compared takes turns, and the median of the turns counts, so that what else the machine does meets all alike. Load
//! and servers share the machine's processors.

pub(crate) mod bars;
mod calls;
pub(crate) mod control;
mod fairness;
mod lru;
mod many;
mod memory;
mod peers;
pub(crate) mod smaps;
mod starts;
pub(crate) mod zipf;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hearth_cluster::Layout;
use hearth_e2e::figure::{Aim, Figure};

use control::Artifact;

/// Connections of a busy server.
const CONNECTIONS: usize = 16;
/// Turns of each of those who are compared.
const ROUNDS: usize = 3;
/// Warm instances whose time and memory are measured.
const INSTANCES: u32 = 1_000;

/// What everything here works with.
struct Setup {
    /// Where our programs are.
    programs: PathBuf,
    /// The peer's program.
    wasmtime: PathBuf,
    /// The C example.
    component: PathBuf,
    /// The same, compiled.
    artifact: Artifact,
}

impl Setup {
    async fn new() -> Result<Self> {
        let this = std::env::current_exe().context("find this program's own path")?;
        let programs = this.parent().context("this program is in a directory")?;
        let layout = Layout::find()?;
        let target = layout.repository().join("target");
        let component = target.join("guests/hello-c.wasm");
        let wasmtime = target.join("tools/wasmtime/bin/wasmtime");
        for needed in [&component, &wasmtime] {
            ensure!(
                needed.exists(),
                "{} is missing; `cargo xtask bench engine` builds it",
                needed.display()
            );
        }
        let directory = target.join("bench");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let engine = programs.join("hearth-engine");
        let artifact = directory.join("hello-c.artifact");
        Ok(Self {
            programs: programs.to_owned(),
            artifact: Artifact::compile(&engine, &component, artifact).await?,
            wasmtime,
            component,
        })
    }

    /// A test guest, compiled.
    async fn compiled(&self, guest: &str) -> Result<Artifact> {
        let component = self.component.with_file_name(format!("{guest}.wasm"));
        let artifact = self
            .artifact
            .path()
            .with_file_name(format!("{guest}.artifact"));
        Artifact::compile(&self.program("hearth-engine"), &component, artifact).await
    }

    /// A program of ours. They are built together, so they lie beside this one.
    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// Measures everything, says each figure when it is there, and draws the calls where `plot` says.
pub(crate) async fn run(plot: Option<&Path>, say: impl Fn(&Figure)) -> Result<()> {
    let say = |figures: &[Figure]| figures.iter().for_each(&say);
    let setup = Setup::new().await?;
    say(&calls::run(&setup, plot).await?);
    say(&[starts::first_calls(&setup).await?]);
    say(&[starts::warm_instances(&setup).await?]);
    say(&memory::of_instances(&setup).await?);
    say(&[memory::shared(&setup).await?]);
    say(&fairness::run(&setup).await?);
    // Last: not every machine allows what it needs.
    say(&many::run(&setup).await?);
    Ok(())
}

fn figure(
    measure: impl Into<String>,
    value: f64,
    unit: &'static str,
    peer: Option<(&'static str, f64)>,
    aim: Aim,
) -> Figure {
    Figure {
        bench: "engine",
        measure: measure.into(),
        value,
        unit,
        peer,
        aim,
    }
}
