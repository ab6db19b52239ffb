//! Mapping an artifact from a descriptor.

use std::os::fd::{AsRawFd, OwnedFd};

use wasmtime::component::Component;

use crate::engine::Engine;

/// A compiled bundle, mapped read-only and shared with every process that maps the same file.
#[derive(Clone)]
pub struct Artifact {
    pub(crate) component: Component,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").finish_non_exhaustive()
    }
}

impl Artifact {
    /// Maps an artifact.
    ///
    /// The caller vouches for the file: it was written by the compile helper of this build and nobody changed it. The
    /// shim checks digest and fingerprint before it passes a descriptor, and keeps the files to itself.
    ///
    /// # Errors
    /// When the file is no artifact of an engine with this fingerprint.
    pub fn map(engine: &Engine, file: &OwnedFd) -> wasmtime::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the file comes over the control channel from the shim, which opened it read-only from a directory
        // that only root and the compile helper's output reach, after it checked SHA-256 and fingerprint.
        let component = unsafe { Component::deserialize_file(engine.wasmtime(), path)? };
        Ok(Self { component })
    }

    /// Takes what [`crate::compile::compile`] just made in this process.
    ///
    /// # Errors
    /// When it was compiled for another engine.
    #[cfg(feature = "compile")]
    pub fn from_compiled(
        engine: &Engine,
        compiled: &crate::compile::Compiled,
    ) -> wasmtime::Result<Self> {
        // SAFETY: `Compiled` is only made by `compile`, in this process, from this build's wasmtime.
        let component = unsafe { Component::deserialize(engine.wasmtime(), &compiled.artifact)? };
        Ok(Self { component })
    }
}
