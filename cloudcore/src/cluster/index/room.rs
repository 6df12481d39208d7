//! How much the pods of one node may name together: each ConfigMap and Secret is a watch at the API server.
//!
//! A pod that there is no room for is withheld, and let in when others have gone. Nobody who is in is put out for it:
//! what a device runs goes on to hear of its objects.
//!
//! Those that wait are a queue. Only the first is looked at, and only when there may be room for it: a name was
//! released, or the one before it left. So a status of some pod, of which there are many, looks at nobody, however long
//! the queue is.
//!
//! Nobody waits for ever because of others that come later: who comes waits behind those that wait, although there may
//! be room for the little that it names. Two do not wait: a pod that names nothing but what is watched already, which
//! takes no room, and one that is in and names something more. No pod may name more than there is room for at a node,
//! so the first gets in at the latest when those that are in and those that share their objects have gone, and then the
//! next is the first. The price is that a pod that names much holds up those behind it.
//!
//! **Invariants:** the pods of a node name at most [`MAX_OF_NODE`] objects, those that wait not counted. The first of
//! those that wait does not fit.

use std::collections::{BTreeMap, BTreeSet};

use protocol::name::NodeName;
use protocol::object::ObjectKey;

use super::{Index, PodEntry};
use crate::cluster::unsent::MAX_OF_NODE;

/// Pods of a node that there is no room for, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    queue: BTreeMap<u64, (ObjectKey, BTreeSet<ObjectKey>)>,
    places: BTreeMap<ObjectKey, u64>,
    /// The last place that was given.
    last: u64,
    /// The first one was not looked at since a name was released, or since it became the first.
    stirred: bool,
}

impl Crowd {
    fn first(&self) -> Option<&(ObjectKey, BTreeSet<ObjectKey>)> {
        self.queue.first_key_value().map(|(_, first)| first)
    }

    fn has_one_before(&self, pod: &ObjectKey) -> bool {
        self.first().is_some_and(|(first, _)| first != pod)
    }

    /// A pod waits. One that does already keeps its place.
    fn wait(&mut self, pod: ObjectKey, refs: BTreeSet<ObjectKey>) {
        let place = *self.places.entry(pod.clone()).or_insert_with(|| {
            self.last += 1;
            self.last
        });
        self.queue.insert(place, (pod, refs));
    }

    /// A pod waits no longer.
    pub(super) fn leave(&mut self, pod: &ObjectKey) {
        if let Some(place) = self.places.remove(pod) {
            self.stirred |= !self.has_one_before(pod);
            self.queue.remove(&place);
        }
    }

    /// A name was released.
    pub(super) const fn stir(&mut self) {
        self.stirred = true;
    }
}

impl Index {
    /// Whether a pod waits for room at its node.
    pub fn has_no_room(&self, node: &NodeName, pod: &ObjectKey) -> bool {
        self.edges
            .get(node)
            .is_some_and(|edge| edge.crowd.places.contains_key(pod))
    }

    /// Withholds a pod that there is no room for.
    pub(super) fn seat(&mut self, node: &NodeName, pod: &mut PodEntry) {
        let fits = self.fits(node, pod);
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        let key = &pod.object.key;
        if fits {
            edge.crowd.leave(key);
        } else {
            pod.withheld = true;
            edge.crowd.wait(key.clone(), std::mem::take(&mut pod.refs));
        }
    }

    /// Lets in whoever fits now, if others have gone.
    pub(super) fn seat_others(&mut self, node: &NodeName) {
        while let Some(pod) = self.next_to_seat(node) {
            self.hold_pod(node, pod);
        }
    }

    fn next_to_seat(&mut self, node: &NodeName) -> Option<PodEntry> {
        let crowd = &mut self.edges.get_mut(node)?.crowd;
        // Whoever is let in stirs those behind it.
        if !std::mem::take(&mut crowd.stirred) {
            return None;
        }
        let edge = self.edges.get(node)?;
        let (key, refs) = edge.crowd.first()?;
        if !self.has_room(node, refs, edge.room()) {
            return None;
        }
        Some(PodEntry {
            refs: refs.clone(),
            withheld: false,
            ..edge.pods.get(key)?.clone()
        })
    }

    fn fits(&self, node: &NodeName, pod: &PodEntry) -> bool {
        let Some(edge) = self.edges.get(node) else {
            return false;
        };
        let (key, uid) = (&pod.object.key, &pod.object.version.uid);
        let held = edge.pods.get(key);
        let is_in = held.is_some_and(|held| !held.withheld && held.object.version.uid == *uid);
        let waits = !is_in && edge.crowd.has_one_before(key);
        self.has_room(node, &pod.refs, if waits { 0 } else { edge.room() })
    }

