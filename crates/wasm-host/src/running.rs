//! Which functions run at this moment, noted where it can be read after this process died of one of them.
//!
//! Each thread that runs guests has a place in a file that it shares with whoever started the process: the number of the
//! function whose code it is in, or 0. Writing there is a store to memory, so every poll of a guest can afford it.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hearth_contract::RUNNING_BYTES;
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Threads that can have a place. What runs on one more is not noted.
const PLACES: usize = RUNNING_BYTES / size_of::<u64>();

/// Where the threads of this process note what they run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Running(&'static [AtomicU64]);

/// Threads that have a place.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Number of this thread's place.
    static PLACE: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    /// What it is in, for what comes back to it.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

impl Running {
    /// Notes in a file of at least [`RUNNING_BYTES`], which is mapped for as long as the process lives.
    ///
    /// # Errors
    /// When the file is too short, or cannot be mapped.
    pub fn in_file(file: impl AsFd) -> io::Result<Self> {
        let length = rustix::fs::fstat(&file)?.st_size;
        if usize::try_from(length).unwrap_or_default() < RUNNING_BYTES {
            return Err(io::Error::other(format!("it has {length} bytes")));
        }
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory. It is as long as the slice,
        // aligned to a page, zeroed or written by atomic stores of 64 bits, and never unmapped. The file cannot shrink:
        // who made it sealed its size.
        let places = unsafe {
            let at = mmap(
                ptr::null_mut(),
                RUNNING_BYTES,
                both,
                MapFlags::SHARED,
                &file,
                0,
            )?;
            std::slice::from_raw_parts(at.cast::<AtomicU64>(), PLACES)
        };
        Ok(Self(places))
    }
}

/// A function as it is noted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    running: Running,
    /// 0: it is not to be noted.
    number: u64,
}

impl Mark {
    pub(crate) fn new(running: Running, number: u64) -> Self {
        Self { running, number }
    }

    /// This thread is in the function's code until what is returned is dropped.
    pub(crate) fn enter(self) -> Inside {
        let place = PLACE.with(|place| self.running.0.get(*place));
        let before = INSIDE.replace(self.number);
        if let Some(place) = place {
            place.store(self.number, Ordering::Relaxed);
        }
        Inside { place, before }
    }

    /// The same during each poll of a future.
    pub(crate) async fn over<F: Future>(self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let _inside = self.enter();
            work.as_mut().poll(cx)
        })
        .await
    }
}

/// A thread in a function's code.
#[derive(Debug)]
pub(crate) struct Inside {
    place: Option<&'static AtomicU64>,
    before: u64,
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
        if let Some(place) = self.place {
            place.store(self.before, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn noted(file: &std::fs::File) -> Vec<u64> {
        let mut bytes = [0; RUNNING_BYTES];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let places = bytes.chunks_exact(8);
        let numbers = places.map(|place| u64::from_ne_bytes(place.try_into().unwrap()));
        numbers.filter(|number| *number != 0).collect()
    }

    #[test]
    fn what_runs_can_be_read_in_the_file_and_what_ended_cannot() {
        let file = tempfile::tempfile().unwrap();
        Running::in_file(&file).unwrap_err();
        file.set_len(RUNNING_BYTES as u64).unwrap();
        let running = Running::in_file(&file).unwrap();
        let outer = Mark::new(running, 7).enter();
        assert_eq!(noted(&file), [7]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _beside = Mark::new(running, 8).enter();
                let mut both = noted(&file);
                both.sort_unstable();
                assert_eq!(both, [7, 8]);
            });
        });
        let inner = Mark::new(running, 9).enter();
        assert_eq!(noted(&file), [9]);
        drop(inner);
        assert_eq!(noted(&file), [7], "one within the other");
        drop(outer);
        assert!(noted(&file).is_empty());
        let _nowhere = Mark::new(Running::default(), 10).enter();
        assert!(noted(&file).is_empty());
    }

    #[tokio::test]
    async fn a_guest_that_waits_does_not_run() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(RUNNING_BYTES as u64).unwrap();
        let mark = Mark::new(Running::in_file(&file).unwrap(), 7);
        let (waits, waited) = tokio::sync::oneshot::channel();
        let work = mark.over(async {
            assert_eq!(noted(&file), [7]);
            waited.await.unwrap();
            noted(&file)
        });
        let beside = async {
            assert!(noted(&file).is_empty());
            waits.send(()).unwrap();
        };
        assert_eq!(tokio::join!(work, beside).0, [7]);
    }
}
