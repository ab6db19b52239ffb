//! The file of the JavaScript environment: its digest is found once, and again when the file is another.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::artifact;

/// Where the environment is, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    path: Arc<Path>,
    known: Arc<Mutex<Option<(Version, String)>>>,
}

/// What changes when the installer puts another file there: it writes a new one and renames it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Environment {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            known: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, and says its digest. Blocks: the first time it reads megabytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(&self) -> std::io::Result<(File, String)> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let version = Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, digest)) = known.as_ref().filter(|(of, _)| *of == version) {
            return Ok((file, digest.clone()));
        }
        let (digest, _) = artifact::hash(&mut file)?;
        let digest = format!("sha256:{digest}");
        *known = Some((version, digest.clone()));
        Ok((file, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_has_another_digest_and_the_same_one_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("environment.wasm");
        let environment = Environment::new(&path);
        assert!(environment.open().is_err());
        let put = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        put("one");
        let (_, one) = environment.open().unwrap();
        assert!(one.starts_with("sha256:7692c3ad"), "{one}");
        *environment
            .known
            .lock()
            .unwrap()
            .as_mut()
            .map(|known| &mut known.1)
            .unwrap() = "seen".to_owned();
        assert_eq!(environment.open().unwrap().1, "seen");
        put("two");
        assert!(environment.open().unwrap().1.starts_with("sha256:3fc4ccfe"));
    }
}
