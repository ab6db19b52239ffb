//! From an image's name to the bytes that the compile helper gets.
//!
//! Only names and manifests are read here, both bounded; layers and components are copied into sealed memory files
//! and never looked into.

mod manifest;
mod reference;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use hearth_contract::{FailureReason, proto};
use rustix::fs::{MemfdFlags, SealFlags};
use tonic::{Code, Status};

use crate::containerd::Containerd;

pub use manifest::{Contents, Descriptor};
pub use reference::{normalise, with_digest};

/// Largest manifest or index, in bytes.
const MANIFEST_BYTES: usize = 4 << 20;
/// Most bytes that a bundle's layers may have together, compressed as they are.
const BUNDLE_BYTES: u64 = 256 << 20;

/// Why a bundle cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str())]
pub struct Failure {
    /// The word.
    pub reason: FailureReason,
    /// A sentence: the thing, the likely cause, what to do.
    pub message: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: hearth_contract::brief(message.into()),
        }
    }

    /// The node could not do its part.
    pub fn node(doing: &str, error: impl std::fmt::Display) -> Self {
        Self::new(FailureReason::NodeFault, format!("{doing}: {error}"))
    }
}

impl From<Failure> for proto::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
        }
    }
}

/// A bundle whose manifest was read.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Digest of the manifest: the bundle's name.
    pub digest: String,
    /// What the manifest lists.
    pub contents: Contents,
}

/// Reads what containerd has under an image's name.
pub async fn resolve(containerd: &Containerd, image: &str) -> Result<Resolved, Failure> {
    let target = containerd
        .image(image)
        .await
        .map_err(|status| store_failure(image, &status))?;
    let mut candidates = vec![target.digest];
    // An index leads to manifests; a manifest leads nowhere, so two rounds are enough.
    for _ in 0..2 {
        let mut first_problem = None;
        let mut index = None;
        for digest in &candidates {
            let bytes = match read_manifest(containerd, digest).await {
                Ok(bytes) => bytes,
                // A pull fetches only the node's own platform of an index.
                Err(status) => {
                    first_problem.get_or_insert(status);
                    continue;
                }
            };
            match manifest::read(&bytes).map_err(|problem| not_a_bundle(image, &problem))? {
                manifest::Document::Manifest(manifest) => {
                    let contents = manifest
                        .contents()
                        .map_err(|problem| not_a_bundle(image, &problem))?;
                    let digest = digest.clone();
                    return Ok(Resolved { digest, contents });
                }
                manifest::Document::Index(found) => {
                    index = Some(found);
                    break;
                }
            }
        }
        match (index, first_problem) {
            (Some(index), _) => {
                candidates = index
                    .candidates(std::env::consts::ARCH)
                    .map_err(|problem| not_a_bundle(image, &problem))?;
            }
            (None, Some(status)) => return Err(store_failure(image, &status)),
            (None, None) => break,
        }
    }
    Err(not_a_bundle(image, "its index leads to no manifest"))
}

/// Copies a bundle's bytes into sealed memory files, in the manifest's order.
pub async fn fetch(
    containerd: &Containerd,
    image: &str,
    contents: &Contents,
) -> Result<Vec<OwnedFd>, Failure> {
    let total: u64 = contents.blobs().iter().map(|blob| blob.size).sum();
    if total > BUNDLE_BYTES {
        return Err(not_a_bundle(
            image,
            &format!(
                "it has {} MiB, a bundle at most {} MiB; it is probably a Linux container",
                total >> 20,
                BUNDLE_BYTES >> 20
            ),
        ));
    }
    let mut files = Vec::new();
    for blob in contents.blobs() {
        files.push(fetch_blob(containerd, image, blob).await?);
    }
    Ok(files)
}

async fn fetch_blob(
    containerd: &Containerd,
    image: &str,
    blob: &Descriptor,
) -> Result<OwnedFd, Failure> {
    let node = |error: std::io::Error| Failure::node("making a memory file", error);
    let mut file = memory_file().map_err(node)?;
    let mut left = blob.size;
    containerd
        .read(&blob.digest, |piece| {
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
                std::io::Error::other("it is longer than the manifest says")
            })?;
            file.write_all(piece)
        })
        .await
        .map_err(|status| match status.code() {
            Code::NotFound => Failure::new(
                FailureReason::PullFailed,
                format!(
                    "image {image:?}: layer {} is not in containerd's store any more; if containerd's \
                     discard_unpacked_layers is on, switch it off",
                    blob.digest
                ),
            ),
            _ => store_failure(image, &status),
        })?;
    if left != 0 {
        return Err(Failure::new(
            FailureReason::InvalidBundle,
            format!(
                "image {image:?}: layer {} ends {left} bytes early",
                blob.digest
            ),
        ));
    }
    seal(file).map_err(node)
}

