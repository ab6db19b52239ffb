//! Which code is kept. Pure: what is kept, and who is told of its end, is [`super`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// SHA-256 of code and of all that it may use.
pub(super) type Key = [u8; 32];

/// Code by its digest, in the order of its calls, and which of it has a warm instance.
pub(super) struct Cache<T> {
    known: HashMap<Key, Known<T>>,
    /// Oldest first.
    order: BTreeMap<u64, Key>,
    turn: u64,
    bytes: u64,
    /// Keys of code that was called again, the longest ago first.
    warm: VecDeque<Key>,
}

struct Known<T> {
    what: T,
    turn: u64,
    at: Instant,
    bytes: u64,
}

/// Why code is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was not called for too long.
    Age,
    /// Other code needs its memory.
    Memory,
}

impl Reason {
    pub(crate) const ALL: [Self; 2] = [Self::Age, Self::Memory];

    /// The word in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Memory => "memory",
        }
    }
}

impl<T: Clone> Cache<T> {
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            order: BTreeMap::new(),
            turn: 0,
            bytes: 0,
            warm: VecDeque::new(),
        }
    }

    /// Distinct code, and its bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.known.len(), self.bytes)
    }

    /// Code that is known. It is the last one to go now.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<T> {
        let known = self.known.get_mut(key)?;
        self.order.remove(&known.turn);
        self.turn += 1;
        (known.turn, known.at) = (self.turn, now);
        self.order.insert(self.turn, *key);
        Some(known.what.clone())
    }

    /// Keeps code that is not known.
    pub(super) fn insert(&mut self, key: Key, what: T, bytes: u64, now: Instant) {
        self.turn += 1;
        let known = Known {
            what,
            turn: self.turn,
            at: now,
            bytes,
        };
        self.order.insert(self.turn, key);
        self.bytes += bytes;
        self.known.insert(key, known);
    }

    /// Says anew how much memory code takes.
    pub(super) fn resize(&mut self, key: &Key, bytes: u64) {
        if let Some(known) = self.known.get_mut(key) {
            self.bytes = self.bytes - known.bytes + bytes;
            known.bytes = bytes;
        }
    }

    /// Code is to have a warm instance. What no longer is to have one, when there are more than `most`; `None` when nothing
    /// of the kind changes.
    pub(super) fn warm(&mut self, key: &Key, most: usize) -> Option<Vec<T>> {
        if most == 0 || !self.known.contains_key(key) {
            return None;
        }
        let before = self.warm.iter().position(|warm| warm == key);
        if let Some(at) = before {
            self.warm.remove(at);
        }
        self.warm.push_back(*key);
        if before.is_some() {
            return None;
        }
        let surplus = self.warm.len().saturating_sub(most);
        let cold = self.warm.drain(..surplus);
        let known = cold.filter_map(|key| self.known.get(&key));
        Some(known.map(|known| known.what.clone()).collect())
    }

    /// Forgets what was not called for `idle`, and the oldest above `limit` bytes.
    pub(super) fn evict(&mut self, limit: u64, idle: Duration, now: Instant) -> Vec<(T, Reason)> {
        let mut gone = Vec::new();
        while let Some((_, key)) = self.order.first_key_value() {
            let key = *key;
            let is_old = |known: &Known<T>| now.saturating_duration_since(known.at) >= idle;
            let reason = match self.known.get(&key) {
                Some(known) if is_old(known) => Reason::Age,
                _ if self.bytes > limit => Reason::Memory,
                _ => break,
            };
            self.order.pop_first();
            if let Some(known) = self.known.remove(&key) {
                self.bytes -= known.bytes;
                gone.push((known.what, reason));
            }
            self.warm.retain(|warm| *warm != key);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Duration = Duration::from_secs(300);

    fn key(number: u8) -> Key {
        [number; 32]
    }

    #[test]
    fn the_code_that_was_called_longest_ago_goes_first() {
        let mut cache = Cache::new();
        let now = Instant::now();
        for number in 0..4 {
            cache.insert(key(number), number, 10, now);
        }
        assert_eq!(cache.get(&key(0), now), Some(0));
        assert_eq!(
            cache.evict(20, IDLE, now),
            [(1, Reason::Memory), (2, Reason::Memory)]
        );
        assert_eq!(cache.size(), (2, 20));
        assert_eq!(cache.get(&key(1), now), None);
        cache.resize(&key(0), 15);
        assert_eq!(cache.evict(20, IDLE, now), [(3, Reason::Memory)]);
    }

    #[test]
    fn code_that_is_not_called_is_forgotten() {
        let mut cache = Cache::new();
        let start = Instant::now();
        cache.insert(key(1), 1, 10, start);
        cache.insert(key(2), 2, 10, start);
        let later = start + IDLE / 2;
        cache.get(&key(1), later);
        assert_eq!(cache.evict(100, IDLE, later), []);
        assert_eq!(cache.evict(100, IDLE, start + IDLE), [(2, Reason::Age)]);
        assert_eq!(cache.evict(100, IDLE, later + IDLE), [(1, Reason::Age)]);
        assert_eq!(cache.size(), (0, 0));
    }

    #[test]
    fn so_many_have_a_warm_instance() {
        let mut cache = Cache::new();
        let now = Instant::now();
        for number in 1..=3 {
            cache.insert(key(number), number, 1, now);
        }
        assert_eq!(cache.warm(&key(1), 2), Some(vec![]));
        assert_eq!(cache.warm(&key(2), 2), Some(vec![]));
        assert_eq!(cache.warm(&key(1), 2), None);
        assert_eq!(cache.warm(&key(3), 2), Some(vec![2]));
        assert_eq!(cache.warm(&key(9), 2), None);
        assert_eq!(cache.warm(&key(1), 0), None);
    }

    proptest! {
        #[test]
        fn what_is_kept_has_the_bytes_that_are_counted(steps in prop::collection::vec((0u8..20, 0u64..50), 0..200), limit in 0u64..300) {
            let mut cache = Cache::new();
            let now = Instant::now();
            for (number, bytes) in steps {
                match cache.get(&key(number), now) {
                    Some(_) => cache.resize(&key(number), bytes),
                    None => cache.insert(key(number), number, bytes, now),
                }
                cache.warm(&key(number), 3);
                cache.evict(limit, IDLE, now);
                let sum: u64 = cache.known.values().map(|known| known.bytes).sum();
                prop_assert_eq!(cache.size().1, sum);
                prop_assert!(sum <= limit);
                prop_assert_eq!(cache.order.len(), cache.known.len());
                prop_assert!(cache.warm.len() <= 3);
                prop_assert!(cache.warm.iter().all(|key| cache.known.contains_key(key)));
            }
        }
    }
}
