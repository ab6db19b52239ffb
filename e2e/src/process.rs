//! Processes of a test that must not outlive it.

use std::ops::{Deref, DerefMut};
use std::process::Child;

/// A process that is killed and waited for when it is dropped, also after a failure.
#[derive(Debug)]
pub struct Process(Child);

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is asked.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
