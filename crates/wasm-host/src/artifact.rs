//! Mapping an artifact from a descriptor.

use std::os::fd::{AsRawFd, OwnedFd};

use wasmtime::component::Component;

use crate::engine::{Concurrency, Engine};

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
        Self::fitting(engine, |engine| {
            // SAFETY: the file comes over the control channel from the shim, which opened it read-only from a directory
            // that only root and the compile helper's output reach, after it checked SHA-256 and fingerprint.
            unsafe { Component::deserialize_file(engine, &path) }
        })
    }

    /// The component, on the wasmtime engine that it was compiled for.
    pub fn component(&self) -> &Component {
        &self.component
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
        Self::fitting(engine, |engine| {
            // SAFETY: `Compiled` is only made by `compile`, in this process, from this build's wasmtime.
            unsafe { Component::deserialize(engine, &compiled.artifact) }
        })
    }

    /// The engine that an artifact was compiled for is the one that takes it: each checks that before anything else.
    fn fitting(
        engine: &Engine,
        load: impl Fn(&wasmtime::Engine) -> wasmtime::Result<Component>,
    ) -> wasmtime::Result<Self> {
        let first = load(engine.wasmtime(Concurrency::Without)?);
        let component = match first {
            Ok(component) => component,
            Err(error) => {
                let with = engine.wasmtime(Concurrency::With)?;
                load(with).map_err(|second| error.context(format!("{second:#}")))?
            }
        };
        Ok(Self { component })
    }
}
