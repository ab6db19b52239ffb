//! Commands of WASI preview 1, which are core modules, made into components: the rest of the path knows one kind of guest.
//!
//! wasmtime's adapter offers the functions of preview 1 in terms of WASI 0.2 and calls the module's `_start` when the
//! component is run. `proc_exit` alone goes another way: the adapter knows success and failure, and a command's exit code
//! is more than that.

use std::collections::HashSet;
use std::convert::Infallible;

use anyhow::Context;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1,
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as ADAPTER,
};
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection,
    Module, RawSection, TypeSection, ValType,
};
use wasmparser::{ExternalKind, ImportSectionReader, Parser, Payload};
use wit_component::metadata::Bindgen;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use crate::bundle::BundleError;

/// What a command exports: its entry.
const START: &str = "_start";
/// Ends the program with an exit code.
const PROC_EXIT: &str = "proc_exit";
/// The module that [`PROC_EXIT`] is imported from in a [`Rewired`] module.
const EXIT: &str = "hearth:exit";
/// The interface whose `exit-with-code` ends a component, up to its version.
const WASI_EXIT: &str = "wasi:cli/exit@";

/// Makes a component of a core module that is a command of preview 1.
///
/// # Errors
/// [`BundleError::CoreModule`] when the module has no entry, [`BundleError::ForeignImport`] when it imports what preview 1
/// does not have, [`BundleError::Invalid`] when it cannot be read.
pub(crate) fn component(module: &[u8]) -> Result<Vec<u8>, BundleError> {
    let invalid = |error: &dyn std::fmt::Display| BundleError::Invalid(error.to_string());
    let command = Rewired::read(module).map_err(|error| invalid(&error))?;
    let adapter = Interface::read(ADAPTER).map_err(|error| invalid(&error))?;
    if !command.interface.exports.contains(START) {
        return Err(BundleError::CoreModule);
    }
    let is_offered =
        |(from, name): &&(&str, &str)| *from == PREVIEW1 && adapter.exports.contains(name);
    let mut foreign = command
        .interface
        .imports
        .iter()
        .filter(|import| !is_offered(import));
    if let Some((from, name)) = foreign.next() {
        return Err(BundleError::ForeignImport(format!("{name} of {from}")));
    }
    let encode = || {
        ComponentEncoder::default()
            .module(&command.module)?
            .adapter(PREVIEW1, ADAPTER)?
            .adapter(EXIT, &exit_adapter(&adapter)?)?
            .encode()
    };
    // Its own chain of reasons.
    encode().map_err(|error| invalid(&format!("{error:#}")))
}

/// What a core module asks for and offers.
#[derive(Default)]
struct Interface<'a> {
    /// Module and name of each.
    imports: Vec<(&'a str, &'a str)>,
    /// Names of exported functions.
    exports: HashSet<&'a str>,
}

impl<'a> Interface<'a> {
    fn read(module: &'a [u8]) -> wasmparser::Result<Self> {
        let mut interface = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            interface.note(&payload?)?;
        }
        Ok(interface)
    }

    fn note(&mut self, payload: &Payload<'a>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    let import = import?;
                    self.imports.push((import.module, import.name));
                }
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    let export = export?;
                    if export.kind == ExternalKind::Func {
                        self.exports.insert(export.name);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A module, and the same with [`PROC_EXIT`] imported from [`EXIT`].
struct Rewired<'a> {
    interface: Interface<'a>,
    module: Vec<u8>,
}

impl<'a> Rewired<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, reencode::Error<Infallible>> {
        let mut interface = Interface::default();
        let mut module = Module::new();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            interface.note(&payload)?;
            if let Payload::ImportSection(section) = payload {
                let mut imports = ImportSection::new();
                ExitsElsewhere.parse_import_section(&mut imports, section)?;
                module.section(&imports);
            } else if let Some((id, range)) = payload.as_section() {
                let range = range.start as usize..range.end as usize;
                // The code's is announced before all of it was seen.
                let data = bytes
                    .get(range)
                    .ok_or(reencode::Error::InvalidCodeSectionSize)?;
                module.section(&RawSection { id, data });
            }
        }
        Ok(Self {
            interface,
            module: module.finish(),
        })
    }
}

/// Changes where [`PROC_EXIT`] comes from, and nothing else.
struct ExitsElsewhere;

impl Reencode for ExitsElsewhere {
    type Error = Infallible;

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: ImportSectionReader<'_>,
    ) -> Result<(), reencode::Error<Infallible>> {
        for import in section.into_imports() {
            let mut import = import?;
            if (import.module, import.name) == (PREVIEW1, PROC_EXIT) {
                import.module = EXIT;
            }
            self.parse_import(imports, import)?;
        }
        Ok(())
    }
}

/// The module that offers [`PROC_EXIT`] in terms of the interface that `adapter` ends a component with: so that both are of
/// one version, and the new one is described as the other is.
fn exit_adapter(adapter: &Interface<'_>) -> anyhow::Result<Vec<u8>> {
    let mut imported = adapter.imports.iter().map(|(from, _)| *from);
    let exit = imported.find(|from| from.starts_with(WASI_EXIT));
    let exit = exit.context("the adapter ends no component")?;
    let (_, mut described) = wit_component::metadata::decode(ADAPTER)?;
    described.resolve.worlds[described.world].exports.clear();
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    let mut imports = ImportSection::new();
    imports.import(exit, "exit-with-code", EntityType::Function(0));
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut exports = ExportSection::new();
    exports.export(PROC_EXIT, ExportKind::Func, 1);
    let mut body = Function::new([]);
    body.instructions().local_get(0).call(0).unreachable().end();
    let mut code = CodeSection::new();
    code.function(&body);
    let mut module = Module::new();
    module.section(&types).section(&imports).section(&functions);
    module.section(&exports).section(&code);
    let mut module = module.finish();
    let Bindgen { resolve, world, .. } = described;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_contract::FailureReason;
    use hearth_test_guests::Guest;

    #[test]
    fn a_command_becomes_a_component() {
        let module = Guest::Preview1.wasm().unwrap();
        let component = component(&module).unwrap();
        assert_eq!(&component[..8], b"\0asm\x0d\0\x01\0");
    }

    #[test]
    fn other_modules_are_refused_with_what_they_lack() {
        for (guest, reason, words) in [
            (
                Guest::CoreModule,
                FailureReason::CoreModule,
                "without a function _start",
            ),
            (
                Guest::ForeignImport,
                FailureReason::UnknownImport,
                "imports get of env",
            ),
        ] {
            let error = component(&guest.wasm().unwrap()).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn fuzz_module() {
        let whole = Guest::Preview1.wasm().unwrap();
        // In the small one a change hits something.
        let small = Guest::Exit.wasm().unwrap();
        let examples = [&small[..], &whole];
        hearth_fuzz::bytes("fuzz_module", &examples, |input| {
            if let Ok(component) = component(input) {
                assert_eq!(&component[..8], b"\0asm\x0d\0\x01\0");
            }
        });
    }
}
