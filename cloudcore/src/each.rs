//! One thing for each key, shared by all who use it, as long as it says more than a new one would.
//!
//! **Invariant:** of a key there is one at a time while anybody uses it or it matters, and what neither holds for is
//! forgotten when the next key comes: the map does not grow with all keys that were ever seen.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What is as good as new after a while.
pub(crate) trait Rests {
    /// Whether it is.
    fn rested(&self, now: Instant) -> bool;
}

/// One `V` for each `K`.
#[derive(Debug)]
pub(crate) struct Each<K, V> {
    held: Mutex<HashMap<K, Arc<V>>>,
}

impl<K, V> Default for Each<K, V> {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Default + Rests> Each<K, V> {
    /// That of `key`: what others use too, or a new one.
    pub(crate) fn of(&self, key: &K, now: Instant) -> Arc<V> {
        let mut held = self.held.lock();
        if let Some(found) = held.get(key) {
            return Arc::clone(found);
        }
        held.retain(|_, one| Arc::strong_count(one) > 1 || !one.rested(now));
        let new = Arc::new(V::default());
        held.insert(key.clone(), Arc::clone(&new));
        new
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.held.lock().len()
    }
}
