//! What waits for its time, found by its name and by when it is due.
//!
//! **Invariant:** whatever is waiting stands in both orders once, so nothing is searched for one by one.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

/// Values by key, each with the time at which it is due.
pub(super) struct Queue<K, V, T = Instant> {
    values: BTreeMap<K, (T, V)>,
    due: BTreeSet<(T, K)>,
}

impl<K, V, T> Default for Queue<K, V, T> {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone, V, T: Ord + Copy> Queue<K, V, T> {
    /// Puts something in, unless its key waits already.
    pub(super) fn insert(&mut self, key: K, due: T, value: V) {
        if !self.values.contains_key(&key) {
            self.due.insert((due, key.clone()));
            self.values.insert(key, (due, value));
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((key, (due, _))) = self.values.remove_entry(key) {
            self.due.remove(&(due, key));
        }
    }

    /// When the first of it is due.
    pub(super) fn next_due(&self) -> Option<T> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes out what is due first, if it is by now.
    pub(super) fn take_due(&mut self, now: T) -> Option<(K, V)> {
        self.next_due().filter(|due| *due <= now)?;
        let (_, key) = self.due.pop_first()?;
        let (key, (_, value)) = self.values.remove_entry(&key)?;
        Some((key, value))
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.values.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    /// A time that counts how often times are compared.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Time(usize);

    impl Ord for Time {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Time {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    #[test]
    fn what_is_due_first_comes_first_and_nothing_before_its_time() {
        let mut queue = Queue::default();
        for (key, due) in [("c", 2), ("a", 3), ("b", 1), ("gone", 1)] {
            queue.insert(key, due, due);
        }
        queue.insert("a", 0, 0);
        assert_eq!(queue.get(&"a"), Some(&3), "it waited already");
        queue.remove(&"gone");
        assert_eq!((queue.next_due(), queue.take_due(0)), (Some(1), None));
        assert_eq!(queue.take_due(2), Some(("b", 1)));
        assert_eq!(queue.take_due(2), Some(("c", 2)));
        assert_eq!(queue.take_due(2), None);
        assert_eq!(queue.take_due(3), Some(("a", 3)));
        assert!(queue.next_due().is_none() && queue.values.is_empty() && queue.due.is_empty());
    }

    #[test]
    fn to_find_what_is_due_costs_no_look_at_everything_that_waits() {
        const MANY: usize = 5_000;
        let mut queue = Queue::default();
        for key in 0..MANY {
            queue.insert(key, Time(MANY - key), ());
        }
        for key in 0..MANY / 2 {
            queue.remove(&key);
        }
        let mut taken = 0;
        while queue.next_due().is_some() && queue.take_due(Time(MANY)).is_some() {
            taken += 1;
        }
        assert_eq!(taken, MANY / 2);
        let compared = COMPARED.get();
        assert!(compared < 100 * MANY, "{compared} comparisons for {MANY} pods");
    }
}