    /// Whether these are no more new names than there is room for. Looks no further than the first too many.
    fn has_room(&self, node: &NodeName, refs: &BTreeSet<ObjectKey>, room: usize) -> bool {
        refs.iter()
            .filter(|key| self.is_new(node, key))
            .nth(room)
            .is_none()
    }

    fn is_new(&self, node: &NodeName, key: &ObjectKey) -> bool {
        #[cfg(test)]
        tests::LOOKED.with(|looked| looked.set(looked.get() + 1));
        self.lookup(node, key).is_none()
    }
}

impl super::Edge {
    const fn room(&self) -> usize {
        MAX_OF_NODE.saturating_sub(self.names)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::sync::Arc;

    use protocol::object::{Kind, Revision, canonical};
    use serde_json::json;

    use super::*;

    const EACH: usize = 512;

    thread_local! {
        pub(super) static LOOKED: Cell<usize> = const { Cell::new(0) };
    }

    /// At how many names it is looked meanwhile.
    fn looks(change: impl FnOnce()) -> usize {
        let before = LOOKED.get();
        change();
        LOOKED.get() - before
    }

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
        let crowd = index.edges[&node()].crowd.queue.values();
        crowd.map(|(pod, _)| pod.name.as_str()).collect()
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

    #[test]
    fn the_length_of_the_queue_costs_nothing() {
        const WAITING: usize = 100;
        // All but the last name of each is watched already: no look at one of them ends early.
        let watched = pod("a", 1, EACH - 1).refs;
        let crowd = (0..WAITING).map(|number| {
            let mut pod = pod(&format!("q{number}"), 2, 0);
            pod.refs.clone_from(&watched);
            pod.refs
                .insert(ObjectKey::new(Kind::Secret, "shop", format!("z{number}")));
            pod
        });
        let mut index = full_and(&crowd.collect::<Vec<_>>());
        assert_eq!(waiting(&index).len(), WAITING);
        let status = looks(|| index.put_pod(&node(), pod("a", 3, EACH)));
        assert!(status <= EACH, "{status}: a status releases nothing");
        let status = looks(|| index.put_pod(&node(), pod("q7", 4, EACH)));
        assert_eq!(status, 1, "it is behind others, and its first name is a new one");
        let release = looks(|| index.put_pod(&node(), pod("b", 5, EACH - 2)));
        assert!(
            release <= 10 * EACH,
            "{release}: two are let in, and the next one is looked at"
        );
        assert_eq!(waiting(&index).len(), WAITING - 2);
    }

    #[test]
    fn who_waits_is_overtaken_by_nobody_who_needs_room() {
        let mut index = full_and(&[pod("z", 2, EACH), pod("y", 3, 3)]);
        let mut revision = 4;
        // Small ones come again and again, and there would be room for each of them.
        for (fewer, name) in ["k", "l", "m", "n"].into_iter().enumerate() {
            index.put_pod(&node(), pod("a", revision, EACH - 10 * (fewer + 1)));
            index.put_pod(&node(), pod(name, revision + 1, 1));
            revision += 2;
        }
        // Those who wait keep their places, whatever their status does.
        index.put_pod(&node(), pod("z", revision, EACH));
        assert_eq!(waiting(&index), ["z", "y", "k", "l", "m", "n"]);
        // What is in may name more.
        index.put_pod(&node(), pod("b", revision + 1, EACH + 1));
        assert_eq!(waiting(&index), ["z", "y", "k", "l", "m", "n"]);
        index.remove_pod(&node(), &key("c"), Revision(revision + 2));
        assert!(waiting(&index).is_empty());
    }

    #[test]
    fn when_the_first_goes_or_names_less_those_behind_it_get_in() {
        let few = [pod("z", 2, EACH), pod("y", 3, 100), pod("x", 4, 7)];
        let mut index = full_and(&few);
        index.put_pod(&node(), pod("a", 5, EACH - 10));
        assert_eq!(waiting(&index), ["z", "y", "x"]);
        index.remove_pod(&node(), &key("z"), Revision(6));
        assert_eq!(waiting(&index), ["y", "x"]);
        index.put_pod(&node(), pod("y", 7, 3));
        assert!(waiting(&index).is_empty());
    }
}
