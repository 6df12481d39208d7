//! The laws of the desired flow, in a small simulated world and one by one.

mod cluster;
mod devices;
mod frames;
mod large;
mod laws;
mod restored;
mod untaken;
mod work;
mod world;

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::object::{Kind, ObjectKey};

use self::cluster::KINDS;
use self::world::World;

const REPLICAS: usize = 3;

/// One thing that happens in the world.
#[derive(Clone, Debug)]
enum Op {
    Put {
        kind: Kind,
        name: u8,
        names: BTreeSet<u8>,
        content: u8,
    },
    Delete {
        kind: Kind,
        name: u8,
    },
    Advance {
        replica: usize,
        kind: Kind,
        by: u64,
    },
    Unread {
        replica: usize,
        name: u8,
    },
    Read {
        replica: usize,
    },
    Connect {
        replica: usize,
    },
    Cut,
    Reboot,
    Carry {
        frames: usize,
    },
    Answer,
    Write {
        works: bool,
    },
    TakeCommit,
    Compare,
    Retry,
    PodsGone,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(KINDS.to_vec())
}

fn op() -> impl Strategy<Value = Op> {
    let replica = 0..REPLICAS;
    prop_oneof![
        4 => (kind(), 0..4u8, btree_set(0..4u8, 0..3), 0..3u8)
            .prop_map(|(kind, name, names, content)| Op::Put { kind, name, names, content }),
        2 => (kind(), 0..4u8).prop_map(|(kind, name)| Op::Delete { kind, name }),
        6 => (replica.clone(), kind(), 1..6u64).prop_map(|(replica, kind, by)| Op::Advance { replica, kind, by }),
        1 => (replica.clone(), 0..4u8).prop_map(|(replica, name)| Op::Unread { replica, name }),
        1 => replica.clone().prop_map(|replica| Op::Read { replica }),
        2 => replica.prop_map(|replica| Op::Connect { replica }),
        1 => Just(Op::Cut),
        1 => Just(Op::Reboot),
        10 => (1..12usize).prop_map(|frames| Op::Carry { frames }),
        4 => Just(Op::Answer),
        6 => prop::bool::weighted(0.9).prop_map(|works| Op::Write { works }),
        2 => Just(Op::TakeCommit),
        1 => Just(Op::Compare),
        1 => Just(Op::Retry),
        1 => Just(Op::PodsGone),
    ]
}

fn key(kind: Kind, name: u8) -> ObjectKey {
    let first = kind.name().to_lowercase().chars().next().unwrap();
    ObjectKey::new(kind, "default", format!("{first}{name}"))
}

fn perform(world: &mut World, op: Op) {
    match op {
        Op::Put {
            kind,
            name,
            names,
            content,
        } => {
            let names = if kind == Kind::Pod { names } else { BTreeSet::new() };
            world.cluster.put(&key(kind, name), &names, content);
        }
        Op::Delete { kind, name } => world.cluster.delete(&key(kind, name)),
        Op::Advance { replica, kind, by } => world.advance(replica, kind, by),
        Op::Unread { replica, name } => {
            world.caches[replica].unread.insert(key(Kind::ConfigMap, name));
        }
        Op::Read { replica } => world.read(replica),
        Op::Connect { replica } => world.connect(replica),
        Op::Cut => world.cut(),
        Op::Reboot => world.reboot(),
        Op::Carry { frames } => drop(world.carry(frames)),
        Op::Answer => drop(world.answer()),
        Op::Write { works } => drop(world.write(works)),
        Op::TakeCommit => world.take_commit(),
        Op::Compare => world.edge.compare(),
        Op::Retry => world.retry(),
        Op::PodsGone => world.pods_gone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_edge_ends_equal_and_no_law_is_broken_on_the_way(ops in vec(op(), 0..160)) {
        let mut world = World::new(REPLICAS);
        for op in ops {
            perform(&mut world, op);
        }
        world.settle();
        world.check_equal();
    }
}

#[test]
fn what_is_offered_again_is_no_longer_to_be_removed() {
    let mut world = World::new(2);
    let pod = |world: &mut World, name, names: &[u8]| {
        world
            .cluster
            .put(&key(Kind::Pod, name), &names.iter().copied().collect(), 0);
    };
    pod(&mut world, 0, &[0]);
    world.settle();
    pod(&mut world, 0, &[]);
    world.advance(0, Kind::Pod, 1);
    while world.carry(1) {}
    world.write(true);
    // The removal of what the pod no longer names cannot be written; then the pod names it again.
    world.write(false);
    pod(&mut world, 0, &[0]);
    world.advance(0, Kind::Pod, 1);
    world.connect(0);
    world.rest();
    world.settle();
    world.check_equal();
}

#[test]
fn what_was_refused_before_a_comparison_is_not_counted_in_it() {
    let mut world = World::new(1);
    for (pod, named) in [(0, 1), (1, 0)] {
        world
            .cluster
            .put(&key(Kind::Pod, pod), &BTreeSet::from([named]), 0);
    }
    world.connect(0);
    world.carry(7);
    world.answer();
    world.carry(7);
    // The first pod cannot be written, with what it names, of which the next comparison says nothing: no pod that is
    // held names it.
    world.write(false);
    world.edge.compare();
    world.settle();
    world.check_equal();
}
