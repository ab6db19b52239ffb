//! Compiled bundles on the node: `<state_dir>/artifacts/<fingerprint>/<digest>.{cwasm,json,lock}`, root's alone.
//!
//! A file is native code that an engine will map, so it counts only when its SHA-256 is the one that was written down
//! when the compile helper made it; anything else is dropped and made again. Files appear by rename, so a crash leaves
//! nothing half written under a name that is read. Two pods that want the same bundle compile it once: the second
//! waits for the first's file lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_contract::proto::{BundleKind, Compiled};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The cache of one node.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    bytes: u64,
}

/// A verified artifact, open for reading.
#[derive(Debug)]
pub struct Artifact {
    /// The file.
    pub file: File,
    /// What the component exports.
    pub kind: BundleKind,
    /// Size of the file.
    pub bytes: u64,
}

/// What stands beside an artifact.
#[derive(Debug, Serialize, Deserialize)]
struct Sidecar {
    sha256: String,
    bytes: u64,
    /// `http` or `command`.
    kind: String,
    compile_ms: u32,
}

/// Holds the right to make one artifact. Ends with the value.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A file that the compile helper writes. Removed when dropped without [`Cache::store`].
#[derive(Debug)]
pub struct Draft {
    /// Open for writing.
    pub file: File,
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        let _ = fs::remove_file(&self.path);
    }
}

impl Cache {
    /// A cache in `<state_dir>/artifacts` of at most `bytes`.
    pub fn new(state_dir: &Path, bytes: u64) -> Self {
        Self {
            root: state_dir.join("artifacts"),
            bytes,
        }
    }

