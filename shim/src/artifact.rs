//! Compiled bundles on the node: `<state_dir>/artifacts/<fingerprint>/<digest>.{cwasm,json,lock}`, root's alone.
//!
//! A file is native code that an engine will map, so it counts only when its SHA-256 is the one that was written down
//! when the compile helper made it; anything else is dropped and made again. Files appear by rename, so a crash leaves
//! nothing half written under a name that is read. Two pods that want the same bundle compile it once: the second
//! waits for the first's file lock. What a crash leaves under other names, drafts and halves, goes with the next
//! compilation of any bundle: whoever gets such a bundle's lock at once knows that nobody is at work on it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hearth_contract::proto::{BundleKind, Compiled};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How the files of an artifact end.
const ARTIFACT: [&str; 2] = ["cwasm", "json"];
/// How files end that become those.
const DRAFTS: [&str; 2] = ["draft", "json-draft"];

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
        let wait = async {
            loop {
                if let Some(lock) = try_lock(&stem)? {
                    return Ok::<_, io::Error>(lock);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, wait).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "another pod is still compiling the same bundle",
            )
        })?
    }

    /// A new file for the compile helper. Needs the lock.
    pub fn draft(&self, fingerprint: &str, digest: &str, _lock: &Lock) -> io::Result<Draft> {
        let stem = self.stem(fingerprint, digest)?;
        // Leftovers must not be what there is no space for.
        self.trim(&stem);
        let path = stem.with_extension("draft");
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
        self.trim(&stem);
        open_verified(&stem)
    }

    fn trim(&self, keep: &Path) {
        if let Err(error) = self.evict(keep) {
            tracing::warn!(%error, "artifact cache could not be trimmed");
        }
    }

    /// Removes what crashes left, and then the least recently used artifacts, of any fingerprint, until the rest fits: what is
    /// being made counts too. `keep` stays.
    fn evict(&self, keep: &Path) -> io::Result<()> {
        let mut total = 0;
        let mut artifacts = Vec::new();
        for (stem, mut files) in self.files()? {
            let is_kept = stem == keep;
            if !is_kept && files.has_leftovers {
                clear_if_possible(&stem);
                // Of a bundle that somebody is at work on, all is left.
                files = Files::of(&stem);
            }
            total += files.bytes;
            if let (false, Some(used)) = (is_kept, files.used) {
                artifacts.push((used, files.bytes, stem));
            }
        }
        artifacts.sort();
        for (_, bytes, stem) in artifacts {
            if total <= self.bytes {
                break;
            }
            remove(&stem);
            clear_if_possible(&stem);
            total = total.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Everything in the cache, by the path without its extension.
    fn files(&self) -> io::Result<BTreeMap<PathBuf, Files>> {
        let mut stems = BTreeMap::new();
        for folder in fs::read_dir(&self.root)? {
            let Ok(entries) = fs::read_dir(folder?.path()) else {
                continue;
            };
            for entry in entries {
                let stem = entry?.path().with_extension("");
                stems.entry(stem).or_insert_with_key(|stem| Files::of(stem));
            }
        }
        Ok(stems)
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

/// What there is of one bundle.
#[derive(Debug, Default)]
struct Files {
    /// Of all files together.
    bytes: u64,
    /// When the artifact was used last, where it is whole.
    used: Option<SystemTime>,
    /// Besides that, or instead.
    has_leftovers: bool,
}

impl Files {
    /// Looks. What goes meanwhile is not there.
    fn of(stem: &Path) -> Self {
        let look = |end: &str| fs::metadata(stem.with_extension(end)).ok();
        let [artifact, sidecar] = ARTIFACT.map(look);
        let drafts: Vec<_> = DRAFTS.into_iter().filter_map(look).collect();
        let used = artifact.as_ref().and(sidecar.as_ref());
        let used = used.and_then(|sidecar| sidecar.modified().ok());
        let all = drafts.iter().chain(&artifact).chain(&sidecar);
        Self {
            bytes: all.map(fs::Metadata::len).sum(),
            used,
            has_leftovers: used.is_none() || !drafts.is_empty(),
        }
    }
}

/// Takes the right to make an artifact when nobody has it.
fn try_lock(stem: &Path) -> io::Result<Option<Lock>> {
    let path = stem.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Whoever clears a bundle away removes its lock with it: the next one may have made another of the name.
    let (locked, there) = (file.metadata()?, fs::metadata(&path));
    let is_there =
        there.is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino()));
    Ok(is_there.then_some(Lock { _file: file }))
}

/// The same where something else is to be done too: on a full disk, where room is made, there is none for the lock.
fn clear_if_possible(stem: &Path) {
    if let Err(error) = clear(stem) {
        tracing::warn!(%error, artifact = %stem.display(), "what was left of it stays");
    }
}

/// Clears away what crashes left of a bundle, unless somebody is at work on it; and the bundle's lock, when nothing is left.
fn clear(stem: &Path) -> io::Result<()> {
    let Some(_lock) = try_lock(stem)? else {
        return Ok(());
    };
    DRAFTS.into_iter().for_each(|end| remove_file(stem, end));
    if Files::of(stem).used.is_none() {
        remove(stem);
        remove_file(stem, "lock");
    }
    Ok(())
}

/// The sidecar first: without it nobody takes the artifact.
fn remove(stem: &Path) {
    for end in ARTIFACT.into_iter().rev() {
        remove_file(stem, end);
    }
}

fn remove_file(stem: &Path, end: &str) {
    let path = stem.with_extension(end);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "file was not removed"),
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

    /// The names of what is in the cache.
    fn names(cache: &Cache) -> Vec<String> {
        let entries = fs::read_dir(cache.root.join(ENGINE)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // All bytes of a digest are the same here.
        let mut names: Vec<_> = names.map(|name| name[62..].to_owned()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_crashes_left_goes_and_what_is_at_work_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        let leave = |byte: u8, ends: &[&str]| {
            let stem = cache.stem(ENGINE, &digest(byte)).unwrap();
            fs::create_dir_all(stem.parent().unwrap()).unwrap();
            for end in ends {
                fs::write(stem.with_extension(end), b"left").unwrap();
            }
        };
        leave(1, &["draft", "lock"]);
        leave(2, &["cwasm", "json-draft", "lock"]);
        leave(3, &["json", "lock"]);
        leave(4, &["lock"]);
        put(&cache, &digest(5), b"code").await.unwrap();
        leave(5, &["draft", "json-draft"]);
        let short = Duration::from_millis(30);
        let at_work = cache.lock(ENGINE, &digest(6), short).await.unwrap();
        leave(6, &["draft"]);
        put(&cache, &digest(7), b"code").await.unwrap();
        let whole = |name: &str| ["cwasm", "json", "lock"].map(|end| format!("{name}.{end}"));
        let others = [whole("05"), whole("07")].concat();
        let working = ["06.draft", "06.lock"].map(str::to_owned);
        let mut expected = [others.clone(), working.to_vec()].concat();
        expected.sort();
        assert_eq!(names(&cache), expected);
        assert!(cache.lookup(ENGINE, &digest(5)).unwrap().is_some());
        drop(at_work);
        put(&cache, &digest(7), b"code").await.unwrap();
        assert_eq!(names(&cache), others);
    }

    #[tokio::test]
    async fn drafts_that_are_being_written_take_room_from_artifacts() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1000);
        put(&cache, &digest(1), &[1; 100]).await.unwrap();
        let short = Duration::from_millis(30);
        let lock = cache.lock(ENGINE, &digest(2), short).await.unwrap();
        let mut draft = cache.draft(ENGINE, &digest(2), &lock).unwrap();
        draft.file.write_all(&[2; 900]).unwrap();
        put(&cache, &digest(3), &[3; 100]).await.unwrap();
        assert!(cache.lookup(ENGINE, &digest(1)).unwrap().is_none());
        assert!(cache.lookup(ENGINE, &digest(3)).unwrap().is_some());
        assert_eq!(
            names(&cache),
            ["02.draft", "02.lock", "03.cwasm", "03.json", "03.lock"]
        );
    }

    #[tokio::test]
    async fn a_lock_that_was_cleared_away_is_not_taken_for_the_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        let short = Duration::from_millis(30);
        let first = cache.lock(ENGINE, &digest(1), short).await.unwrap();
        let stem = cache.stem(ENGINE, &digest(1)).unwrap();
        let name = digest(1);
        let patient = cache.lock(ENGINE, &name, Duration::from_secs(60));
        // After that has tried once.
        let clear = async {
            remove_file(&stem, "lock");
            drop(first);
        };
        let second = tokio::join!(patient, clear).0.unwrap();
        let late = cache.lock(ENGINE, &digest(1), short).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{second:?}");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let cache = Cache::new(Path::new("/x"), 0);
        assert!(cache.stem(ENGINE, "sha256:../..").is_err());
        assert!(cache.stem("../up", &digest(1)).is_err());
        assert!(cache.stem("", &digest(1)).is_err());
    }
}
