//! What the cloud half looks at to find what it sends: as much as there is to send, and not as much each time.

use std::collections::BTreeSet;

use super::large::{Naming, Pair};
use crate::object::{Kind, ObjectKey};

const MANY: usize = 2_000;
/// Looks that a key may cost: one in each pass of its kind, and one more for the frame.
const EACH: usize = 5;

fn config_map(name: String) -> ObjectKey {
    ObjectKey::new(Kind::ConfigMap, "n", name)
}

/// How many looks something took.
fn looks(pair: &mut Pair, act: impl FnOnce(&mut Pair)) -> usize {
    pair.view.looks.set(0);
    act(pair);
    pair.view.looks.get()
}

#[test]
fn what_is_removed_is_looked_at_a_few_times_however_much_else_is_removed_with_it() {
    let mut pair = Pair::new(Vec::new());
    pair.connect();
    pair.put("a", MANY);
    let looks = looks(&mut pair, |pair| pair.delete("a"));
    assert!(pair.held(Kind::ConfigMap).is_empty() && pair.is_synced());
    assert!(looks <= EACH * MANY, "{looks} for {MANY} removals");
}

#[test]
fn a_comparison_that_ends_in_many_removals_looks_at_each_a_few_times() {
    let mut before = Naming::default();
    before.put("a", MANY);
    // The pod was deleted, and the edge knows it: only what it named is left.
    let left = before
        .held()
        .into_iter()
        .filter(|held| held.key.kind != Kind::Pod);
    let mut pair = Pair::new(left.collect());
    pair.view.put("b", 1);
    let looks = looks(&mut pair, Pair::connect);
    assert_eq!(pair.held(Kind::ConfigMap).len(), 1);
    assert!(pair.is_synced());
    assert!(looks <= EACH * MANY, "{looks} for {MANY} removals");
}

#[test]
fn a_change_amid_many_removals_begins_none_of_them_anew() {
    let mut pair = Pair::new(Vec::new());
    pair.connect();
    pair.put("a", MANY);
    pair.put("b", 1);
    let looks = looks(&mut pair, |pair| {
        let uid = pair.lose("a");
        for _ in 0..MANY {
            pair.cloud.mark_dirty(config_map("b-0".to_owned()));
            pair.step(1);
        }
        pair.edge.terminated(&uid);
        pair.settle();
    });
    assert_eq!(pair.held(Kind::ConfigMap).len(), 1);
    assert!(
        looks <= 3 * EACH * MANY,
        "{looks} for {MANY} removals and changes"
    );
}

#[test]
fn pods_that_wait_are_looked_at_when_what_they_wait_for_is_read_and_not_with_all_that_is_sent() {
    const WAITING: usize = 300;
    let mut pair = Pair::new(Vec::new());
    pair.connect();
    pair.put("gone", MANY);
    let unread: BTreeSet<_> = (0..WAITING).map(|pod| config_map(format!("{pod}-0"))).collect();
    pair.view.unread.clone_from(&unread);
    for pod in 0..WAITING {
        pair.put(&pod.to_string(), 1);
    }
    let looks_away = looks(&mut pair, |pair| pair.delete("gone"));
    assert!(pair.held(Kind::Pod).is_empty());
    assert!(looks_away <= EACH * MANY, "{looks_away} for {MANY} removals");
    // Each is read alone, and the publisher hears of that key only.
    let looks_read = looks(&mut pair, |pair| {
        for key in unread {
            pair.view.unread.remove(&key);
            pair.cloud.mark_dirty(key);
            pair.settle();
        }
    });
    assert_eq!(pair.held(Kind::Pod).len(), WAITING);
    assert!(
        looks_read <= 3 * EACH * WAITING,
        "{looks_read} for {WAITING} pods"
    );
}

#[test]
fn what_the_pods_of_the_edge_name_is_asked_for_once_for_all_that_is_sent_of_it() {
    let mut view = Naming::default();
    view.put("a", MANY);
    // An edge that has the pod and nothing of what it names.
    let pods = view.held().into_iter().filter(|held| held.key.kind == Kind::Pod);
    let mut pair = Pair::new(pods.collect());
    pair.view = view;
    let looks = looks(&mut pair, Pair::connect);
    assert_eq!(pair.held(Kind::ConfigMap).len(), MANY);
    assert!(looks <= 2 * EACH * MANY, "{looks} for {MANY} objects");
}

#[test]
fn a_comparison_that_waits_for_reads_looks_at_what_was_read_and_not_at_all_that_is_named() {
    let mut pair = Pair::new(Vec::new());
    let unread: BTreeSet<_> = (0..MANY).map(|name| config_map(format!("a-{name}"))).collect();
    pair.view.unread.clone_from(&unread);
    pair.put("a", MANY);
    let looks = looks(&mut pair, |pair| {
        pair.connect();
        assert!(!pair.edge.synced(Kind::ConfigMap));
        // The last ones first: what is waited for is not what is read.
        for key in unread.into_iter().rev() {
            pair.view.unread.remove(&key);
            pair.cloud.mark_dirty(key);
            pair.settle();
        }
    });
    assert!(pair.is_synced());
    assert!(looks <= 3 * EACH * MANY, "{looks} for {MANY} reads");
}

#[test]
fn a_comparison_that_waits_for_a_list_looks_at_nothing_meanwhile() {
    const PODS: usize = 300;
    let mut pair = Pair::new(Vec::new());
    for pod in 0..PODS {
        pair.view.put(&pod.to_string(), 1);
    }
    pair.connect();
    // It differs, and a list is to say how; the API server takes its time.
    pair.view.put("late", 1);
    pair.edge.compare();
    while let Some(frame) = pair.edge.poll_transmit() {
        pair.cloud.handle_frame(frame).unwrap();
    }
    let looks = looks(&mut pair, |pair| {
        for _ in 0..PODS {
            while let Some(frame) = pair.cloud.poll_transmit(&pair.view) {
                pair.edge.handle_frame(frame).unwrap();
            }
        }
    });
    assert!(looks <= 3 * EACH * PODS, "{looks} for {PODS} pods");
    pair.settle();
    assert_eq!(pair.held(Kind::Pod).len(), PODS + 1);
    assert!(pair.is_synced());
}
