//! The pressures that the Node shows, for whoever admits pods.
//!
//! Whoever judges the node notes them here. **Invariant:** before the first look there is none.

use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeCondition;
use parking_lot::RwLock;

/// The pressures that pods are refused for.
const REFUSING: [&str; 2] = ["MemoryPressure", "DiskPressure"];

/// The pressures. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Pressures(Arc<RwLock<Vec<&'static str>>>);

impl Pressures {
    /// Notes the conditions as they were judged now.
    pub fn learn(&self, conditions: &[NodeCondition]) {
        let holds = |name: &&str| conditions.iter().any(|c| c.type_ == *name && c.status == "True");
        *self.0.write() = REFUSING.into_iter().filter(holds).collect();
    }

    /// The types of those that hold.
    pub fn held(&self) -> Vec<&'static str> {
        self.0.read().clone()
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
}
