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
    Ok(())
}

/// Runs the tests of the example in JavaScript: its decisions, in Node, without a component.
pub(crate) fn test(build: &Build) -> Result<()> {
    let example = build.repository().join("examples/support-agent");
    let ended = Command::new("npm")
        .arg("test")
        .current_dir(&example)
        .status()
        .context("start npm; it comes with Node.js")?;
    ensure!(
        ended.success(),
        "npm test in {} failed: see above",
        example.display()
    );
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
