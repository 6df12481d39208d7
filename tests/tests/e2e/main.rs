//! The end-to-end tests: real parts on one testbed that all of them share.
//!
//! `make e2e T=name` runs those whose name contains it. The control plane starts with the first
//! test, cloudcore and the edge node `e1` with the first test that asks for them.

mod bad_input;
mod certificates;
mod control;
mod cost;
mod eviction;
mod joined;
mod life;
mod offline;
mod old_api;
mod old_runtime;
mod pull_secrets;
mod surroundings;
mod told;
mod transport;
mod world;

use std::sync::Arc;

use anyhow::Result;
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

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
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let runtime = Arc::new(Runtime::new()?);
    let world = Arc::new(World::default());
    let all = [
        control::TESTS,
        joined::TESTS,
        bad_input::TESTS,
        life::TESTS,
        pull_secrets::TESTS,
        old_runtime::TESTS,
        surroundings::TESTS,
        transport::TESTS,
        cost::TESTS,
        offline::TESTS,
        eviction::TESTS,
        certificates::TESTS,
        old_api::TESTS,
    ];
    let trials = all
        .concat()
        .into_iter()
        .map(|test| trial(test, &runtime, &world))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end(conclusion.has_failed())?;
    conclusion.exit()
}

fn trial((name, test): Test, runtime: &Arc<Runtime>, world: &Arc<World>) -> Trial {
    let (runtime, world) = (runtime.clone(), world.clone());
    Trial::test(name, move || {
        let outcome = runtime.block_on(test(world));
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    })
}
