//! The simulation: both halves of desired and reported, replicas that lag, the Lease as fence, cuts,
//! crashes, restores, in one seeded world with virtual time.
//!
//! Real: `protocol`'s publisher, replica, outbox and intake; cloudcore's index, its view, the rules of
//! the Lease, the desk that orders reports, the order of requests of a status write, and its patches;
//! edgecore's plan of a pod's steps and its back-off; of devices what `devices` says. Modelled, with the constants of the code that
//! they follow (each module says which): the waiting around these, links, the API server with its
//! controllers, the disk, the container runtime, and a user. Not in it: transports, classes and
//! credit, enrolment, tunnels, events, probes, real statuses, torn batches (the store's own tests).
//!
//! ```text
//! user, controllers ─► API server ─watches that lag─► replicas ═links═► edges ─► disk, runtime
//!                          ◄──requests that fail────┘
//! ```
//!
//! `make sim` runs it. `SEEDS=n` runs n fresh seeds more, `SEED=x` replays one with a trace.

#![expect(clippy::unwrap_used, reason = "a world that cannot be built is a failed test")]
#![expect(
    clippy::unchecked_time_subtraction,
    reason = "virtual time only grows; where that is wrong, the panic is a failed test"
)]

mod api;
mod cloud;
mod devices;
mod dice;
mod disk;
mod edge;
mod faults;
mod flows;
mod indexed;
mod laws;
mod link;
mod menu;
mod objects;
mod pods;
mod runtime;
mod session;
mod user;
mod watches;
mod world;
mod writes;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use self::world::World;

/// The same in every run.
const FIXED: u64 = 230;
/// New in every run.
const FRESH: u64 = 80;
/// What the slowest back-offs add up to, and some more.
const REST: Duration = Duration::from_mins(25);
const LOOK: Duration = Duration::from_secs(20);
/// After so many worlds that failed no more are begun.
const MOST_FAILURES: usize = 5;

/// What all worlds came to.
#[derive(Default)]
struct Sum {
    node_time: Duration,
    worlds: u64,
    actions: u64,
    frames: u64,
    commits: u64,
    acknowledged: u64,
    values: u64,
    statuses: u64,
    found: u64,
    diverged: u64,
}

fn main() -> ExitCode {
    let number = |name: &str| {
        env::var(name)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    let began = Instant::now();
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => fixed_and_fresh(number("SEEDS").unwrap_or(FRESH)),
    };
    let (sum, failed) = run_all(&seeds);
    println!(
        "{} worlds, {:.0} node-hours in {:.1} s: {} actions, {} frames, {} commits, {} acknowledged reports, {} values of devices in {} statuses ({} found written), {} divergences",
        sum.worlds,
        sum.node_time.as_secs_f64() / 3600.0,
        began.elapsed().as_secs_f64(),
        sum.actions,
        sum.frames,
        sum.commits,
        sum.acknowledged,
        sum.values,
        sum.statuses,
        sum.found,
        sum.diverged,
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed seeds: {failed:?}");
        ExitCode::FAILURE
    }
}

fn fixed_and_fresh(fresh: u64) -> Vec<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let first = now.map_or(1, |now| now.as_secs()) * 1_000_000;
    println!(
        "fixed seeds 0 to {}; fresh seeds {first} to {}",
        FIXED - 1,
        first + fresh.max(1) - 1
    );
    (0..FIXED).chain((0..fresh).map(|n| first + n)).collect()
}

/// All worlds, as many at a time as there are processors: each is alone with its seed. What they came to,
/// and which failed.
fn run_all(seeds: &[u64]) -> (Sum, Vec<u64>) {
    let traced = seeds.len() == 1;
    let (queue, failed) = (Mutex::new(seeds.iter()), Mutex::new(Vec::new()));
    let next = || {
        let goes_on = failed.lock().len() < MOST_FAILURES;
        queue.lock().next().filter(|_| goes_on)
    };
    let work = || {
        let mut sum = Sum::default();
        while let Some(&seed) = next() {
            if !run(seed, traced, &mut sum) {
                failed.lock().push(seed);
                println!("seed {seed} failed; replay it with `make sim SEED={seed}`");
            }
        }
        sum
    };
    let sum = thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let sums = workers.into_iter().map(|worker| worker.join().unwrap());
        sums.fold(Sum::default(), |all, sum| all.and(&sum))
    });
    (sum, failed.into_inner())
}

/// One world, from its beginning to its rest; whether all was well.
fn run(seed: u64, traced: bool, sum: &mut Sum) -> bool {
    let mut ended = Duration::ZERO;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, traced);
        if traced {
            println!("{:#?}", world.menu);
        }
        world.run_until(world.menu.lasts);
        world.calm_down();
        rest(&mut world);
        let resets = &world.laws.resets;
        assert!(
            resets.is_empty(),
            "the halves did not keep to the protocol: {resets:?}"
        );
        ended = world.now;
        sum.add(&world);
    }));
    result.is_ok()
}

/// Waits until everything is equal and stays so.
fn rest(world: &mut World) {
    let deadline = world.now + REST;
    loop {
        world.run_until(world.now + LOOK);
        let Some(unsettled) = world.unsettled() else { break };
        assert!(world.now < deadline, "the world never comes to rest: {unsettled}");
    }
    world.run_until(world.now + Duration::from_mins(3));
    let unsettled = world.unsettled();
    assert!(
        unsettled.is_none(),
        "the world was at rest, and moved: {unsettled:?}"
    );
}

impl Sum {
    fn and(self, other: &Self) -> Self {
        Self {
            node_time: self.node_time + other.node_time,
            worlds: self.worlds + other.worlds,
            actions: self.actions + other.actions,
            frames: self.frames + other.frames,
            commits: self.commits + other.commits,
            acknowledged: self.acknowledged + other.acknowledged,
            values: self.values + other.values,
            statuses: self.statuses + other.statuses,
            found: self.found + other.found,
            diverged: self.diverged + other.diverged,
        }
    }

    fn add(&mut self, world: &World) {
        self.worlds += 1;
        self.node_time += world.now * u32::try_from(world.edges.len()).unwrap();
        self.actions += world.actions();
        self.frames += world.frames;
        self.commits += world.laws.commits;
        self.acknowledged += world.laws.acknowledged;
        self.values += world.laws.devices.accepted;
        self.statuses += world.laws.devices.written;
        self.found += world.laws.devices.found;
        self.diverged += world.laws.diverged;
    }
}
