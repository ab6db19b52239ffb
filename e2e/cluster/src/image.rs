//! OCI images made from lists of files, the same bytes and digest every time.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `sha256:` and the digest in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Bytes with what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Media type.
    pub media_type: String,
    /// Digest of `bytes`.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Content of a media type.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest(&bytes),
            bytes,
        }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image or artifact as a registry stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The manifest; its digest is the image's.
    pub manifest: Blob,
    /// Config and layers.
    pub blobs: Vec<Blob>,
}

impl Packed {
    /// Any config with any layers, for images that are wrong on purpose too.
    pub fn new(config: Blob, layers: Vec<Blob>) -> Self {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let blobs = std::iter::once(config).chain(layers).collect();
        Self {
            manifest: Blob::new(MANIFEST, manifest.to_string().into()),
            blobs,
        }
    }

    /// The digest that names the image.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }
}

/// What a registry takes: an [`Image`], or one that is packed already.
pub trait Pack {
    /// Config, layers and manifest.
    ///
    /// # Errors
    /// When a path cannot stand in a layer.
    fn pack(&self) -> Result<Packed>;
}

impl Pack for Packed {
    fn pack(&self) -> Result<Packed> {
        Ok(self.clone())
    }
}

/// What a path in an image is.
#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

/// An ordinary image: files, and what runs.
#[derive(Debug, Clone)]
pub struct Image {
    entries: Vec<(String, Entry)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: String,
    architecture: String,
    gzip: bool,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: vec!["PATH=/usr/bin:/bin".to_owned()],
            user: String::new(),
            architecture: go_architecture(std::env::consts::ARCH).to_owned(),
            gzip: false,
        }
    }
}

impl Image {
    /// An empty image for this machine's processor.
    pub fn new() -> Self {
        Self::default()
    }

    /// A CNCF wasm artifact: one `application/wasm` layer.
    pub fn wasm_artifact(wasm: impl Into<Vec<u8>>) -> Packed {
        let layer = Blob::new("application/wasm", wasm.into());
        let config = json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer.digest],
        });
        let config = Blob::new(
            "application/vnd.wasm.config.v0+json",
            config.to_string().into(),
        );
        Packed::new(config, vec![layer])
    }

    /// An image that holds one file, `/<name>`, and names it as its entry point: a bundle as `docker build` makes it.
    pub fn wasm_file(name: &str, wasm: impl Into<Vec<u8>>) -> Self {
        Self::new()
            .entrypoint([format!("/{name}")])
            .file(name, 0o644, wasm)
    }

    /// Adds a file; missing directories are made.
    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.entries.push((
            path.to_owned(),
            Entry::File {
                mode,
                bytes: bytes.into(),
            },
        ));
        self
    }

    /// Adds a file of this machine, executable.
    pub fn program(self, path: &str, source: &Path) -> Result<Self> {
        let bytes = std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
        Ok(self.file(path, 0o755, bytes))
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.push((
            path.to_owned(),
            Entry::Link {
                target: target.to_owned(),
            },
        ));
        self
    }

    /// Adds an empty directory.
    pub fn directory(mut self, path: &str) -> Self {
        self.entries.push((path.to_owned(), Entry::Directory));
        self
    }

    /// What runs.
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.entrypoint = words
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        self
    }

    /// What runs where the pod names no arguments.
    pub fn command(mut self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.command = words
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        self
    }

    /// Adds `NAME=value`.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The user it runs as.
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    /// Another processor, in Go's words (`amd64`, `arm64`).
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    /// Compresses the layer, as most builders do. Plain is quicker on one machine.
    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut directories = std::collections::BTreeSet::new();
        for (path, entry) in &self.entries {
            let path = path.trim_matches('/');
            let above = Path::new(path)
                .ancestors()
                .skip(1)
                .filter(|dir| !dir.as_os_str().is_empty());
            for directory in above.collect::<Vec<_>>().into_iter().rev() {
                if directories.insert(directory.to_owned()) {
                    let mut header = header(tar::EntryType::Directory, 0o755, 0);
                    archive.append_data(&mut header, directory, &[][..])?;
                }
            }
            match entry {
                Entry::Directory => {
                    if directories.insert(Path::new(path).to_owned()) {
                        let mut header = header(tar::EntryType::Directory, 0o755, 0);
                        archive.append_data(&mut header, path, &[][..])?;
                    }
                }
                Entry::File { mode, bytes } => {
                    let mut header = header(tar::EntryType::Regular, *mode, bytes.len() as u64);
                    archive.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.into_inner().context("finish the layer")
    }
}

impl Pack for Image {
    fn pack(&self) -> Result<Packed> {
        let tar = self.tar()?;
        let diff_id = digest(&tar);
        let layer = if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&tar)?;
            Blob::new(&format!("{LAYER}+gzip"), encoder.finish()?)
        } else {
            Blob::new(LAYER, tar)
        };
        let config = json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "User": self.user,
                "Env": self.environment,
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        Ok(Packed::new(
            Blob::new(CONFIG, config.to_string().into()),
            vec![layer],
        ))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A processor in Go's words, which images use.
pub fn go_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Image {
        Image::new()
            .architecture("amd64")
            .file("/opt/app/run", 0o755, "binary")
            .file("/opt/app/data", 0o644, "data")
            .link("/bin/run", "/opt/app/run")
            .entrypoint(["/opt/app/run"])
            .user("65532")
    }

    #[test]
    fn the_same_files_have_the_same_digest() {
        let (one, two) = (sample().pack().unwrap(), sample().pack().unwrap());
        assert_eq!(one, two);
        let other = sample().file("/more", 0o644, "more").pack().unwrap();
        assert_ne!(one.digest(), other.digest());
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_layer_lists_directories_before_files_and_once() {
        let image = sample().pack().unwrap();
        let mut archive = tar::Archive::new(image.blobs[1].bytes.as_slice());
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(
            paths,
            [
                "opt",
                "opt/app",
                "opt/app/run",
                "opt/app/data",
                "bin",
                "bin/run"
            ]
        );
    }

    #[test]
    fn a_compressed_layer_keeps_the_digest_of_its_content() {
        let (plain, packed) = (sample().pack().unwrap(), sample().gzip().pack().unwrap());
        assert_eq!(plain.blobs[0], packed.blobs[0]);
        assert_ne!(plain.blobs[1].digest, packed.blobs[1].digest);
    }

    #[test]
    fn a_wasm_artifact_has_the_agreed_media_types() {
        let image = Image::wasm_artifact(b"\0asm");
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(
            manifest["config"]["mediaType"],
            "application/vnd.wasm.config.v0+json"
        );
        assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
        assert_eq!(manifest["layers"][0]["size"], 4);
    }
}
