//! Mapping an artifact from a descriptor.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use wasmtime::component::Component;
use wasmtime::error::Context;

use crate::bundle::BundleError;
use crate::engine::{Concurrency, Engine};
use crate::instance::{Linked, Linkers};

/// A compiled bundle, shared read-only with every process that maps the same file. It is mapped when its first instance is
/// made: functions that nobody calls cost next to nothing. Functions of one bundle share one of these.
pub struct Artifact {
    /// Until it is mapped.
    file: Mutex<Option<OwnedFd>>,
    component: OnceLock<Component>,
    /// The component with its imports.
    linked: OnceLock<Linked>,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").finish_non_exhaustive()
    }
}

impl Artifact {
    /// The artifact in a file.
    ///
    /// The caller vouches for the file: it was written by the compile helper of this build and nobody changed it. The
    /// shim checks digest and fingerprint before it passes a descriptor, and keeps the files to itself.
    pub fn of(file: OwnedFd) -> Self {
        Self {
            file: Mutex::new(Some(file)),
            component: OnceLock::new(),
            linked: OnceLock::new(),
        }
    }

    /// The component, on the wasmtime engine that it was compiled for.
    ///
    /// # Errors
    /// When the file is no artifact of an engine with this fingerprint.
    pub fn component(&self, engine: &Engine) -> wasmtime::Result<&Component> {
        if let Some(component) = self.component.get() {
            return Ok(component);
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_ref() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let mapped = fitting(engine, |engine| {
                // SAFETY: the file comes over the control channel from the shim, which opened it read-only from a
                // directory that only root and the compile helper's output reach, after it checked SHA-256 and
                // fingerprint.
                unsafe { Component::deserialize_file(engine, &path) }
            });
            let mapped = mapped.context("the artifact cannot be mapped")?;
            // Set once: the file is taken away below, under the same lock.
            let _ = self.component.set(mapped);
        }
        *file = None;
        self.component
            .get()
            .context("an artifact has a file until it is mapped")
    }

    /// The component with its imports, linked when this is asked for the first time.
    pub(crate) fn linked(
        &self,
        engine: &Engine,
        linkers: &Linkers,
    ) -> Result<&Linked, BundleError> {
        if let Some(linked) = self.linked.get() {
            return Ok(linked);
        }
        let component = self.component(engine);
        let component = component.map_err(|error| BundleError::Invalid(format!("{error:#}")))?;
        let made = linkers.link(engine, component)?;
        // Somebody may have been faster; then that one is used.
        Ok(self.linked.get_or_init(|| made))
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
        let component = fitting(engine, |engine| {
            // SAFETY: `Compiled` is only made by `compile`, in this process, from this build's wasmtime.
            unsafe { Component::deserialize(engine, &compiled.artifact) }
        })?;
        Ok(Self {
            file: Mutex::new(None),
            component: OnceLock::from(component),
            linked: OnceLock::new(),
        })
    }
}

/// The engine that an artifact was compiled for is the one that takes it: each checks that before anything else.
fn fitting(
    engine: &Engine,
    load: impl Fn(&wasmtime::Engine) -> wasmtime::Result<Component>,
) -> wasmtime::Result<Component> {
    let first = load(engine.wasmtime(Concurrency::Without)?);
    first.or_else(|error| {
        let with = engine.wasmtime(Concurrency::With)?;
        load(with).map_err(|second| error.context(format!("{second:#}")))
    })
}
