//! What the container runtime can do, as it said last.
//!
//! Whoever asks the runtime for its status notes the answer here; whoever describes pods to it reads it.
//! **Invariant:** what was never said cannot be done.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;

/// The runtime's abilities. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Abilities(Arc<RwLock<Known>>);

/// One answer of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Handlers whose read-only mounts can be made so all the way down; the default one is nameless.
    pub recursive_read_only: BTreeSet<String>,
    /// Whether it knows `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
}

impl Abilities {
    /// Notes what the runtime said now: it may have been exchanged for another version.
    pub fn learn(&self, known: Known) {
        *self.0.write() = known;
    }

    /// Whether mounts of a pod under this handler can be read-only all the way down.
    pub fn recursive_read_only(&self, handler: &str) -> bool {
        self.0.read().recursive_read_only.contains(handler)
    }

    /// Whether a container's groups can be those of the pod alone.
    pub fn supplemental_groups_policy(&self) -> bool {
        self.0.read().supplemental_groups_policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_done_before_the_runtime_says_so_and_the_last_word_counts() {
        let abilities = Abilities::default();
        assert!(!abilities.recursive_read_only("") && !abilities.supplemental_groups_policy());
        abilities.clone().learn(Known {
            recursive_read_only: [String::new(), "runc".to_owned()].into(),
            supplemental_groups_policy: true,
        });
        assert!(abilities.recursive_read_only("") && abilities.supplemental_groups_policy());
        assert!(!abilities.recursive_read_only("kata"));
        abilities.learn(Known::default());
        assert!(!abilities.recursive_read_only(""));
    }
}
