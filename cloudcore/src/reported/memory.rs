//! What an edge said last, so that it can be said again when another writer changed it. Pure.
//!
//! **Invariant:** as long as neither the edge nor the API server says anything new, a value is
//! written a bounded number of times, also when the two will never agree.

use std::collections::{BTreeMap, BTreeSet};

use protocol::object::{Body, Digest, Kind, ObjectKey};
use protocol::reported::OutboxKey;

use super::Shown;

/// How often the same value is written over the same state: once more than needed, in case
/// another writer came in between.
const TRIES: u8 = 2;

/// Keys remembered: more than a node may have pods.
const MOST: usize = 4_096;

/// What one edge said in this session.
#[derive(Debug, Default)]
pub(super) struct Memory {
    said: BTreeMap<OutboxKey, Said>,
}

#[derive(Debug)]
struct Said {
    payload: Body,
    /// The state that was last written over, and how often.
    over: Option<(Digest, u8)>,
}

impl Memory {
    /// The edge has said this, and the API server has it. Saying the same again changes nothing.
    pub(super) fn remember(&mut self, key: &OutboxKey, payload: &[u8]) {
        if !matches!(key, OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Device(_)) {
            return;
        }
        let payload = Body::compress(payload);
        let before = self.said.get(key);
        let is_same = before.is_some_and(|said| said.payload == payload);
        if !is_same && (before.is_some() || self.said.len() < MOST) {
            self.said.insert(key.clone(), Said { payload, over: None });
        }
    }

    /// The edge is about to say something else of this key, or nothing any more.
    pub(super) fn forget(&mut self, key: &OutboxKey) {
        let key = match key {
            OutboxKey::Gone(pod) => &OutboxKey::Pod(pod.clone()),
            OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Device(_) | OutboxKey::Event { .. } => key,
        };
        self.said.remove(key);
    }

    /// What was said of the objects that changed.
    pub(super) fn about(&self, changed: &BTreeSet<ObjectKey>) -> Vec<OutboxKey> {
        let is_about = |key: &&OutboxKey| match key {
            OutboxKey::Node => changed.iter().any(|object| object.kind == Kind::Node),
            OutboxKey::Pod(pod) => changed.contains(&ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name)),
            OutboxKey::Device(device) => {
                changed.contains(&ObjectKey::new(Kind::Device, &device.namespace, &device.name))
            }
            OutboxKey::Gone(_) | OutboxKey::Event { .. } => false,
        };
        self.said.keys().filter(is_about).cloned().collect()
    }

    /// What was said of a key.
    pub(super) fn payload(&self, key: &OutboxKey) -> Option<Vec<u8>> {
        self.said.get(key)?.payload.json().ok()
    }

    /// Writing it again has failed: that was no try.
    pub(super) fn not_written(&mut self, key: &OutboxKey) {
        if let Some((_, tries)) = self.said.get_mut(key).and_then(|said| said.over.as_mut()) {
            *tries = tries.saturating_sub(1);
        }
    }

    /// Whether to write it again, given what the API server shows.
    pub(super) fn should_repeat(&mut self, key: &OutboxKey, shown: Shown) -> bool {
        match shown {
            Shown::Same => {
                // The two do agree; whoever changes it next is opposed anew.
                if let Some(said) = self.said.get_mut(key) {
                    said.over = None;
                }
                false
            }
            Shown::Nothing => {
                // A pod that is gone is gone for good. A Node that was deleted is made again.
                if *key != OutboxKey::Node {
                    self.said.remove(key);
                }
                false
            }
            Shown::Other(state) => {
                let Some(said) = self.said.get_mut(key) else {
                    return false;
                };
                let tries = said
                    .over
                    .filter(|(over, _)| *over == state)
                    .map_or(0, |(_, tries)| tries);
                said.over = Some((state, tries.saturating_add(1)));
                tries < TRIES
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::reported::PodIdentity;

    use super::*;

    fn pod() -> OutboxKey {
        OutboxKey::Pod(PodIdentity {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
        })
    }

    fn other(state: &[u8]) -> Shown {
        Shown::Other(Digest::of(state))
    }

    #[test]
    fn what_another_writer_changed_is_said_again_each_time() {
        let mut memory = Memory::default();
        memory.remember(&pod(), b"ready");
        for flip in [b"1", b"2", b"3"] {
            assert!(memory.should_repeat(&pod(), other(flip)));
            assert!(!memory.should_repeat(&pod(), Shown::Same));
        }
    }

    #[test]
    fn two_that_never_agree_are_not_written_for_ever() {
        let mut memory = Memory::default();
        memory.remember(&pod(), b"1000m");
        let written = (0..10)
            .filter(|_| memory.should_repeat(&pod(), other(b"1")))
            .count();
        assert_eq!(written, usize::from(TRIES));
        memory.remember(&pod(), b"2000m");
        assert!(memory.should_repeat(&pod(), other(b"1")));
    }

    #[test]
    fn a_write_that_failed_was_no_try() {
        let mut memory = Memory::default();
        memory.remember(&pod(), b"ready");
        for _ in 0..10 {
            assert!(memory.should_repeat(&pod(), other(b"1")));
            memory.not_written(&pod());
        }
    }

    #[test]
    fn a_pod_that_is_gone_is_forgotten() {
        let mut memory = Memory::default();
        memory.remember(&pod(), b"ready");
        let changed = BTreeSet::from([ObjectKey::new(Kind::Pod, "n", "p")]);
        assert_eq!(memory.about(&changed), [pod()]);
        assert!(!memory.should_repeat(&pod(), Shown::Nothing));
        assert!(memory.about(&changed).is_empty() && memory.payload(&pod()).is_none());
    }

    #[test]
    fn a_change_that_was_undone_may_be_undone_again() {
        let mut memory = Memory::default();
        memory.remember(&OutboxKey::Node, b"ready");
        for _ in 0..10 {
            assert!(memory.should_repeat(&OutboxKey::Node, other(b"unknown")));
            assert!(!memory.should_repeat(&OutboxKey::Node, Shown::Same));
        }
    }

    #[test]
    fn what_was_said_of_a_node_outlives_its_deletion() {
        let mut memory = Memory::default();
        memory.remember(&OutboxKey::Node, b"ready");
        assert!(!memory.should_repeat(&OutboxKey::Node, Shown::Nothing));
        assert!(memory.should_repeat(&OutboxKey::Node, other(b"unknown")));
    }

    #[test]
    fn a_change_of_another_object_concerns_nothing() {
        let mut memory = Memory::default();
        memory.remember(&pod(), b"ready");
        memory.remember(&OutboxKey::Node, b"{}");
        let changed = BTreeSet::from([
            ObjectKey::new(Kind::Node, "", "e1"),
            ObjectKey::new(Kind::Service, "n", "p"),
        ]);
        assert_eq!(memory.about(&changed), [OutboxKey::Node]);
    }
}
