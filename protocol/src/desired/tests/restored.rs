//! The cluster's store is restored in the middle of a session.

use std::collections::BTreeSet;

use crate::object::Kind;

use super::cluster::KINDS;
use super::key;
use super::world::World;

fn put(world: &mut World, kind: Kind, name: u8, content: u8) {
    world.cluster.put(&key(kind, name), &BTreeSet::new(), content);
}

/// An edge that is to hear of differences, and the revision of a backup that is older than what it has seen.
fn world_with_news() -> (World, u64) {
    let mut world = World::new(1);
    put(&mut world, Kind::Pod, 0, 0);
    put(&mut world, Kind::Service, 0, 0);
    let backup = world.cluster.head;
    for content in 1..4 {
        put(&mut world, Kind::Pod, 0, content);
        put(&mut world, Kind::Service, 0, content);
        put(&mut world, Kind::Pod, 1, content);
    }
    world.settle();
    world.cut();
    for kind in [Kind::Pod, Kind::Service] {
        put(&mut world, kind, 0, 4);
        put(&mut world, kind, 2, 4);
        world.cluster.delete(&key(kind, 1));
    }
    for kind in KINDS {
        world.advance(0, kind, 100);
    }
    (world, backup)
}

#[test]
fn a_view_that_falls_at_any_moment_of_a_comparison_is_owned_up_to_before_it_speaks() {
    let mut was_behind = 0;
    for steps in 0..80 {
        let (mut world, backup) = world_with_news();
        world.connect(0);
        for step in 0..steps {
            let _ = world.carry(1) | (step % 3 == 0 && world.answer()) | world.write(true);
        }
        world.cluster.restore(backup);
        world.restored = true;
        for kind in KINDS {
            world.relist(0, kind);
        }
        for _ in 0..200 {
            was_behind += u32::from(world.edge.is_behind());
            // Any word of an older view panics here.
            let _ = world.carry(1) | world.answer() | world.write(true);
        }
        world.settle();
        world.check_equal();
        assert!(!world.edge.is_behind(), "{steps}");
    }
    assert!(was_behind > 0);
}
