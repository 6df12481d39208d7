//! Pods that the cluster wants and that could not be taken: what runs of them is no orphan.

use std::collections::BTreeSet;

use crate::object::Kind;

use super::key;
use super::world::World;

fn untaken(world: &World) -> Vec<String> {
    let pods = world.edge.untaken_pods();
    pods.map(|(key, uid)| {
        assert!(world.cluster.lives(key, uid), "{key} {uid}");
        key.name.clone()
    })
    .collect()
}

/// The pod `p0`, which the edge could not write.
fn world_with_one_untaken() -> World {
    let mut world = World::new(1);
    world.cluster.put(&key(Kind::Pod, 0), &BTreeSet::new(), 0);
    world.advance(0, Kind::Pod, 9);
    world.connect(0);
    while untaken(&world).is_empty() {
        world.answer();
        world.carry(1);
        world.write(false);
    }
    world.rest();
    world
}

#[test]
fn a_pod_that_could_not_be_written_is_still_wanted_when_the_pods_are_synced() {
    let mut world = world_with_one_untaken();
    assert!(world.edge.orphans_may_go());
    assert_eq!(untaken(&world), ["p0"]);
    world.cut();
    assert_eq!(untaken(&world), ["p0"], "without a stream too");
    world.settle();
    assert_eq!(untaken(&world), Vec::<String>::new());
    world.check_equal();
}

#[test]
fn one_that_the_cluster_removed_meanwhile_is_not() {
    for connected in [true, false] {
        let mut world = world_with_one_untaken();
        if !connected {
            world.cut();
        }
        world.cluster.delete(&key(Kind::Pod, 0));
        world.settle();
        assert_eq!(untaken(&world), Vec::<String>::new());
    }
}
