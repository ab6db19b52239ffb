//! Guests: building them, and pushing the examples as bundles.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use hearth_cluster::image::Pack;
use hearth_cluster::{Cluster, Image};

use crate::images::Build;

/// Where built guests are.
pub(crate) fn directory(repository: &Path) -> PathBuf {
    repository.join("target/guests")
}

/// Examples that are pushed, one in each of the two shapes a bundle may have.
const EXAMPLES: [(&str, Shape); 2] = [("hello-c", Shape::File), ("support-agent", Shape::Artifact)];

#[derive(Clone, Copy)]
enum Shape {
    /// An ordinary image with one file, as `docker build` makes it.
    File,
    /// A wasm artifact.
    Artifact,
}

/// Builds all guests and examples; those that did not change are kept.
pub(crate) fn build(build: &Build) -> Result<()> {
    build.programs()?;
    let ended = Command::new(build.program("hearth-test-guests"))
        .arg("--out")
        .arg(directory(build.repository()))
        .status()
        .context("run hearth-test-guests")?;
    ensure!(ended.success(), "building the guests failed: see above");
    lay_out(build)
}

/// `hearth` as its users have it: with the bundler and the JavaScript environment beside it.
pub(crate) fn hearth(repository: &Path) -> PathBuf {
    repository.join("target/hearth/hearth")
}

fn lay_out(build: &Build) -> Result<()> {
    let guests = directory(build.repository());
    let program = hearth(build.repository());
    let folder = program.parent().context("it lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for from in [
        build.program("hearth"),
        guests.join("hearth-bundle"),
        guests.join("hearth-javascript.wasm"),
    ] {
        let to = folder.join(from.file_name().context("a program has a name")?);
        match std::fs::remove_file(&to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", to.display()));
            }
            _ => {}
        }
        std::fs::hard_link(&from, &to)
            .with_context(|| format!("link {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Runs the tests of what is JavaScript, in Node: the example's decisions, without a component, and Node's modules as bundles
/// get them, against Node's own.
pub(crate) fn test(build: &Build) -> Result<()> {
    for folder in ["examples/support-agent", "tools/bundle"] {
        let ended = Command::new("npm")
            .arg("test")
            .current_dir(build.repository().join(folder))
            .status()
            .context("start npm; it comes with Node.js")?;
        ensure!(ended.success(), "npm test in {folder} failed: see above");
    }
    Ok(())
}

/// Pushes the examples that were built, and what they call.
pub(crate) fn push(cluster: &Cluster, build: &Build) -> Result<()> {
    for (name, shape) in EXAMPLES {
        let path = directory(cluster.layout().repository()).join(format!("{name}.wasm"));
        let wasm = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let image = match shape {
            Shape::File => Image::wasm_file(&format!("{name}.wasm"), wasm).pack()?,
            Shape::Artifact => Image::wasm_artifact(wasm),
        };
        cluster.push_image(&format!("examples/{name}:dev"), &image)?;
    }
    // An ordinary container: it plays what the support agent calls.
    let server = Image::new()
        .program("/server", &build.program("hearth-example-server"))?
        .entrypoint(["/server"])
        .user("65532:65532");
    cluster.push_image("examples/support-tools:dev", &server.pack()?)?;
    Ok(())
}
