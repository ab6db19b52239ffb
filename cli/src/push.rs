//! `hearth push`: a bundle becomes an OCI artifact in a registry.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use serde_json::json;

use crate::output::Output;
use crate::registry::{self, Artifact, Blob, Reference};
use crate::{build, bundler};

/// What a wasm component is in a registry, as other tools write it.
const WASM: &str = "application/wasm";
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// What a JavaScript bundle is, and its source map.
const JAVASCRIPT: &str = "application/vnd.hearth.javascript.v1";
const MODULE: &str = "application/vnd.hearth.module.v1+javascript";
const SOURCE_MAP: &str = "application/vnd.hearth.sourcemap.v1+json";
/// The configuration that says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Push a bundle to a registry: a component, or a module that hearth build made.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth push registry.example.com/agents/support:1.4                  dist/agent.js, with its source map
  hearth push localhost:5000/agents/hello:dev hello.wasm               a component

Credentials are those of docker login or podman login. What is on this machine is reached without TLS.

Exit codes: 0 pushed, 1 not pushed, 2 wrong options.")]
pub(crate) struct Push {
    /// Where to: [registry/]repository[:tag].
    #[arg(value_name = "REFERENCE")]
    reference: Reference,
    /// A component (.wasm) or a built module (.js).
    #[arg(default_value = "dist/agent.js", value_name = "FILE")]
    path: PathBuf,
    /// Reach the registry without TLS.
    #[arg(long)]
    plain_http: bool,
}

impl Push {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        let artifact = artifact(&self.path)?;
        let pushed = crate::cluster::block_on(pushed(&self.reference, &artifact, self.plain_http))?;
        match output {
            Output::Json => println!(
                "{}",
                json!({"reference": self.reference.to_string(), "digest": pushed})
            ),
            Output::Text => println!("{}@{pushed}", self.reference),
        }
        Ok(())
    }
}

/// Pushes, and tells of each blob as it goes.
pub(crate) async fn pushed(
    reference: &Reference,
    artifact: &Artifact,
    is_plain: bool,
) -> Result<String> {
    registry::push(reference, artifact, is_plain, |blob, is_new| {
        let how = if is_new { "sent" } else { "there already" };
        eprintln!("{}: {} bytes, {how}", blob.name(), blob.bytes.len());
    })
    .await
}

/// The artifact of a file.
///
/// # Errors
/// When it cannot be read, or is neither a component nor a module.
pub(crate) fn artifact(path: &Path) -> Result<Artifact> {
    if path.extension().is_some_and(|end| end == "wasm") {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(
            bytes.starts_with(b"\0asm"),
            "{} is no WebAssembly",
            path.display()
        );
        let config = json!({"created": "1970-01-01T00:00:00Z", "author": "", "architecture": "wasm", "os": "wasip2", "layerDigests": [registry::digest(&bytes)]});
        return Ok(Artifact {
            kind: "",
            config: blob(WASM_CONFIG, config.to_string(), ""),
            layers: vec![blob(WASM, bytes, "")],
        });
    }
    let (code, map) = build::read(path)?;
    Ok(module(code, map))
}

/// The artifact of a module and its source map.
pub(crate) fn module(code: String, map: Option<String>) -> Artifact {
    let mut layers = vec![blob(MODULE, code, "agent.js")];
    layers.extend(map.map(|map| blob(SOURCE_MAP, map, "agent.js.map")));
    Artifact {
        kind: JAVASCRIPT,
        config: blob(EMPTY, "{}", ""),
        layers,
    }
}

/// The same, of what the bundler made.
pub(crate) fn bundle(bundle: bundler::Bundle) -> Artifact {
    module(bundle.code, Some(bundle.map))
}

fn blob(media_type: &'static str, bytes: impl Into<Bytes>, title: &'static str) -> Blob {
    Blob {
        media_type,
        bytes: bytes.into(),
        title,
    }
}
