//! Functions whose bundle is JavaScript: an instance of the one environment component, given a user's module before it waits
//! for calls. The interface is `wit/javascript/environment.wit`.

use std::fmt;

use wasmtime::Store;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentType, Instance, Lift, TypedFunc,
};

use crate::instance::State;

/// Largest source of one module, in bytes: every instance that is made reads it.
pub const MAX_SOURCE_BYTES: usize = 4 << 20;

/// The interface that makes a component an environment.
const ENVIRONMENT: &str = "hearth:javascript/environment@0.1.0";

/// A user's module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name of its file, which stands in the positions of its errors.
    pub name: String,
    /// Its text.
    pub source: String,
}

/// How an environment takes a module.
#[derive(Clone, Copy)]
pub(crate) struct Environment {
    load: ComponentExportIndex,
}

/// What was wrong with a module; `load-error-kind` of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "lifting makes them of numbers")]
pub(crate) enum LoadErrorKind {
    #[component(name = "compile")]
    Compile,
    #[component(name = "threw")]
    Threw,
    #[component(name = "waits")]
    Waits,
    #[component(name = "no-handler")]
    NoHandler,
}

/// Why a module cannot answer calls; `load-error` of the interface.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub(crate) struct LoadError {
    kind: LoadErrorKind,
    message: String,
    file: String,
    line: u32,
    column: u32,
    stack: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            LoadErrorKind::Compile => "the code cannot be compiled",
            LoadErrorKind::Threw => "the code threw when it was loaded",
            LoadErrorKind::Waits => "the code waits when it is loaded",
            LoadErrorKind::NoHandler => "the code has no handler",
        };
        write!(f, "{what}: {}", self.message)?;
        if !self.file.is_empty() {
            write!(f, " ({}:{}:{})", self.file, self.line, self.column)?;
        }
        // The first frame is the position above.
        let outer = self.stack.lines().skip(1);
        outer
            .map(str::trim)
            .try_for_each(|frame| write!(f, "\n{frame}"))
    }
}

impl std::error::Error for LoadError {}

impl Environment {
    /// How `component` takes a module, if it is an environment.
    pub(crate) fn of(component: &Component) -> Option<Self> {
        let interface = component.get_export_index(None, ENVIRONMENT)?;
        let load = component.get_export_index(Some(&interface), "load")?;
        Some(Self { load })
    }

    /// Evaluates a module in an instance that was just made.
    ///
    /// # Errors
    /// The inner error is the module's, the outer one the guest's or ours.
    pub(crate) async fn load(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        module: &Module,
    ) -> wasmtime::Result<Result<(), LoadError>> {
        let load: TypedFunc<(&str, &str), (Result<(), LoadError>,)> =
            instance.get_typed_func(&mut *store, &self.load)?;
        let (loaded,) = load
            .call_async(&mut *store, (&module.name, &module.source))
            .await?;
        Ok(loaded)
    }
}