/// A module in a sealed memory file, its source map in it as its last line: a comment that whoever runs it takes off. None of
/// it is looked into.
pub async fn fetch_module(
    containerd: &Containerd,
    image: &str,
    contents: &Contents,
) -> Result<OwnedFd, Failure> {
    let node = |error: io::Error| Failure::node("making a memory file", error);
    let mut files = fetch(containerd, image, contents).await?.into_iter();
    let (Some(code), map) = (files.next(), files.next()) else {
        return Err(not_a_bundle(image, "it has no layers"));
    };
    let Some(map) = map else {
        return Ok(code);
    };
    let joined = move || {
        let mut whole = memory_file()?;
        io::copy(&mut File::from(code), &mut whole)?;
        whole.write_all(b"\n//# sourceMappingURL=data:application/json;base64,")?;
        let mut encoder = EncoderWriter::new(&mut whole, &STANDARD);
        io::copy(&mut File::from(map), &mut encoder)?;
        encoder.finish()?;
        drop(encoder);
        seal(whole)
    };
    joined().map_err(node)
}

/// A memory file with these bytes, which nobody can change.
pub(crate) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = memory_file()?;
    file.write_all(bytes)?;
    seal(file)
}

fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create("hearth-bundle", flags)?.into())
}

fn seal(mut file: File) -> io::Result<OwnedFd> {
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

async fn read_manifest(containerd: &Containerd, digest: &str) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    containerd
        .read(digest, |piece| {
            if bytes.len() + piece.len() > MANIFEST_BYTES {
                return Err(std::io::Error::other("a manifest has at most 4 MiB"));
            }
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
    Ok(bytes)
}

fn not_a_bundle(image: &str, problem: &str) -> Failure {
    Failure::new(
        FailureReason::NotABundle,
        format!("image {image:?} is no bundle: {problem}"),
    )
}

fn store_failure(image: &str, status: &Status) -> Failure {
    let reason = match status.code() {
        Code::NotFound => FailureReason::ImageNotFound,
        _ => FailureReason::NodeFault,
    };
    Failure::new(
        reason,
        format!(
            "image {image:?} cannot be read from containerd: {}",
            status.message()
        ),
    )
}

/// Pulls an image by way of containerd.
pub async fn pull(containerd: &Containerd, image: &str) -> Result<(), Failure> {
    containerd
        .pull(image)
        .await
        .map_err(|status| pull_failure(image, &status))
}

/// What a failed pull means to the function's owner. containerd has no codes for most of it, only texts.
fn pull_failure(image: &str, status: &Status) -> Failure {
    let text = status.message();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "no match for platform",
        "no unpack platforms",
        "mismatched image rootfs",
    ]) {
        return not_a_bundle(
            image,
            &format!(
                "it has no manifest for this node, probably a bundle for another architecture: {text}"
            ),
        );
    }
    let absent = status.code() == Code::NotFound
        || has(&[
            "not found",
            "pull access denied",
            "authorization failed",
            "insufficient_scope",
            "401 Unauthorized",
            "403 Forbidden",
            "failed to parse image reference",
            "invalid reference",
        ]);
    if absent {
        let hint = "check the name, and that the node may read the registry";
        return Failure::new(
            FailureReason::ImageNotFound,
            format!("image {image:?} is not in its registry or not for us ({hint}): {text}"),
        );
    }
    Failure::new(
        FailureReason::PullFailed,
        format!("image {image:?} could not be pulled, maybe the registry does not answer: {text}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_texts_become_reasons() {
        let check = |status: Status, expected| {
            let failure = pull_failure("r.io/a:1", &status);
            assert_eq!(failure.reason, expected, "{failure}");
            assert!(failure.message.contains("r.io/a:1"));
        };
        check(Status::not_found("x"), FailureReason::ImageNotFound);
        check(
            Status::unknown("failed to resolve reference: r.io/a:1: not found"),
            FailureReason::ImageNotFound,
        );
        check(
            Status::unknown("dial tcp 10.0.0.1:5000: connect: connection refused"),
            FailureReason::PullFailed,
        );
        check(
            Status::unknown("no match for platform in manifest"),
            FailureReason::NotABundle,
        );
    }
}
