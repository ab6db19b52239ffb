//! `hearth component`: what stands before and behind the compiler of a language that knows no components.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hearth_components::{Resolve, c_bindings, component};
use serde_json::json;

use crate::output::Output;

/// Make a component with a compiler that makes core modules, such as clang.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth component bindings wit --world agent           C for that world of the folder wit
  clang --target=wasm32-wasi -mexec-model=reactor agent.c agent_component_type.o hello.c -o module.wasm
  hearth component new module.wasm --out agent.wasm     for hearth serve, push and deploy

hearth new tool --template c begins a folder with a Makefile that does this.

Exit codes: 0 made, 1 not made, 2 wrong options.")]
pub(crate) struct Component {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    Bindings(Bindings),
    New(New),
}

/// Write C for a world: a header, a source, and an object file with the world's types, to be linked with yours.
#[derive(Debug, Args)]
struct Bindings {
    /// The world's package: a folder of WIT with what it uses in deps, or a file.
    #[arg(default_value = "wit")]
    wit: PathBuf,
    /// Which of the package's worlds, where it has several.
    #[arg(long)]
    world: Option<String>,
    /// Folder to write to.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    out: PathBuf,
}

/// Make a component of a core module; what the module uses of WASI preview 1 is adapted to WASI 0.2.
#[derive(Debug, Args)]
struct New {
    /// The core module, as the compiler wrote it.
    module: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE", default_value = "agent.wasm")]
    out: PathBuf,
}

impl Component {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        match self.step {
            Step::Bindings(bindings) => bindings.run(output),
            Step::New(new) => new.run(output),
        }
    }
}

impl Bindings {
    fn run(self, output: Output) -> Result<()> {
        let read = || format!("read {}", self.wit.display());
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(&self.wit).with_context(read)?;
        let files = c_bindings(resolve, package, self.world.as_deref()).with_context(|| {
            format!(
                "make C of {}; --world names one of its worlds",
                self.wit.display()
            )
        })?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("create {}", self.out.display()))?;
        for (name, bytes) in &files {
            write(&self.out.join(name), bytes)?;
        }
        let paths: Vec<_> = files.iter().map(|(name, _)| self.out.join(name)).collect();
        match output {
            Output::Json => println!("{}", json!({"files": paths})),
            Output::Text => {
                for path in paths {
                    println!("{}", path.display());
                }
            }
        }
        Ok(())
    }
}

impl New {
    fn run(self, output: Output) -> Result<()> {
        let path = &self.module;
        let module = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let made = component(&module).with_context(|| {
            format!(
                "{} cannot be made a component; was it linked with the object file that `hearth component bindings` wrote?",
                path.display()
            )
        })?;
        write(&self.out, &made)?;
        match output {
            Output::Json => println!("{}", json!({"component": self.out, "bytes": made.len()})),
            Output::Text => println!("{}: {} bytes", self.out.display(), made.len()),
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
