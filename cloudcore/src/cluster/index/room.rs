//! How much the pods of one node may name together: each ConfigMap and Secret is a watch at the API server.
//!
//! A pod that there is no room for is withheld, and let in when others have gone. Nobody who is in is put out for it:
//! what a device runs goes on to hear of its objects.
//!
//! **Invariant:** the pods of a node name at most [`MAX_OF_NODE`] objects, those that wait not counted.

use std::collections::BTreeSet;

use protocol::name::NodeName;
use protocol::object::ObjectKey;

use super::{Index, PodEntry};
use crate::cluster::unsent::MAX_OF_NODE;

impl Index {
    /// Whether a pod waits for room at its node.
    pub fn has_no_room(&self, node: &NodeName, pod: &ObjectKey) -> bool {
        self.edges
            .get(node)
            .is_some_and(|edge| edge.crowd.contains_key(pod))
    }

    /// Withholds a pod that there is no room for.
    pub(super) fn seat(&mut self, node: &NodeName, pod: &mut PodEntry) {
        let fits = self.fits(node, &pod.refs);
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        edge.crowd.remove(&pod.object.key);
        if !fits {
            pod.withheld = true;
            let refs = std::mem::take(&mut pod.refs);
            edge.crowd.insert(pod.object.key.clone(), refs);
        }
    }

    /// Others have gone: whoever fits now is let in.
    pub(super) fn seat_others(&mut self, node: &NodeName) {
        while let Some(mut pod) = self.next_to_seat(node) {
            pod.withheld = false;
            self.keep_pod(node, pod);
        }
    }

    fn next_to_seat(&self, node: &NodeName) -> Option<PodEntry> {
        let edge = self.edges.get(node)?;
        let (key, refs) = edge.crowd.iter().find(|(_, refs)| self.fits(node, refs))?;
        Some(PodEntry {
            refs: refs.clone(),
            ..edge.pods.get(key)?.clone()
        })
    }

    fn fits(&self, node: &NodeName, refs: &BTreeSet<ObjectKey>) -> bool {
        let names = self.edges.get(node).map_or(0, |edge| edge.names);
        let more = refs.iter().filter(|key| self.lookup(node, key).is_none());
        names + more.count() <= MAX_OF_NODE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use protocol::object::{Kind, Revision, canonical};
    use serde_json::json;

    use super::*;

    const EACH: usize = 512;

    fn node() -> NodeName {
        "e1".parse().unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Pod, "shop", name)
    }

    fn pod(name: &str, revision: u64, names: usize) -> PodEntry {
        let json = json!({ "metadata": { "name": name, "namespace": "shop", "uid": format!("u-{name}"),
            "resourceVersion": revision.to_string() } });
        let secret = |index| ObjectKey::new(Kind::Secret, "shop", format!("{name}-{index}"));
        PodEntry {
            object: Arc::new(canonical(Kind::Pod, json.to_string().as_bytes()).unwrap()),
            refs: (0..names).map(secret).collect(),
            withheld: false,
        }
    }

    fn watched(index: &Index) -> usize {
        index.wanted(&HashMap::new()).len()
    }

    fn waiting(index: &Index) -> Vec<&str> {
        let crowd = index.edges[&node()].crowd.keys();
        crowd.map(|pod| pod.name.as_str()).collect()
    }

    /// A node with four pods that take all its room, and with `more`.
    fn full_and(more: &[PodEntry]) -> Index {
        let mut index = Index::default();
        index.attach(&node(), Arc::default());
        let four = ["a", "b", "c", "d"].map(|name| pod(name, 1, EACH));
        for pod in four.iter().chain(more) {
            index.put_pod(&node(), pod.clone());
        }
        index
    }

    #[test]
    fn a_pod_that_there_is_no_room_for_waits_and_costs_no_watch_until_others_have_gone() {
        let mut index = full_and(&[pod("e", 2, EACH), pod("f", 3, 1), pod("g", 4, 0)]);
        assert_eq!((watched(&index), waiting(&index)), (MAX_OF_NODE, vec!["e", "f"]));
        assert!(index.pod(&node(), &key("e")).is_some_and(|pod| pod.withheld));
        // Whoever is in stays in, whatever its status does.
        index.put_pod(&node(), pod("a", 5, EACH));
        index.put_pod(&node(), pod("e", 6, EACH));
        assert_eq!(waiting(&index), ["e", "f"]);

        index.remove_pod(&node(), &key("b"), Revision(7));
        assert_eq!((watched(&index), waiting(&index)), (MAX_OF_NODE, vec!["f"]));
        assert!(index.pod(&node(), &key("e")).is_some_and(|pod| !pod.withheld));
        // One that names less makes room, too.
        index.put_pod(&node(), pod("c", 8, EACH - 1));
        assert_eq!((watched(&index), waiting(&index)), (MAX_OF_NODE, vec![]));
    }

    #[test]
    fn one_that_is_gone_waits_no_longer_and_nothing_is_counted_twice() {
        let mut index = full_and(&[pod("e", 2, 1)]);
        index.remove_pod(&node(), &key("e"), Revision(3));
        assert!(waiting(&index).is_empty());
        // Another pod that names what is watched already takes no room.
        let twin = PodEntry {
            refs: pod("a", 1, EACH).refs,
            ..pod("h", 4, 0)
        };
        index.put_pod(&node(), twin);
        assert_eq!((watched(&index), waiting(&index)), (MAX_OF_NODE, vec![]));
        for (revision, name) in (5..).zip(["a", "b", "c", "d"]) {
            index.remove_pod(&node(), &key(name), Revision(revision));
        }
        assert_eq!((index.edges[&node()].names, watched(&index)), (EACH, EACH));
    }

    #[test]
    fn a_list_lets_in_those_who_come_first_in_it_and_another_node_has_its_own_room() {
        let mut index = full_and(&[]);
        let other: NodeName = "e2".parse().unwrap();
        index.attach(&other, Arc::default());
        index.fold_begins(&other);
        let pods = ["z", "y", "x", "w", "v"].map(|name| pod(name, 1, EACH));
        index.fold(&other, pods.into(), Revision(9));
        assert!(index.has_no_room(&other, &key("v")) && !index.has_no_room(&other, &key("z")));
        assert_eq!(watched(&index), 2 * MAX_OF_NODE);
    }
}
