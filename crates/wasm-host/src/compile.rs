//! From a component's bytes to an artifact. Runs in the confined compile helper, or in `hearth serve`.

use std::borrow::Cow;
use std::io::Read;

use wasmtime::component::Component;

use crate::bundle::{Binary, BundleError, BundleKind, binary};
use crate::engine::{Concurrency, Engine};
use crate::{instance, preview1};

/// Largest component, in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;

/// A compiled bundle.
#[derive(Debug)]
pub struct Compiled {
    /// What it can be asked to do.
    pub kind: BundleKind,
    /// The artifact's bytes.
    pub artifact: Vec<u8>,
}

/// Compiles a component and checks that it can be linked and called: without the component model's concurrency, and
/// where that refuses it, with it. A command of WASI preview 1 is made a component first.
///
/// # Errors
/// Says what is wrong with the bundle.
pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Compiled, BundleError> {
    let component = match binary(bytes)? {
        Binary::Component => Cow::Borrowed(bytes),
        Binary::Module => Cow::Owned(preview1::component(bytes)?),
    };
    let [without, with] = Concurrency::ALL;
    compile_for(engine, without, &component).or_else(|_| compile_for(engine, with, &component))
}

fn compile_for(
    engine: &Engine,
    concurrency: Concurrency,
    bytes: &[u8],
) -> Result<Compiled, BundleError> {
    let invalid = |error: wasmtime::Error| {
        let text = format!("{error:#}");
        let cut = ["unexpected end", "unexpected EOF", "out of bounds"];
        BundleError::Invalid(if cut.iter().any(|words| text.contains(words)) {
            format!("it is cut short or damaged; build or push it again: {text}")
        } else {
            text
        })
    };
    let wasmtime = engine.wasmtime(concurrency).map_err(invalid)?;
    let component = Component::from_binary(wasmtime, bytes).map_err(invalid)?;
    let kind = instance::check(engine, &component)?;
    let artifact = component.serialize().map_err(invalid)?;
    Ok(Compiled { kind, artifact })
}

/// Finds the one .wasm file in the layers of an image, lowest layer first. Whiteouts of later layers are respected.
///
/// # Errors
/// [`BundleError::NotABundle`] says what was found instead; [`BundleError::Limit`] for a file over
/// [`MAX_COMPONENT_BYTES`].
pub fn find_component<R: Read>(
    layers: impl IntoIterator<Item = R>,
) -> Result<Vec<u8>, BundleError> {
    let unreadable = |error: std::io::Error| {
        BundleError::NotABundle(format!("a layer of the image cannot be read: {error}"))
    };
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    let mut files = 0_u64;
    for layer in layers {
        let mut archive = tar::Archive::new(maybe_gunzip(layer).map_err(unreadable)?);
        for entry in archive.entries().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry
                .path()
                .map_err(unreadable)?
                .to_string_lossy()
                .trim_start_matches("./")
                .to_owned();
            let name = path.rsplit('/').next().unwrap_or_default();
            if let Some(hidden) = name.strip_prefix(".wh.") {
                let folder = &path[..path.len() - name.len()];
                let hidden = if hidden == ".wh..opq" {
                    folder.to_owned()
                } else {
                    format!("{folder}{hidden}")
                };
                found.retain(|(path, _)| {
                    path != &hidden
                        && !path.starts_with(&format!("{}/", hidden.trim_end_matches('/')))
                });
                continue;
            }
            if !entry.header().entry_type().is_file() {
                continue;
            }
            files += 1;
            if name.ends_with(".wasm") {
                let size = entry.size();
                if size > MAX_COMPONENT_BYTES {
                    return Err(BundleError::Limit(format!(
                        "{path} has {size} bytes; a component has at most {MAX_COMPONENT_BYTES}"
                    )));
                }
                let mut bytes = Vec::new();
                entry
                    .take(MAX_COMPONENT_BYTES)
                    .read_to_end(&mut bytes)
                    .map_err(unreadable)?;
                found.retain(|(known, _)| known != &path);
                found.push((path, bytes));
            }
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0).1),
        0 => Err(BundleError::NotABundle(format!(
            "the image holds no .wasm file among its {files} files, so it is a Linux container and no bundle; build the image FROM scratch with one .wasm file, or run it without runtimeClassName hearth"
        ))),
        _ => {
            let names: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
            Err(BundleError::NotABundle(format!(
                "the image holds {} .wasm files ({}), and a bundle is exactly one",
                names.len(),
                names.join(", ")
            )))
        }
    }
}

