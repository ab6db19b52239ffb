//! What a bundle is, judged by its first bytes, its imports and its exports.

use hearth_contract::{FailureReason, proto};

/// What a bundle can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleKind {
    /// Answers HTTP calls: exports `wasi:http/incoming-handler` (0.2) or `wasi:http/handler` (0.3).
    Http,
    /// Runs once: exports `wasi:cli/run`.
    Command,
}

impl From<BundleKind> for proto::BundleKind {
    fn from(kind: BundleKind) -> Self {
        match kind {
            BundleKind::Http => Self::Http,
            BundleKind::Command => Self::Command,
        }
    }
}

/// Why bytes are no bundle, in words for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A core module without an entry.
    #[error(
        "the .wasm file is a core module without a function _start, and Hearth runs components and commands of WASI preview 1; `wasm-tools component new` makes a component of a module that was built for one"
    )]
    CoreModule,
    /// A core module that imports what nobody offers.
    #[error(
        "the core module imports {0}, and Hearth offers core modules the functions of wasi_snapshot_preview1 alone; `wasm-tools component new` makes a component of a module that was built for one"
    )]
    ForeignImport(String),
    /// No WebAssembly, cut short, or refused by the compiler.
    #[error("the .wasm file cannot be read as a component: {0}")]
    Invalid(String),
    /// Imports that nobody offers.
    #[error(
        "the component imports {0}, which Hearth does not offer; it offers wasi:cli, wasi:clocks, wasi:random, wasi:io, wasi:http, hearth:loader and, without any files or addresses granted, wasi:filesystem and wasi:sockets"
    )]
    UnknownImport(String),
    /// Nothing to call.
    #[error(
        "the component exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3 nor wasi:cli/run@0.2, so there is nothing to call; it exports {0}"
    )]
    NoEntryPoint(String),
    /// Layers that hold no bundle.
    #[error("{0}")]
    NotABundle(String),
    /// More than the compile helper takes.
    #[error("{0}")]
    Limit(String),
}

impl BundleError {
    /// The reason's word.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::CoreModule => FailureReason::CoreModule,
            Self::Invalid(_) => FailureReason::InvalidBundle,
            Self::UnknownImport(_) | Self::ForeignImport(_) => FailureReason::UnknownImport,
            Self::NoEntryPoint(_) => FailureReason::NoEntryPoint,
            Self::NotABundle(_) => FailureReason::NotABundle,
            Self::Limit(_) => FailureReason::CompileLimit,
        }
    }
}

/// The two kinds of WebAssembly binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// A core module.
    Module,
    /// A component.
    Component,
}

/// Tells by the eight bytes that every WebAssembly binary begins with.
///
/// # Errors
/// [`BundleError::Invalid`] when these are others.
pub fn binary(bytes: &[u8]) -> Result<Binary, BundleError> {
    let invalid = |problem: &str| Err(BundleError::Invalid(problem.to_owned()));
    if bytes.len() < 8 {
        return invalid("it is cut short: a WebAssembly binary has at least 8 bytes");
    }
    match (&bytes[..4], u16::from_le_bytes([bytes[6], bytes[7]])) {
        (b"\0asm", 0) => Ok(Binary::Module),
        (b"\0asm", 1) => Ok(Binary::Component),
        (b"\0asm", layer) => invalid(&format!(
            "its layer is {layer}, which is neither module nor component"
        )),
        (b"\x7fELF", _) => invalid("it is a Linux program"),
        _ => invalid("it does not begin with the bytes of a WebAssembly binary"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        assert_eq!(binary(b"\0asm\x0d\0\x01\0"), Ok(Binary::Component));
        assert_eq!(binary(b"\0asm\x01\0\0\0"), Ok(Binary::Module));
        for (bytes, word) in [
            (&b"\0as"[..], "cut short"),
            (b"\x7fELF\x02\x01\x01\0", "Linux program"),
            (b"#!/bin/sh\n", "does not begin"),
        ] {
            let error = binary(bytes).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.reason(), FailureReason::InvalidBundle);
        }
    }
}
