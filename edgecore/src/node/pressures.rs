//! The pressures that the Node shows, for whoever admits pods and whoever evicts them.
//!
//! Whoever judges the node notes them here, and whoever evicts pods says what it saw: it may have made room before
//! the node is judged again, and the next pod must not come to a node that looks as if nothing had been.
//!
//! **Invariants:** before the first look there is none; what was seen is held until the node was judged with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeCondition;
use parking_lot::RwLock;
use tokio::time::Instant;

/// The pressures that pods are refused for.
const REFUSING: [&str; 2] = ["MemoryPressure", "DiskPressure"];

/// The pressures. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Pressures(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    held: Vec<&'static str>,
    /// What was seen since the node was judged, and when.
    seen: BTreeMap<&'static str, Instant>,
}

impl Pressures {
    /// Notes the conditions as they were judged now.
    pub fn learn(&self, conditions: &[NodeCondition]) {
        let holds = |name: &&str| conditions.iter().any(|c| c.type_ == *name && c.status == "True");
        self.0.write().held = REFUSING.into_iter().filter(holds).collect();
    }

    /// The node was short of something at that time.
    pub fn see(&self, condition: &'static str, at: Instant) {
        self.0.write().seen.insert(condition, at);
    }

    /// What was seen since the last call, for whoever judges the node now.
    pub fn take_seen(&self) -> BTreeMap<&'static str, Instant> {
        std::mem::take(&mut self.0.write().seen)
    }

    /// The types of those that hold.
    pub fn held(&self) -> Vec<&'static str> {
        let known = self.0.read();
        let holds = |name: &&str| known.held.contains(name) || known.seen.contains_key(name);
        REFUSING.into_iter().filter(holds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_refused_for_memory_and_disk_and_for_what_holds_now() {
        let condition = |kind: &str, status: &str| NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..NodeCondition::default()
        };
        let pressures = Pressures::default();
        let shared = pressures.clone();
        pressures.learn(&[
            condition("MemoryPressure", "True"),
            condition("DiskPressure", "False"),
            condition("PIDPressure", "True"),
            condition("Ready", "True"),
        ]);
        assert_eq!(shared.held(), ["MemoryPressure"]);
        pressures.learn(&[condition("MemoryPressure", "False")]);
        assert_eq!(shared.held(), [""; 0]);
    }

    #[test]
    fn what_was_seen_is_held_until_the_node_is_judged_with_it() {
        let (pressures, now) = (Pressures::default(), Instant::now());
        pressures.see("DiskPressure", now);
        pressures.see("PIDPressure", now);
        assert_eq!(
            pressures.held(),
            ["DiskPressure"],
            "no pod is refused for the other"
        );
        pressures.learn(&[]);
        assert_eq!(pressures.held(), ["DiskPressure"], "it was judged without");
        let seen = BTreeMap::from([("DiskPressure", now), ("PIDPressure", now)]);
        assert_eq!(pressures.take_seen(), seen);
        assert_eq!(pressures.held(), [""; 0]);
        assert!(pressures.take_seen().is_empty());
    }
}
