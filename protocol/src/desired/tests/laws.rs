//! The laws one by one, each in the smallest world that can break it.

use std::collections::BTreeSet;

use super::key;
use super::world::World;
use crate::desired::Notice;
use crate::object::Kind;

fn world_with_pods(pods: u8) -> World {
    let mut world = World::new(2);
    for pod in 0..pods {
        world.cluster.put(&key(Kind::Pod, pod), &BTreeSet::new(), 0);
    }
    world.settle();
    world
}

#[test]
fn an_empty_view_of_a_fresh_replica_removes_nothing() {
    let mut world = world_with_pods(4);
    world.connect(1);
    while world.carry(1) {}
    assert_eq!(world.held(Kind::Pod).len(), 4);
    world.settle();
    world.check_equal();
    assert_eq!(world.held(Kind::Pod).len(), 4);
}

#[test]
fn a_quiet_reconnect_writes_nothing() {
    let mut world = world_with_pods(3);
    let before = world.commits;
    world.connect(0);
    world.settle();
    world.check_equal();
    assert_eq!(world.commits, before);
}

#[test]
fn orphans_live_until_the_pods_are_synced_in_this_boot() {
    let mut world = world_with_pods(1);
    assert!(world.edge.orphans_may_go());
    world.reboot();
    assert!(!world.edge.orphans_may_go());
    world.settle();
    assert!(world.edge.orphans_may_go());
}

#[test]
fn removing_most_pods_in_one_comparison_is_done_and_said() {
    let mut world = world_with_pods(4);
    world.cut();
    for pod in 0..3 {
        world.cluster.delete(&key(Kind::Pod, pod));
    }
    world.settle();
    assert_eq!(world.held(Kind::Pod), ["p3"]);
    assert_eq!(world.notices, [Notice::MassRemoval { removes: 3, held: 4 }]);
}

#[test]
fn a_config_map_stays_while_a_removed_pod_still_runs() {
    let mut world = World::new(1);
    world.cluster.put(&key(Kind::ConfigMap, 1), &BTreeSet::new(), 0);
    world.cluster.put(&key(Kind::Pod, 0), &BTreeSet::from([1]), 0);
    world.settle();
    world.cluster.delete(&key(Kind::Pod, 0));
    world.advance(0, Kind::Pod, 9);
    while world.carry(1) | world.write(true) {}
    assert_eq!(
        (world.held(Kind::Pod).len(), world.held(Kind::ConfigMap).len()),
        (0, 1)
    );
    world.pods_gone();
    while world.carry(1) | world.write(true) {}
    assert_eq!(world.held(Kind::ConfigMap).len(), 0);
}

/// A world whose replica 0 has brought everything to the edge, and whose replica 1 has seen the
/// services up to a revision and everything else.
fn world_with_a_lagging_replica(services_seen: u64, happens: impl Fn(&mut World)) -> World {
    let mut world = World::new(2);
    world.cluster.put(&key(Kind::Service, 0), &BTreeSet::new(), 0);
    world.settle();
    happens(&mut world);
    world.advance(0, Kind::Service, 9);
    world.rest();
    world.advance(1, Kind::Service, services_seen);
    world.connect(1);
    world.rest();
    world
}

#[test]
fn a_lagging_replica_sets_nothing_back() {
    let mut world = world_with_a_lagging_replica(1, |world| {
        world.cluster.put(&key(Kind::Service, 0), &BTreeSet::new(), 1);
    });
    world.settle();
    world.check_equal();
}

#[test]
fn a_lagging_replica_removes_nothing() {
    let mut world = world_with_a_lagging_replica(1, |world| {
        world.cluster.put(&key(Kind::Service, 1), &BTreeSet::new(), 1);
    });
    assert_eq!(world.held(Kind::Service), ["s0", "s1"]);
    world.settle();
    world.check_equal();
}

#[test]
fn a_lagging_replica_brings_nothing_back() {
    let mut world = world_with_a_lagging_replica(1, |world| world.cluster.delete(&key(Kind::Service, 0)));
    assert!(world.held(Kind::Service).is_empty());
    world.settle();
    world.check_equal();
}

