//! What of a pod may be removed from the runtime while the pod lives.
//!
//! Pure. One dead container a name is kept, for its logs and for `lastState`, as the kubelet does.
//!
//! **Invariant:** nothing that may run, and nothing newest of its kind, is ever named.

use std::collections::BTreeSet;

use super::observed::{ContainerObserved, PodObserved, Run};

/// What may go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Garbage {
    /// Dead containers that a newer dead one has replaced.
    pub containers: Vec<ContainerObserved>,
    /// Ids of dead sandboxes that hold nothing and have been replaced.
    pub sandboxes: Vec<String>,
}

/// What of a living pod may go.
pub fn garbage(observed: &PodObserved) -> Garbage {
    let containers: Vec<ContainerObserved> = dead_and_replaced(observed).cloned().collect();
    let going: BTreeSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
    let holds = |sandbox: &str| {
        observed
            .containers
            .iter()
            .any(|c| c.sandbox == sandbox && !going.contains(c.id.as_str()))
    };
    let replaced = observed.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready);
    let sandboxes = replaced
        .filter(|sandbox| !holds(&sandbox.id))
        .map(|s| s.id.clone())
        .collect();
    Garbage {
        containers,
        sandboxes,
    }
}

fn dead_and_replaced(observed: &PodObserved) -> impl Iterator<Item = &ContainerObserved> {
    let mut newest: BTreeSet<&str> = BTreeSet::new();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    observed.containers.iter().filter(move |container| {
        let is_newest = newest.insert(&container.name);
        match container.run {
            Run::Running | Run::Unknown => false,
            Run::Created => !is_newest,
            Run::Exited => !kept.insert(&container.name),
        }
    })
}
