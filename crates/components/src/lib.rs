//! From C to a component, but for the compiler: C of a world before it, and the component of its core module after it.

use anyhow::{Context, Result, ensure};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Encoding, Parser, Payload};
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;

pub use wit_bindgen_core::wit_parser::{PackageId, Resolve};

/// What a command of WASI preview 1 exports
/// ([application ABI](https://github.com/WebAssembly/WASI/blob/main/legacy/application-abi.md)).
const START: &str = "_start";

/// C for a world of a package: names of files and what is in them. Without a name it is the package's only world. The
/// object file among them has to be linked too: it holds the world's types, which [`component`] reads.
///
/// # Errors
/// When the package has no such world, or several and none is named.
pub fn c_bindings(
    mut resolve: Resolve,
    package: PackageId,
    world: Option<&str>,
) -> Result<Vec<(String, Vec<u8>)>> {
    let world = resolve.select_world(&[package], world)?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)?;
    let files = files.iter();
    Ok(files
        .map(|(name, bytes)| (name.to_owned(), bytes.to_owned()))
        .collect())
}

/// The component of a core module that was linked with the types of its world. What it imports of WASI preview 1 is offered
/// in terms of WASI 0.2 by wasmtime's adapter: the one of commands where it exports `_start`, else the one of reactors.
///
/// # Errors
/// When it is no core module, or imports what neither its world nor preview 1 has.
pub fn component(module: &[u8]) -> Result<Vec<u8>> {
    let adapter = match exports(module)?.contains(&START) {
        true => WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        false => WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    ComponentEncoder::default()
        .validate(true)
        .module(module)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?
        .encode()
}

fn exports(module: &[u8]) -> Result<Vec<&str>> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload.context("it is no WebAssembly")? {
            Payload::Version { encoding, .. } => {
                ensure!(
                    encoding == Encoding::Module,
                    "it is a component already; it needs nothing more"
                );
            }
            Payload::ExportSection(section) => {
                for export in section {
                    names.push(export?.name);
                }
            }
            _ => (),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> (Resolve, PackageId) {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("test.wit", text).unwrap();
        (resolve, package)
    }

    fn names(text: &str, world: Option<&str>) -> Result<Vec<String>> {
        let (resolve, package) = resolved(text);
        let files = c_bindings(resolve, package, world)?;
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn a_world_has_a_header_a_source_and_its_types() {
        let one = "package a:b; world my-agent { export run: func(); }";
        let expected = ["my_agent.c", "my_agent.h", "my_agent_component_type.o"];
        assert_eq!(names(one, None).unwrap(), expected);
        assert_eq!(names(one, Some("my-agent")).unwrap(), expected);
        let error = names(one, Some("other")).unwrap_err();
        assert!(format!("{error:#}").contains("other"), "{error:#}");
        let two = "package a:b; world a { } world b { }";
        assert!(names(two, None).is_err());
        assert_eq!(names(two, Some("b")).unwrap()[0], "b.c");
    }

    #[test]
    fn a_module_becomes_a_component_and_other_files_say_what_they_are() {
        let module = |text: &str| wat::parse_str(text).unwrap();
        let built = component(&module("(module)")).unwrap();
        assert!(Parser::is_component(&built));
        let error = |bytes: &[u8]| format!("{:#}", component(bytes).unwrap_err());
        assert!(error(&built).contains("a component already"));
        assert!(error(b"#!/bin/sh").contains("no WebAssembly"));
        let unknown = module(r#"(module (import "env" "get" (func)))"#);
        assert!(error(&unknown).contains("env"), "{}", error(&unknown));
    }

    #[test]
    fn a_command_is_run_by_its_adapter() {
        let exit = r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#;
        let module = |export: &str| {
            let text = format!(r#"(module {exit} (memory (export "memory") 1) {export})"#);
            component(&wat::parse_str(text).unwrap()).unwrap()
        };
        let is_run = |bytes: &[u8]| {
            let name = b"wasi:cli/run@";
            bytes.windows(name.len()).any(|at| at == name)
        };
        assert!(is_run(&module(r#"(func (export "_start"))"#)));
        assert!(!is_run(&module(r#"(func (export "start"))"#)));
    }
}