#[test]
fn a_pod_of_a_lagging_replica_is_listed_before_it_is_brought_or_taken() {
    let mut world = world_with_pods(2);
    let seen = world.cluster.head;
    world.cluster.delete(&key(Kind::Pod, 0));
    world.cluster.put(&key(Kind::Pod, 2), &BTreeSet::new(), 0);
    world.advance(0, Kind::Pod, 9);
    world.rest();
    assert_eq!(world.held(Kind::Pod), ["p1", "p2"]);
    world.advance(1, Kind::Pod, seen);
    world.connect(1);
    world.rest();
    assert_eq!(world.held(Kind::Pod), ["p1", "p2"]);
}

#[test]
fn an_absence_older_than_what_is_held_is_not_believed() {
    let mut world = World::new(2);
    world.cluster.put(&key(Kind::ConfigMap, 1), &BTreeSet::new(), 0);
    world.cluster.put(&key(Kind::Pod, 0), &BTreeSet::from([1]), 0);
    world.settle();
    // The other replica knows the pod, and has not heard of the ConfigMap.
    world.advance(1, Kind::Pod, 9);
    world.connect(1);
    world.rest();
    assert!(world.holds_object(&key(Kind::ConfigMap, 1)));
}

#[test]
fn a_comparison_sees_what_is_still_on_its_way() {
    let mut world = World::new(1);
    let there_and_back = [0, 1, 0];
    world
        .cluster
        .put(&key(Kind::Service, 0), &BTreeSet::new(), there_and_back[0]);
    world.settle();
    world
        .cluster
        .put(&key(Kind::Service, 0), &BTreeSet::new(), there_and_back[1]);
    world.advance(0, Kind::Service, 1);
    world.send_down();
    world
        .cluster
        .put(&key(Kind::Service, 0), &BTreeSet::new(), there_and_back[2]);
    world.advance(0, Kind::Service, 1);
    world.edge.compare();
    while world.carry_up() {}
    world.settle();
    world.check_equal();
}

#[test]
fn after_a_restore_of_the_clusters_store_the_edge_follows_and_says_so() {
    let mut world = World::new(2);
    world.cluster.put(&key(Kind::Pod, 0), &BTreeSet::new(), 0);
    let backup = world.cluster.head;
    for content in 0..5 {
        world.cluster.put(&key(Kind::Pod, 0), &BTreeSet::new(), content);
        world
            .cluster
            .put(&key(Kind::Service, 0), &BTreeSet::new(), content);
    }
    world.settle();
    world.cut();
    world.cluster.restore(backup);
    world.restored = true;
    world.connect(1);
    let mut was_behind = false;
    for _ in 0..200 {
        was_behind |= world.edge.is_behind();
        let _ = world.carry(1) | world.answer() | world.write(true);
    }
    world.settle();
    world.check_equal();
    assert!(was_behind && !world.edge.is_behind());
}

#[test]
fn a_start_after_a_restore_of_the_clusters_store_refuses_no_change() {
    let mut world = World::new(2);
    // The pod names what does not exist; the service goes there and back, and is in the backup as it was.
    world.cluster.put(&key(Kind::Pod, 0), &BTreeSet::from([1]), 0);
    world.cluster.put(&key(Kind::Service, 0), &BTreeSet::new(), 0);
    let backup = world.cluster.head;
    for content in [1, 2, 0] {
        world
            .cluster
            .put(&key(Kind::Service, 0), &BTreeSet::new(), content);
        world.cluster.put(&key(Kind::Pod, 1), &BTreeSet::new(), content);
    }
    world.settle();
    world.cut();
    world.cluster.restore(backup);
    world.restored = true;
    world.connect(1);
    world.settle();
    world.check_equal();

    world.reboot();
    world.connect(1);
    world.settle();
    world.cluster.delete(&key(Kind::Service, 0));
    world.cluster.put(&key(Kind::ConfigMap, 1), &BTreeSet::new(), 0);
    world.settle();
    world.check_equal();
    assert!(world.holds_object(&key(Kind::ConfigMap, 1)));
    // They were written again, or are older than the view by now: nothing is left to be remembered.
    for content in 0..5 {
        world
            .cluster
            .put(&key(Kind::Pod, 0), &BTreeSet::from([1]), content);
    }
    world.settle();
    world.connect(1);
    world.settle();
    assert!(world.edge.fences().void.is_empty(), "{:?}", world.edge.fences());
}