    /// Finds and verifies an artifact. What is damaged is removed and `None`.
    pub fn lookup(&self, fingerprint: &str, digest: &str) -> io::Result<Option<Artifact>> {
        let stem = self.stem(fingerprint, digest)?;
        let found = match open_verified(&stem) {
            Ok(artifact) => artifact,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                tracing::warn!(path = %stem.display(), %error, "artifact is damaged and is dropped");
                remove(&stem);
                return Ok(None);
            }
        };
        // The time of the last use, for eviction. A cache that cannot note it still works.
        let now = std::time::SystemTime::now();
        let _ = File::open(stem.with_extension("json")).and_then(|file| file.set_modified(now));
        Ok(Some(found))
    }

    /// Waits for the right to make an artifact, for at most `patience`.
    pub async fn lock(
        &self,
        fingerprint: &str,
        digest: &str,
        patience: Duration,
    ) -> io::Result<Lock> {
        let stem = self.stem(fingerprint, digest)?;
        if let Some(folder) = stem.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(stem.with_extension("lock"))?;
        let wait = async {
            loop {
                match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok::<(), io::Error>(()),
                    Err(rustix::io::Errno::WOULDBLOCK) => {}
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, wait).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "another pod is still compiling the same bundle",
            )
        })??;
        Ok(Lock { _file: file })
    }

    /// A new file for the compile helper. Needs the lock.
    pub fn draft(&self, fingerprint: &str, digest: &str, _lock: &Lock) -> io::Result<Draft> {
        let path = self.stem(fingerprint, digest)?.with_extension("draft");
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Draft { file, path })
    }

    /// Puts a finished file under its name. Call it after the helper's process has ended, so that nobody can write
    /// any more.
    ///
    /// # Errors
    /// The file is not what the helper said, or cannot be stored.
    pub fn store(
        &self,
        fingerprint: &str,
        digest: &str,
        draft: Draft,
        compiled: &Compiled,
    ) -> io::Result<Artifact> {
        let stem = self.stem(fingerprint, digest)?;
        if compiled.fingerprint != fingerprint {
            return Err(io::Error::other(format!(
                "the compile helper is of engine {:?} and the engine of {fingerprint:?}; maybe an upgrade is running",
                compiled.fingerprint
            )));
        }
        draft.file.sync_all()?;
        let (sha256, bytes) = hash(&mut File::open(&draft.path)?)?;
        if sha256 != compiled.artifact_sha256 || bytes != compiled.artifact_bytes {
            return Err(io::Error::other(
                "the artifact is not what the compile helper said",
            ));
        }
        let sidecar = Sidecar {
            sha256,
            bytes,
            kind: kind_word(compiled.kind())?.to_owned(),
            compile_ms: compiled.compile_ms,
        };
        // The engine opens its descriptor once more to map it, as an unprivileged user. Whoever holds no descriptor
        // does not come past the folder.
        draft
            .file
            .set_permissions(fs::Permissions::from_mode(0o444))?;
        let sidecar_draft = stem.with_extension("json-draft");
        fs::write(&sidecar_draft, serde_json::to_vec(&sidecar)?)?;
        File::open(&sidecar_draft)?.sync_all()?;
        fs::rename(&draft.path, stem.with_extension("cwasm"))?;
        fs::rename(&sidecar_draft, stem.with_extension("json"))?;
        if let Some(folder) = stem.parent() {
            File::open(folder)?.sync_all()?;
        }
        if let Err(error) = self.evict(&stem) {
            tracing::warn!(%error, "artifact cache could not be trimmed");
        }
        open_verified(&stem)
    }

    /// Removes the least recently used artifacts, of any fingerprint, until the rest fits. `keep` stays.
    fn evict(&self, keep: &Path) -> io::Result<()> {
        let mut artifacts = Vec::new();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?.path();
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|end| end == "json") {
                    let used = fs::metadata(&path)?.modified()?;
                    let bytes = fs::metadata(path.with_extension("cwasm")).map_or(0, |m| m.len());
                    artifacts.push((used, bytes, path.with_extension("")));
                }
            }
        }
        let mut total: u64 = artifacts.iter().map(|(_, bytes, _)| bytes).sum();
        artifacts.sort();
        for (_, bytes, stem) in artifacts {
            if total <= self.bytes {
                break;
            }
            if stem != keep {
                remove(&stem);
                total = total.saturating_sub(bytes);
            }
        }
        Ok(())
    }

    /// The path without its extension. Both parts come from outside, so both are checked.
    fn stem(&self, fingerprint: &str, digest: &str) -> io::Result<PathBuf> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let is_word = |text: &str| {
            !text.is_empty()
                && text.len() <= 200
                && !text.starts_with('.')
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| invalid("the digest is no sha256:<64 hexadecimal digits>"))?;
        if !is_word(fingerprint) {
            return Err(invalid("the engine's fingerprint is no plain word"));
        }
        Ok(self.root.join(fingerprint).join(hex))
    }
}

fn open_verified(stem: &Path) -> io::Result<Artifact> {
    let sidecar: Sidecar = serde_json::from_slice(&fs::read(stem.with_extension("json"))?)?;
    let mut file = File::open(stem.with_extension("cwasm"))?;
    let (sha256, bytes) = hash(&mut file)?;
    if sha256 != sidecar.sha256 || bytes != sidecar.bytes {
        return Err(io::Error::other("its SHA-256 is not the one written down"));
    }
    let kind = match sidecar.kind.as_str() {
        "http" => BundleKind::Http,
        "command" => BundleKind::Command,
        other => return Err(io::Error::other(format!("kind {other:?} is unknown"))),
    };
    Ok(Artifact { file, kind, bytes })
}

fn kind_word(kind: BundleKind) -> io::Result<&'static str> {
    match kind {
        BundleKind::Http => Ok("http"),
        BundleKind::Command => Ok("command"),
        BundleKind::Unspecified => Err(io::Error::other("the compile helper named no kind")),
    }
}

/// SHA-256 in hexadecimal digits, and length, of all that is left; what was read is rewound.
pub(crate) fn hash(file: &mut (impl Read + Seek)) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
    file.rewind()?;
    let hex = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((hex, bytes))
}

