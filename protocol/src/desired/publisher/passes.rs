//! Keys whose newest version the edge may lack, and which pass looks at each of them next.
//!
//! A pass that can do nothing with a key leaves it to the next pass of its kind, and the last one lets it rest:
//! nothing will be found of it before it is told of again, or before what it waits for is. So to find what to send
//! costs nothing for what there is not to send, however much that is.
//!
//! **Invariant:** a key is in one place only, and between two marks it is looked at once by each pass of its kind.

use std::collections::{BTreeMap, BTreeSet};

use crate::object::{Kind, ObjectKey};

/// A pass over the dirty keys of one kind. The first that has something to send wins.
#[derive(Clone, Copy)]
pub(super) enum Pass {
    /// Parts what is to be removed from what is to be put, where the latter may have to wait.
    Part,
    /// Versions of what the edge holds already.
    Update,
    /// Pods, with what they name.
    Closure,
    /// Whatever the view has.
    Put,
    /// What the view no longer has; only once the pods are known to be right.
    Remove,
}

/// All passes, in their order.
pub(super) const PASSES: [(Kind, Pass); 17] = [
    (Kind::Service, Pass::Put),
    (Kind::RuntimeClass, Pass::Put),
    (Kind::DeviceModel, Pass::Put),
    (Kind::Device, Pass::Part),
    (Kind::Device, Pass::Put),
    (Kind::ConfigMap, Pass::Update),
    (Kind::Secret, Pass::Update),
    (Kind::Pod, Pass::Closure),
    (Kind::Node, Pass::Put),
    (Kind::ConfigMap, Pass::Put),
    (Kind::Secret, Pass::Put),
    (Kind::Secret, Pass::Remove),
    (Kind::ConfigMap, Pass::Remove),
    (Kind::Device, Pass::Remove),
    (Kind::DeviceModel, Pass::Remove),
    (Kind::RuntimeClass, Pass::Remove),
    (Kind::Service, Pass::Remove),
];

/// The places of the passes of one kind.
fn passes_of(kind: Kind) -> impl Iterator<Item = usize> {
    (0..PASSES.len()).filter(move |place| PASSES[*place].0 == kind)
}

