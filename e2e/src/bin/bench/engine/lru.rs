//! What was used last, up to a bound.

use std::collections::VecDeque;

/// Values by key. One more than the bound puts out the one that was used longest ago.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    bound: usize,
    /// The latest stands last. Searched one by one: the bound is small.
    entries: VecDeque<(usize, V)>,
}

impl<V> Lru<V> {
    /// An empty one that holds at most `bound` values.
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound,
            entries: VecDeque::with_capacity(bound + 1),
        }
    }

    /// Takes a value out, to use it.
    pub(crate) fn take(&mut self, key: usize) -> Option<V> {
        let at = self.entries.iter().position(|(known, _)| *known == key)?;
        self.entries.remove(at).map(|(_, value)| value)
    }

    /// Puts a value in, as the one that was used last, and drops what is over the bound.
    pub(crate) fn put(&mut self, key: usize, value: V) {
        self.take(key);
        self.entries.push_back((key, value));
        if self.entries.len() > self.bound {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lru: &Lru<char>) -> Vec<usize> {
        lru.entries.iter().map(|(key, _)| *key).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut lru = Lru::new(2);
        lru.put(1, 'a');
        lru.put(2, 'b');
        let used = lru.take(1);
        assert_eq!(used, Some('a'));
        lru.put(1, 'a');
        lru.put(3, 'c');
        assert_eq!(keys(&lru), [1, 3]);
        assert_eq!(lru.take(2), None);
    }

    #[test]
    fn a_key_is_there_once() {
        let mut lru = Lru::new(2);
        lru.put(1, 'a');
        lru.put(1, 'b');
        assert_eq!(keys(&lru), [1]);
        assert_eq!(lru.take(1), Some('b'));
        assert_eq!(lru.take(1), None);
    }
}
