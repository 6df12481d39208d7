//! A floor for steps that show no effect.
//!
//! A worker looks again at once after what it did. Where the runtime says that it did it and the next look does not
//! show it, the same step would be made again as fast as both can.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::sleep;
use tracing::warn;

use super::{RETRY, Turn, Worker};
use crate::pods::spec;

/// No pod needs so many steps without a pause in between.
const MANY: u32 = 100;

/// Counts steps in a row.
#[derive(Debug, Default)]
pub(super) struct Haste {
    steps: u32,
}

impl Haste {
    /// One more step was made, and the next look would be at once: how long to wait first, if at all.
    fn again(&mut self, pod: &Pod) -> Option<Duration> {
        self.steps = self.steps.saturating_add(1);
        if self.steps == MANY {
            warn!(
                namespace = spec::namespace(pod),
                pod = spec::name(pod),
                "{MANY} steps in a row without a pause: the container runtime may not show what it did; \
                 from now on one a second is made"
            );
        }
        (self.steps >= MANY).then_some(RETRY)
    }
}

impl Worker {
    /// Until the next turn.
    pub(super) async fn between(&mut self, turn: Turn, haste: &mut Haste) {
        match turn {
            Turn::Again => {
                if let Some(pause) = haste.again(self.pod()) {
                    self.permit = None;
                    sleep(pause).await;
                }
            }
            Turn::Wait(until) => {
                *haste = Haste::default();
                self.rest(until).await;
            }
            Turn::Done => {}
        }
    }
}