fn remove(stem: &Path) {
    for end in ["json", "cwasm"] {
        if let Err(error) = fs::remove_file(stem.with_extension(end)) {
            tracing::debug!(path = %stem.display(), %error, "artifact was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const ENGINE: &str = "hearth-1.0_x86-64";

    fn digest(byte: u8) -> String {
        format!("sha256:{}", format!("{byte:02x}").repeat(32))
    }

    async fn put(cache: &Cache, digest: &str, code: &[u8]) -> io::Result<Artifact> {
        let lock = cache.lock(ENGINE, digest, Duration::from_secs(1)).await?;
        let mut draft = cache.draft(ENGINE, digest, &lock)?;
        draft.file.write_all(code)?;
        let sha256 = Sha256::digest(code)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let compiled = Compiled {
            kind: BundleKind::Http.into(),
            fingerprint: ENGINE.to_owned(),
            artifact_bytes: code.len() as u64,
            artifact_sha256: sha256,
            compile_ms: 5,
        };
        cache.store(ENGINE, digest, draft, &compiled)
    }

    #[tokio::test]
    async fn what_is_stored_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        assert!(cache.lookup(ENGINE, &digest(1)).unwrap().is_none());
        put(&cache, &digest(1), b"code").await.unwrap();
        let mut found = cache.lookup(ENGINE, &digest(1)).unwrap().unwrap();
        assert_eq!((found.kind, found.bytes), (BundleKind::Http, 4));
        let mut code = String::new();
        found.file.read_to_string(&mut code).unwrap();
        assert_eq!(code, "code");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = cache.stem(ENGINE, &digest(1)).unwrap();
        assert_eq!(mode(&path.with_extension("cwasm")), 0o444);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert!(cache.lookup("other", &digest(1)).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_damaged_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        put(&cache, &digest(1), b"code").await.unwrap();
        let path = cache
            .stem(ENGINE, &digest(1))
            .unwrap()
            .with_extension("cwasm");
        fs::write(&path, b"evil").unwrap();
        assert!(cache.lookup(ENGINE, &digest(1)).unwrap().is_none());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_helper_that_lies_stores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        let lock = cache
            .lock(ENGINE, &digest(1), Duration::from_secs(1))
            .await
            .unwrap();
        let draft = cache.draft(ENGINE, &digest(1), &lock).unwrap();
        let compiled = Compiled {
            fingerprint: ENGINE.to_owned(),
            artifact_sha256: "00".to_owned(),
            ..Compiled::default()
        };
        assert!(cache.store(ENGINE, &digest(1), draft, &compiled).is_err());
        assert!(cache.lookup(ENGINE, &digest(1)).unwrap().is_none());
        let folder = cache.root.join(ENGINE);
        let left: Vec<_> = fs::read_dir(folder).unwrap().collect();
        assert_eq!(left.len(), 1, "only the lock file: {left:?}");
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        let short = Duration::from_millis(30);
        let first = cache.lock(ENGINE, &digest(1), short).await.unwrap();
        let late = cache.lock(ENGINE, &digest(1), short).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(first);
        cache.lock(ENGINE, &digest(1), short).await.unwrap();
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 250);
        for byte in 1..=3 {
            put(&cache, &digest(byte), &[byte; 100]).await.unwrap();
            let at = std::time::UNIX_EPOCH + Duration::from_secs(byte.into());
            let path = cache.stem(ENGINE, &digest(byte)).unwrap();
            let _ = File::open(path.with_extension("json")).map(|file| file.set_modified(at));
        }
        assert!(cache.lookup(ENGINE, &digest(1)).unwrap().is_none());
        assert!(cache.lookup(ENGINE, &digest(3)).unwrap().is_some());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let cache = Cache::new(Path::new("/x"), 0);
        assert!(cache.stem(ENGINE, "sha256:../..").is_err());
        assert!(cache.stem("../up", &digest(1)).is_err());
        assert!(cache.stem("", &digest(1)).is_err());
    }
}
