//! Guests: building them, and pushing the examples as bundles.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
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
    let out = directory(build.repository());
    let out = out.to_string_lossy();
    build.run(&[
        "run",
        "--package",
        "hearth-test-guests",
        "--",
        "--out",
        &out,
    ])
}

/// Pushes the examples that were built. Returns their names.
pub(crate) fn push(cluster: &Cluster) -> Result<Vec<&'static str>> {
    let mut pushed = Vec::new();
    for (name, shape) in EXAMPLES {
        let path = directory(cluster.layout().repository()).join(format!("{name}.wasm"));
        if !path.exists() {
            continue;
        }
        let wasm = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let image = match shape {
            Shape::File => Image::wasm_file(&format!("{name}.wasm"), wasm).pack()?,
            Shape::Artifact => Image::wasm_artifact(wasm),
        };
        cluster.push_image(&format!("examples/{name}:dev"), &image)?;
        pushed.push(name);
    }
    Ok(pushed)
}
