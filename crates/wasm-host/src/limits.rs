//! Memory: what one instance may hold, and what all of a process may.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use wasmtime::ResourceLimiter;

/// Who can give memory back when a call needs it.
pub(crate) trait Relief: Send + Sync {
    /// Gives back at least `bytes` of linear memory. False when there is not so much to give.
    fn relieve(&self, bytes: u64) -> bool;
}

/// Linear memory that all instances of a process may hold together.
pub(crate) struct MemoryBudget {
    limit: AtomicU64,
    held: AtomicU64,
    relief: OnceLock<Weak<dyn Relief>>,
}

impl std::fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl MemoryBudget {
    /// `limit` in bytes; 0 means that only the instances' own limits hold.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: AtomicU64::new(bound(limit)),
            held: AtomicU64::new(0),
            relief: OnceLock::new(),
        }
    }

    /// Another limit, from now on. What is held over it by instances that wait for calls is given back; what calls hold is
    /// theirs to their end, and nobody gets more until it fits again.
    pub(crate) fn set_limit(&self, limit: u64) {
        let limit = bound(limit);
        self.limit.store(limit, Ordering::Relaxed);
        let over = self.held().saturating_sub(limit);
        if over > 0 {
            self.relieve(over);
        }
    }

    /// Names who is asked first when a call finds no room. The first one named stays.
    pub(crate) fn relieved_by(&self, relief: Weak<dyn Relief>) {
        let _ = self.relief.set(relief);
    }

    fn relieve(&self, bytes: u64) -> bool {
        let relief = self.relief.get().and_then(Weak::upgrade);
        relief.is_some_and(|relief| relief.relieve(bytes))
    }

    fn reserve(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|held| *held <= limit)
            })
            .is_ok()
    }

    fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

fn bound(limit: u64) -> u64 {
    match limit {
        0 => u64::MAX,
        limit => limit,
    }
}

/// Elements of one table. A guest's tables are bounded like its memory.
const TABLE_ELEMENTS: usize = 64 << 10;

/// The limiter of one instance. Gives back what it took from the budget when it is dropped.
#[derive(Debug)]
pub(crate) struct InstanceLimiter {
    budget: Arc<MemoryBudget>,
    limit: u64,
    held: u64,
    /// The guest asked for more than it may have.
    pub(crate) refused: bool,
    /// A call waits for the memory: instances that only wait for calls make room. One that is made to wait takes no room
    /// from others.
    pub(crate) is_called: bool,
}

impl InstanceLimiter {
    pub(crate) fn new(budget: Arc<MemoryBudget>, limit: u64) -> Self {
        Self {
            budget,
            limit,
            held: 0,
            refused: false,
            is_called: false,
        }
    }

    /// Linear memory that the instance holds, in bytes.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    fn reserve(&self, bytes: u64) -> bool {
        self.budget.reserve(bytes)
            || (self.is_called && self.budget.relieve(bytes) && self.budget.reserve(bytes))
    }
}

impl Drop for InstanceLimiter {
    fn drop(&mut self) {
        self.budget.release(self.held);
    }
}

impl ResourceLimiter for InstanceLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        if self.held.saturating_add(more) > self.limit || !self.reserve(more) {
            self.refused = true;
            return Ok(false);
        }
        self.held += more;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    // Core instances, memories and tables of one component: bounded by the pool's own configuration.
    fn instances(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        8
    }

    fn tables(&self) -> usize {
        64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_guest_over_its_limit_is_refused_and_remembered() {
        let budget = Arc::new(MemoryBudget::new(0));
        let mut limiter = InstanceLimiter::new(budget.clone(), 100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(60, 120, None).unwrap());
        assert!(limiter.refused);
        assert_eq!(budget.held(), 60);
        drop(limiter);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_limit_that_is_lowered_takes_from_nobody_and_gives_nobody_more() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut limiter = InstanceLimiter::new(budget.clone(), 1000);
        assert!(limiter.memory_growing(0, 80, None).unwrap());
        budget.set_limit(50);
        assert!(!limiter.memory_growing(80, 81, None).unwrap());
        assert_eq!(budget.held(), 80);
        budget.set_limit(0);
        assert!(limiter.memory_growing(80, 1000, None).unwrap());
    }

    proptest! {
        #[test]
        fn the_budget_is_kept_and_given_back(limit in 1u64..1000, grows in prop::collection::vec((0usize..4, 0usize..400), 0..40)) {
            let budget = Arc::new(MemoryBudget::new(limit));
            let mut limiters: Vec<_> = (0..4).map(|_| (InstanceLimiter::new(budget.clone(), 500), 0)).collect();
            for (which, more) in grows {
                let (limiter, size) = &mut limiters[which];
                if limiter.memory_growing(*size, *size + more, None).unwrap() {
                    *size += more;
                }
                prop_assert!(budget.held() <= limit);
            }
            let sizes: usize = limiters.iter().map(|(_, size)| size).sum();
            prop_assert_eq!(budget.held(), sizes as u64);
            drop(limiters);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
