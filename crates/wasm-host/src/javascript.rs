//! Functions whose bundle is JavaScript: an instance of the one environment component, given a user's module before it waits
//! for calls. The interface is `wit/javascript/environment.wit`.

use std::fmt;
use std::sync::OnceLock;

use wasmtime::Store;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentType, Instance, InstancePre, Lift, Lower,
};

use crate::instance::State;
use crate::positions;

/// Largest source of one module, in bytes: every instance that is made reads it.
pub const MAX_SOURCE_BYTES: usize = 4 << 20;

/// Largest file of one module, in bytes: its source and the source map behind it, which no instance reads.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// The interface that makes a component an environment.
const ENVIRONMENT: &str = "hearth:javascript/environment@0.1.0";

/// A user's module.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Module {
    /// Name of its file, which stands in the positions of its errors.
    pub name: String,
    /// Its text.
    pub source: String,
}

impl Module {
    /// A module of a file's bytes. It may end with its source map, as a comment.
    ///
    /// # Errors
    /// When it is larger than a module may be, or no text.
    pub fn new(name: &str, bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(format!(
                "{name} has {} bytes with its source map, and may have {MAX_FILE_BYTES}; leave the map out, or sources out of it",
                bytes.len()
            ));
        }
        let source =
            String::from_utf8(bytes).map_err(|error| format!("{name} is not UTF-8: {error}"))?;
        let code = positions::apart(&source).0.len();
        if code > MAX_SOURCE_BYTES {
            return Err(format!(
                "{name} has {code} bytes of code, and a module at most {MAX_SOURCE_BYTES}; hearth build --minify makes it smaller"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            source,
        })
    }
}

/// How an environment takes a module.
#[derive(Clone, Copy)]
pub(crate) struct Environment {
    compile: ComponentExportIndex,
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
        let function = |name| component.get_export_index(Some(&interface), name);
        Some(Self {
            compile: function("compile")?,
            load: function("load")?,
        })
    }

    /// Compiles modules, the main one first, in an instance that does nothing else.
    ///
    /// # Errors
    /// The inner error is the module's, the outer one the guest's or ours.
    async fn compile(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        modules: &[Module],
    ) -> wasmtime::Result<Result<Vec<u8>, LoadError>> {
        type Compiled = (Result<Vec<u8>, LoadError>,);
        let compile =
            instance.get_typed_func::<(&[Module],), Compiled>(&mut *store, self.compile)?;
        let (compiled,) = compile.call_async(store, (modules,)).await?;
        Ok(compiled)
    }

    /// Evaluates a compiled module in an instance that was just made.
    ///
    /// # Errors
    /// The inner error is the module's, the outer one the guest's or ours.
    async fn load(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        compiled: &[u8],
    ) -> wasmtime::Result<Result<(), LoadError>> {
        type Loaded = (Result<(), LoadError>,);
        let load = instance.get_typed_func::<(&[u8],), Loaded>(&mut *store, self.load)?;
        let (loaded,) = load.call_async(store, (compiled,)).await?;
        Ok(loaded)
    }
}

/// The code of one function: its modules, the main one first, compiled when the first instance is made.
pub(crate) struct Code {
    modules: Vec<Module>,
    compiled: OnceLock<Vec<u8>>,
}

impl Code {
    pub(crate) fn new(modules: Vec<Module>) -> Self {
        Self {
            modules,
            compiled: OnceLock::new(),
        }
    }

    /// Bytes of what its text was compiled to.
    pub(crate) fn compiled_bytes(&self) -> usize {
        self.compiled.get().map_or(0, Vec::len)
    }

    /// Makes an instance in which the module is evaluated. `spare` makes a store for one that is thrown away.
    ///
    /// # Errors
    /// The inner error is the module's, the outer one the guest's or ours.
    pub(crate) async fn instantiate(
        &self,
        environment: &Environment,
        pre: &InstancePre<State>,
        store: &mut Store<State>,
        spare: impl FnOnce() -> Store<State>,
    ) -> wasmtime::Result<Result<Instance, LoadError>> {
        if self.compiled.get().is_none() {
            let mut store = spare();
            let instance = pre.instantiate_async(&mut store).await?;
            let compiled = environment.compile(&mut store, &instance, &self.modules);
            match compiled.await? {
                // Somebody may have been faster; it is the same.
                Ok(compiled) => {
                    let _ = self.compiled.set(compiled);
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let compiled = self.compiled.get().map_or(&[][..], Vec::as_slice);
        let instance = pre.instantiate_async(&mut *store).await?;
        let loaded = environment.load(store, &instance, compiled).await?;
        Ok(loaded.map(|()| instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_a_bound_that_its_source_map_does_not_count_for() {
        let code = " ".repeat(MAX_SOURCE_BYTES);
        let map = "\n//# sourceMappingURL=data:application/json;base64,AAAA";
        assert!(Module::new("agent.js", format!("{}{map}", &code[1..]).into_bytes()).is_ok());
        for (bytes, words) in [
            (format!("{code} ").into_bytes(), "bytes of code"),
            (vec![b' '; MAX_FILE_BYTES + 1], "with its source map"),
            (vec![0xff], "not UTF-8"),
        ] {
            let error = Module::new("agent.js", bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_error_is_a_sentence_with_its_place_and_the_outer_frames() {
        let mut error = LoadError {
            kind: LoadErrorKind::Threw,
            message: "TypeError: no".to_owned(),
            file: "agent.js".to_owned(),
            line: 3,
            column: 7,
            stack: "    at inner (agent.js:3:7)\n    at <anonymous> (agent.js:9:1)".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "the code threw when it was loaded: TypeError: no (agent.js:3:7)\nat <anonymous> (agent.js:9:1)"
        );
        error.file.clear();
        error.stack.clear();
        error.kind = LoadErrorKind::NoHandler;
        assert_eq!(error.to_string(), "the code has no handler: TypeError: no");
    }
}