fn maybe_gunzip<'a>(mut layer: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut head = [0; 2];
    let mut filled = 0;
    while filled < head.len() {
        match layer.read(&mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    let whole = std::io::Cursor::new(head[..filled].to_vec()).chain(layer);
    Ok(if head == [0x1f, 0x8b] {
        Box::new(flate2::read::MultiGzDecoder::new(whole))
    } else {
        Box::new(whole)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn find(layers: &[Vec<u8>]) -> Result<String, String> {
        find_component(layers.iter().map(Vec::as_slice))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn fuzz_layers() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let plain = layer(&[("etc/motd", "x"), ("./app/agent.wasm", "bytes")]);
        std::io::Write::write_all(&mut gzip, &plain).unwrap();
        let gzip = gzip.finish().unwrap();
        hearth_fuzz::bytes("fuzz_layers", &[&plain, &gzip], |input| {
            // The second layer is whole: it counts unless the first cannot be read or has one too.
            match find_component([input, plain.as_slice()]) {
                Ok(found) => assert_eq!(found, b"bytes"),
                Err(error) => assert!(matches!(error, BundleError::NotABundle(_)), "{error}"),
            }
        });
    }

    /// Archives that can be read, with paths that are anybody's.
    #[test]
    fn fuzz_paths() {
        use std::path::{Component, Path};
        // What an archive takes for a path.
        let is_path = |path: &&str| {
            let is_plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            !path.is_empty()
                && path.len() < 90
                && !path.contains('\0')
                && Path::new(path).components().all(is_plain)
        };
        let examples = [
            "app/.wh.agent.wasm\napp/.wh..wh..opq\n./b.wasm",
            "a/b/.wh.c\na.wasm\n.wh.",
        ];
        hearth_fuzz::text("fuzz_paths", &examples, |input| {
            // Each file says where it is.
            let files: Vec<_> = input
                .lines()
                .filter(is_path)
                .map(|path| (path, path))
                .collect();
            let first = layer(&[
                ("app/agent.wasm", "app/agent.wasm"),
                ("a/b/c/d.wasm", "a/b/c/d.wasm"),
            ]);
            let second = layer(&files);
            if let Ok(found) = find_component([first.as_slice(), second.as_slice()]) {
                assert!(found.ends_with(b".wasm"), "{found:?}");
            }
        });
    }

    /// Whole binaries of both kinds. What they are made of is wasmtime's own to check.
    #[test]
    fn fuzz_compile() {
        let engine = Engine::for_compiling().unwrap();
        let examples = [
            &b"\0asm\x0d\0\x01\0"[..],
            &hearth_test_guests::Guest::ForeignImport.wasm().unwrap(),
            &hearth_test_guests::Guest::UnknownImport.wasm().unwrap(),
        ];
        hearth_fuzz::bytes("fuzz_compile", &examples, |input| {
            // Nothing in them can be called.
            compile(&engine, input).unwrap_err();
        });
    }

    #[test]
    fn the_only_wasm_file_is_found() {
        assert_eq!(
            find(&[layer(&[("etc/motd", "x"), ("app/agent.wasm", "bytes")])]),
            Ok("bytes".to_owned())
        );
        assert_eq!(
            find(&[layer(&[("a.wasm", "old")]), layer(&[("a.wasm", "new")])]),
            Ok("new".to_owned())
        );
        assert_eq!(
            find(&[
                layer(&[("a.wasm", "a")]),
                layer(&[(".wh.a.wasm", ""), ("b.wasm", "b")])
            ]),
            Ok("b".to_owned())
        );
    }

    #[test]
    fn a_gzipped_layer_is_read() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &layer(&[("a.wasm", "zipped")])).unwrap();
        assert_eq!(find(&[encoder.finish().unwrap()]), Ok("zipped".to_owned()));
    }

    #[test]
    fn what_was_found_instead_is_said() {
        assert!(
            find(&[layer(&[("bin/sh", "x")])])
                .unwrap_err()
                .contains("no .wasm file among its 1 files")
        );
        assert!(
            find(&[layer(&[("a.wasm", "a"), ("b.wasm", "b")])])
                .unwrap_err()
                .contains("2 .wasm files (a.wasm, b.wasm)")
        );
        assert!(
            find(&[b"no archive at all".to_vec()])
                .unwrap_err()
                .contains("cannot be read")
        );
    }
}
