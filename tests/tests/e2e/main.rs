//! The end-to-end tests: real parts on one testbed that all of them share.
//!
//! `make e2e T=name` runs those whose name contains it. The control plane starts with the first
//! test, cloudcore and the edge node `e1` with the first test that asks for them. Tests that have a
//! testbed or a device of their own mostly wait: there are three lanes, and in each one test after another,
//! in the order in which they are listed: some end what the ones before them need.

mod addresses;
mod api_down;
mod bad_input;
mod certificates;
mod control;
mod cost;
mod counters;
mod devices;
mod doctor;
mod eviction;
mod hanging;
mod joined;
mod life;
mod offline;
mod old_api;
mod old_runtime;
mod pressure;
mod pull_secrets;
mod read_only;
mod sizes;
mod storage;
mod surroundings;
mod told;
mod transport;
mod vm;
mod vm_service;
mod world;

use std::sync::Arc;

use anyhow::Result;
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::{Condvar, Mutex};
use tokio::{runtime::Runtime, time::Instant};

use crate::world::World;

/// A test: its name is a sentence.
type Test = (&'static str, fn(Arc<World>) -> BoxFuture<'static, Result<()>>);

/// Lists tests by their functions' names.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] =
            &[$((stringify!($test), |world| Box::pin(async move { $test(&world).await }))),*];
    };
}
pub(crate) use tests;

fn main() -> Result<()> {
    tests::enter();
    let runtime = Arc::new(Runtime::new()?);
    let world = Arc::new(World::default());
    let shared = [
        control::TESTS,
        joined::TESTS,
        addresses::TESTS,
        bad_input::TESTS,
        life::TESTS,
        sizes::TESTS,
        pull_secrets::TESTS,
        storage::TESTS,
        hanging::TESTS,
        surroundings::TESTS,
        devices::TESTS,
        doctor::TESTS,
        offline::TESTS,
    ]
    .concat();
    let own_device = [
        vm_service::TESTS,
        // The last of these takes the machine out of the cluster.
        vm::TESTS,
        old_runtime::TESTS,
        counters::TESTS,
        transport::TESTS,
        pressure::TESTS,
        read_only::TESTS,
    ]
    .concat();
    let own_testbed = [
        api_down::TESTS,
        eviction::TESTS,
        certificates::TESTS,
        old_api::TESTS,
        cost::TESTS,
    ]
    .concat();
    let arguments = Arguments {
        // Each of those beside holds one while it waits for its turn; the last one is for the others.
        test_threads: Some(own_testbed.len() + own_device.len() + 1),
        ..Arguments::from_args()
    };
    let trials = [own_testbed, own_device, shared]
        .into_iter()
        .flat_map(|tests| {
            let lane = Arc::new(Lane::default());
            let chosen = tests.into_iter().filter(|(name, _)| is_chosen(&arguments, name));
            let trial = |(nth, test)| trial(test, &runtime, &world, (&lane, nth));
            chosen.enumerate().map(trial).collect::<Vec<_>>()
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end(conclusion.has_failed())?;
    conclusion.exit()
}

/// Whether the test is to run; one that is not has no place in its lane.
fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let is = |pattern: &String| {
        if arguments.exact {
            name == pattern
        } else {
            name.contains(pattern.as_str())
        }
    };
    arguments.filter.as_ref().is_none_or(is) && !arguments.skip.iter().any(is)
}

/// Tests that run one after another.
#[derive(Default)]
struct Lane {
    next: Mutex<usize>,
    moved: Condvar,
}

/// Held by the test whose turn it is.
struct Turn<'a>(&'a Lane);

impl Lane {
    fn turn(&self, nth: usize) -> Turn<'_> {
        let mut next = self.next.lock();
        while *next != nth {
            self.moved.wait(&mut next);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.next.lock() += 1;
        self.0.moved.notify_all();
    }
}

fn trial(
    (name, test): Test,
    runtime: &Arc<Runtime>,
    world: &Arc<World>,
    (lane, nth): (&Arc<Lane>, usize),
) -> Trial {
    let (runtime, world, lane) = (runtime.clone(), world.clone(), lane.clone());
    Trial::test(name, move || {
        let _mine = lane.turn(nth);
        let began = Instant::now();
        let outcome = runtime.block_on(test(world));
        println!("{:5.0}s {name}", began.elapsed().as_secs_f64());
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    })
}
