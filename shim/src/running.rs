//! The file in which an engine notes what runs, as it is read after its end. See `Start.running` of the contract.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hearth_contract::RUNNING_BYTES;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// Bytes of a mark.
const MARK: usize = size_of::<u64>();

/// A page that is shared with one engine. Nothing in it is trusted: the engine writes what it likes.
#[derive(Debug)]
pub(crate) struct Running(Arc<OwnedFd>);

impl Running {
    pub(crate) fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("hearth-running", flags)?;
        ftruncate(&file, RUNNING_BYTES as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(Arc::new(file)))
    }

    /// For the engine.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }

    /// Marks of the functions that its threads are in, or were when it ended; each once.
    pub(crate) fn marks(&self) -> io::Result<Vec<u64>> {
        let mut page = [0; RUNNING_BYTES];
        let read = rustix::io::pread(&self.0, &mut page, 0)?;
        let (marks, _) = page[..read].as_chunks::<MARK>();
        let mut marks: Vec<_> = marks.iter().map(|mark| u64::from_ne_bytes(*mark)).collect();
        marks.sort_unstable();
        marks.dedup();
        marks.retain(|mark| *mark != 0);
        Ok(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_each_mark_once_and_keeps_its_size() {
        let running = Running::create().unwrap();
        assert!(running.marks().unwrap().is_empty());
        for (place, mark) in [(1, 7u64), (4, 3), (511, 7)] {
            let bytes = mark.to_ne_bytes();
            rustix::io::pwrite(&running.0, &bytes, place * MARK as u64).unwrap();
        }
        assert_eq!(running.marks().unwrap(), [3, 7]);
        ftruncate(&running.0, 0).unwrap_err();
        rustix::io::pwrite(&running.0, &[1], RUNNING_BYTES as u64).unwrap_err();
    }
}
