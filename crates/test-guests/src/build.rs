//! From C to a component with clang for wasm32-wasi.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use hearth_components::{Resolve, c_bindings};
use sha2::{Digest, Sha256};

/// clang's first arguments. The sysroot is Debian's package wasi-libc. A memory that is large enough from the start does
/// not grow in every call, which would cost two changes of the process's address space.
const CLANG: [&str; 6] = [
    "--target=wasm32-wasi",
    "--sysroot=/usr",
    "-O2",
    "-Wall",
    "-Wno-unused-function",
    "-Wl,--initial-memory=262144",
];

/// The world of each `agent.wit`, and the prefix of its generated files.
pub(crate) const AGENT: &str = "agent";
/// The one of agents that load code.
pub(crate) const LOADING_AGENT: &str = "loading-agent";

/// Where the world of WASI 0.2 is described, in the repository.
pub(crate) const P2: &str = "wit";
/// The same for WASI 0.3.
pub(crate) const P3: &str = "wit/p3";

/// The world of WASI 0.2 with the door that only the engine of `engine/backdoor` has.
const BACKDOOR: &str = "package hearth:backdoor;
world agent { include hearth:agent/agent@0.1.0; import attempt: func(name: string) -> string; }";

/// A component that answers HTTP, from one C file against a world in the folder `wit`.
pub(crate) fn http_component(
    root: &Path,
    source: &Path,
    wit: &str,
    world: &str,
) -> Result<Vec<u8>> {
    component(root, source, wit, world, None)
}

/// One with the door.
pub(crate) fn backdoor_component(root: &Path, source: &Path) -> Result<Vec<u8>> {
    component(root, source, P2, AGENT, Some(BACKDOOR))
}

/// `other` is a package with another world of that name, made of the folder's.
fn component(
    root: &Path,
    source: &Path,
    wit: &str,
    world: &str,
    other: Option<&str>,
) -> Result<Vec<u8>> {
    let wit = root.join(wit);
    let mut inputs = vec![source.to_owned(), wit.join("agent.wit")];
    inputs.extend(
        std::fs::read_dir(wit.join("deps"))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?,
    );
    cached(root, &inputs, |folder| {
        let mut resolve = Resolve::default();
        let (mut package, _) = resolve
            .push_dir(&wit)
            .with_context(|| format!("read {}", wit.display()))?;
        if let Some(other) = other {
            package = resolve.push_str("other.wit", other)?;
        }
        for (name, bytes) in c_bindings(resolve, package, Some(world))? {
            std::fs::write(folder.join(name), bytes)?;
        }
        // As wit-bindgen names its files.
        let prefix = world.replace('-', "_");
        let module = folder.join("module.wasm");
        let mut clang = Command::new("clang-19");
        clang
            .args(CLANG)
            .arg("-mexec-model=reactor")
            .arg("-I")
            .arg(folder);
        clang
            .arg(source)
            .arg(folder.join(format!("{prefix}.c")))
            .arg(folder.join(format!("{prefix}_component_type.o")));
        clang.arg("-o").arg(&module);
        run(clang)?;
        hearth_components::component(&std::fs::read(&module)?)
    })
}

/// A core module that is a command of WASI preview 1, from one C file with a `main`.
pub(crate) fn command_module(source: &Path) -> Result<Vec<u8>> {
    let root = super::repository();
    cached(&root, &[source.to_owned()], |folder| {
        let module = folder.join("module.wasm");
        let mut clang = Command::new("clang-19");
        clang.args(CLANG).arg(source).arg("-o").arg(&module);
        run(clang)?;
        Ok(std::fs::read(&module)?)
    })
}

/// A component that exports `wasi:cli/run`, from the same.
pub(crate) fn command_component(source: &Path) -> Result<Vec<u8>> {
    hearth_components::component(&command_module(source)?)
}

/// A module or component from its text.
pub(crate) fn text(source: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(source)?)
}

/// The text of a component whose only function has `size` variables and as many branches back to its beginning, each of
/// which changes one of them: a compiler that knows each variable's value in each branch has the square of that to do.
pub(crate) fn bomb(size: usize) -> String {
    let variables = " i64".repeat(size);
    let opened = "block ".repeat(size);
    let labels: Vec<_> = (0..size).map(|label| label.to_string()).collect();
    let labels = labels.join(" ");
    // Each block's end is where its label leads; the beginning is further out by the blocks that are still open.
    let branches: String = (0..size)
        .map(|at| {
            let (next, outer) = ((at + 1) % size, size - 1 - at);
            format!("end local.get {next} i64.const 1 i64.add local.set {at} br {outer} ")
        })
        .collect();
    format!(
        "(component (core module (func (local{variables}) loop {opened} local.get 0 i32.wrap_i64 br_table {labels} {branches} end)))"
    )
}

pub(crate) fn run(mut clang: Command) -> Result<()> {
    let output = clang.output().context(
        "clang-19 cannot be started; install Debian's clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32 libc++-19-dev-wasm32, as `cargo xtask up` does",
    )?;
    if !output.status.success() {
        bail!(
            "{clang:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// A program in Go, from the folder of its module; `embed`ded files stand in folders of it.
pub(crate) fn go_program(folder: &Path) -> Result<Vec<u8>> {
    let mut inputs = Vec::new();
    sources(folder, &mut inputs)?;
    inputs.sort();
    cached(&super::repository(), &inputs, |work| {
        let program = work.join("program");
        let output = Command::new("go")
            .args(["build", "-mod=readonly", "-trimpath"])
            // Nobody debugs it.
            .args(["-gcflags=all=-dwarf=false", "-ldflags=-s -w", "-o"])
            .arg(&program)
            .arg(".")
            .env("CGO_ENABLED", "0")
            .current_dir(folder)
            .output()
            .context("start go: is it on PATH?")?;
        if !output.status.success() {
            bail!(
                "go build in {} failed; the first build needs the Go module proxy:\n{}",
                folder.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(std::fs::read(&program)?)
    })
}

/// Files of a folder and those below that a build reads.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Builds in a folder named by the inputs' digest, unless that was done before.
pub(crate) fn cached(
    root: &Path,
    inputs: &[PathBuf],
    build: impl FnOnce(&Path) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let mut digest = Sha256::new();
    digest.update(include_bytes!("build.rs"));
    digest.update(include_bytes!("../../components/src/lib.rs"));
    for input in inputs {
        digest.update(std::fs::read(input).with_context(|| format!("read {}", input.display()))?);
    }
    let name: String = digest.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // Each builder works in a folder of its own: tests run in parallel, and a rename is atomic.
    let kept = target.join("guests-cache").join(format!("{name}.wasm"));
    if let Ok(bytes) = std::fs::read(&kept) {
        return Ok(bytes);
    }
    let work = kept.with_extension(format!(
        "{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&work)?;
    let bytes = build(&work)?;
    let whole = work.join("whole.wasm");
    std::fs::write(&whole, &bytes)?;
    std::fs::rename(&whole, &kept)?;
    std::fs::remove_dir_all(&work)?;
    Ok(bytes)
}
