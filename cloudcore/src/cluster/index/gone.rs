//! Pods that were a node's until a moment ago: what it still says about them is about its own.
//!
//! Events travel behind all else, and may wait for a budget: they often come when their pod is gone, and even in
//! another session. So the last pods of each node are remembered, for as long as there is a session of it here or
//! the Node itself. What went while the node was at no replica, or at another one, is not known here.
//!
//! **Invariant:** at most [`MOST`] of a node, in 16 bytes each, and nothing of a node that is neither here nor exists.

use std::collections::VecDeque;

use protocol::name::NodeName;
use protocol::object::{Digest, Object, ObjectKey};

use super::Index;

/// More than a node ends while its events wait: its log of events holds 1,000, and a pod tells some six.
const MOST: usize = 256;

/// The last pods of one node, the newest last.
#[derive(Debug, Default)]
pub(super) struct Gone(VecDeque<Digest>);

impl Gone {
    fn add(&mut self, pod: &Object) {
        let gone = identity(&pod.key, &pod.version.uid);
        self.0.retain(|known| *known != gone);
        self.0.push_back(gone);
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }
}

/// No name holds a slash.
fn identity(key: &ObjectKey, uid: &str) -> Digest {
    Digest::of(format!("{}/{}/{uid}", key.namespace, key.name).as_bytes())
}

/// Pods that are gone.
impl Index {
    /// Whether a pod is bound to the node, or was until a moment ago.
    pub fn has_or_had(&self, node: &NodeName, pod: &ObjectKey, uid: &str) -> bool {
        let held = self.pod(node, pod);
        held.is_some_and(|held| held.object.version.uid == uid)
            || self
                .gone
                .get(node)
                .is_some_and(|gone| gone.0.contains(&identity(pod, uid)))
    }

    pub(super) fn remember(&mut self, node: &NodeName, pod: &Object) {
        self.gone.entry(node.clone()).or_default().add(pod);
    }

    /// Forgets the pods of a node that is neither here nor exists.
    pub(super) fn forget_gone(&mut self, node: &NodeName) {
        if !self.is_attached(node) && self.node(node.as_ref()).is_none() {
            self.gone.remove(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use protocol::object::{Body, Kind, Revision, canonical};
    use serde_json::json;

    use super::super::{Dirty, NodeEntry, PodEntry};
    use super::*;

    fn node() -> NodeName {
        "e1".parse().unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Pod, "shop", name)
    }

    fn object(kind: Kind, namespace: Option<&str>, (name, uid): (&str, &str), revision: u64) -> Arc<Object> {
        let json = json!({ "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "resourceVersion": revision.to_string() } });
        Arc::new(canonical(kind, json.to_string().as_bytes()).unwrap())
    }

    fn pod(identity: (&str, &str), revision: u64) -> PodEntry {
        PodEntry {
            object: object(Kind::Pod, Some("shop"), identity, revision),
            refs: BTreeSet::new(),
            withheld: false,
        }
    }

    fn attached() -> (Index, Arc<Dirty>) {
        let (mut index, feed) = (Index::default(), Arc::new(Dirty::default()));
        index.attach(&node(), Arc::clone(&feed));
        (index, feed)
    }

    fn is_its(index: &Index, name: &str, uid: &str) -> bool {
        index.has_or_had(&node(), &key(name), uid)
    }

    #[test]
    fn a_pod_is_its_nodes_while_it_is_there_and_for_a_while_after() {
        let (mut index, _) = attached();
        index.put_pod(&node(), pod(("web", "u1"), 1));
        assert!(is_its(&index, "web", "u1") && !is_its(&index, "web", "u2") && !is_its(&index, "db", "u1"));
        let other = "e2".parse().unwrap();
        assert!(!index.has_or_had(&other, &key("web"), "u1"));
        // Another one under the same name, whose deletion between was not told.
        index.put_pod(&node(), pod(("web", "u2"), 2));
        assert!(is_its(&index, "web", "u1") && is_its(&index, "web", "u2"));
        index.remove_pod(&node(), &key("web"), Revision(3));
        assert!(is_its(&index, "web", "u2") && !is_its(&index, "db", "u2"));
    }

    #[test]
    fn pods_without_end_are_remembered_up_to_a_bound_and_the_last_ones_stay() {
        let (mut index, _) = attached();
        for number in 1..=1_000 {
            index.put_pod(&node(), pod(("web", &number.to_string()), number));
        }
        assert_eq!(index.gone[&node()].0.len(), MOST);
        assert!(is_its(&index, "web", "1000") && is_its(&index, "web", "999") && !is_its(&index, "web", "1"));
    }

    #[test]
    fn the_next_session_knows_them_too_as_long_as_there_is_the_node() {
        let (mut index, feed) = attached();
        let node_key = ObjectKey::new(Kind::Node, "", "e1");
        let entry = NodeEntry {
            object: object(Kind::Node, None, ("e1", "u"), 1),
            whole: Body::compress(b"{}"),
            autonomous: false,
        };
        index.put_node(entry.clone(), false);
        index.put_pod(&node(), pod(("web", "u1"), 1));
        index.detach(&node(), &feed);
        assert!(is_its(&index, "web", "u1"));
        index.remove(&node_key);
        assert!(!is_its(&index, "web", "u1") && index.gone.is_empty());

        index.attach(&node(), Arc::clone(&feed));
        index.put_pod(&node(), pod(("web", "u1"), 2));
        index.remove_pod(&node(), &key("web"), Revision(3));
        index.put_node(entry, true);
        index.remove(&node_key);
        assert!(is_its(&index, "web", "u1"), "its session goes on");
        index.detach(&node(), &feed);
        assert!(index.gone.is_empty());
    }
}