/// The dirty keys.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// What each pass is to look at.
    turns: [BTreeSet<ObjectKey>; PASSES.len()],
    /// What no pass could do anything with, and the reference that a pod among it waits for.
    resting: BTreeMap<ObjectKey, Option<ObjectKey>>,
    /// The same by reference: the pods that wait for it.
    waiting: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Dirty {
    /// The first pass of its kind looks at this key next.
    pub(super) fn mark(&mut self, key: ObjectKey) {
        self.remove(&key);
        match passes_of(key.kind).next() {
            Some(place) => drop(self.turns[place].insert(key)),
            None => drop(self.resting.insert(key, None)),
        }
    }

    /// A key was told of: pods that wait for it are looked at again.
    pub(super) fn told(&mut self, key: &ObjectKey) {
        for pod in self.waiting.remove(key).unwrap_or_default() {
            self.mark(pod);
        }
    }

    /// What the pass at this place is to look at next.
    pub(super) fn next(&self, place: usize) -> Option<ObjectKey> {
        self.turns[place].first().cloned()
    }

    /// The pass at this place can do nothing with the key, which may wait for another one.
    pub(super) fn pass_on(&mut self, place: usize, key: ObjectKey, waits_for: Option<ObjectKey>) {
        self.turns[place].remove(&key);
        if let Some(next) = passes_of(key.kind).find(|next| *next > place) {
            self.turns[next].insert(key);
            return;
        }
        if let Some(reference) = &waits_for {
            let pods = self.waiting.entry(reference.clone()).or_default();
            pods.insert(key.clone());
        }
        self.resting.insert(key, waits_for);
    }

    /// The view has it no longer: no pass but the last can do anything with it.
    pub(super) fn pass_to_last(&mut self, key: ObjectKey) {
        self.remove(&key);
        if let Some(last) = passes_of(key.kind).last() {
            self.turns[last].insert(key);
        }
    }

    /// The edge has the newest version of this key, or was sent it.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        for place in passes_of(key.kind) {
            self.turns[place].remove(key);
        }
        let Some(Some(reference)) = self.resting.remove(key) else {
            return;
        };
        if let Some(pods) = self.waiting.get_mut(&reference) {
            pods.remove(key);
            if pods.is_empty() {
                self.waiting.remove(&reference);
            }
        }
    }

    /// Nothing of this kind is dirty any more.
    pub(super) fn forget(&mut self, kind: Kind) {
        for place in passes_of(kind) {
            self.turns[place].clear();
        }
        self.resting.retain(|key, _| key.kind != kind);
        // Who waits is a pod.
        if kind == Kind::Pod {
            self.waiting.clear();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.turns.iter().map(BTreeSet::len).sum::<usize>() + self.resting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::new(kind, "n", name)
    }

    /// Each pass that is to look at something, and at how much.
    fn turns(dirty: &Dirty) -> Vec<(usize, usize)> {
        let turns = dirty.turns.iter().map(BTreeSet::len).enumerate();
        turns.filter(|(_, keys)| *keys > 0).collect()
    }

    #[test]
    fn a_key_goes_through_the_passes_of_its_kind_once_and_rests_until_it_is_told_of() {
        let (mut dirty, map) = (Dirty::default(), key(Kind::ConfigMap, "c"));
        dirty.mark(map.clone());
        for place in [5, 9, 12] {
            assert_eq!(turns(&dirty), [(place, 1)]);
            assert_eq!(dirty.next(place), Some(map.clone()));
            dirty.pass_on(place, map.clone(), None);
        }
        assert_eq!((turns(&dirty), dirty.len()), (vec![], 1));
        dirty.mark(map.clone());
        assert_eq!((turns(&dirty), dirty.len()), (vec![(5, 1)], 1));
        dirty.pass_on(5, map.clone(), None);
        dirty.mark(map.clone());
        assert_eq!(
            (turns(&dirty), dirty.len()),
            (vec![(5, 1)], 1),
            "what changed begins anew"
        );
        dirty.pass_to_last(map.clone());
        assert_eq!((turns(&dirty), dirty.len()), (vec![(12, 1)], 1));
        dirty.remove(&map);
        assert_eq!(dirty.len(), 0);
    }

    #[test]
    fn a_pod_that_waits_is_looked_at_again_when_what_it_waits_for_is_told_of() {
        let (mut dirty, pod, map) = (Dirty::default(), key(Kind::Pod, "p"), key(Kind::ConfigMap, "c"));
        let wait = |dirty: &mut Dirty, other: &ObjectKey| {
            dirty.mark(pod.clone());
            dirty.pass_on(7, pod.clone(), Some(other.clone()));
        };
        wait(&mut dirty, &map);
        dirty.told(&key(Kind::ConfigMap, "other"));
        assert_eq!(turns(&dirty), []);
        dirty.told(&map);
        assert_eq!((turns(&dirty), dirty.len()), (vec![(7, 1)], 1));
        // It waits for one thing at a time, and for nothing once it was sent or its kind is compared anew.
        wait(&mut dirty, &map);
        wait(&mut dirty, &key(Kind::Secret, "s"));
        assert_eq!(dirty.waiting.len(), 1);
        dirty.told(&map);
        assert_eq!(turns(&dirty), []);
        dirty.remove(&pod);
        assert!(dirty.waiting.is_empty() && dirty.len() == 0);
        wait(&mut dirty, &map);
        dirty.forget(Kind::ConfigMap);
        assert_eq!(dirty.waiting.len(), 1, "the pod still waits");
        dirty.forget(Kind::Pod);
        assert!(dirty.waiting.is_empty() && dirty.len() == 0);
    }
}
