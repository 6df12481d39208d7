//! Stopping containers: the preStop hook, the turn, the stop signal, SIGKILL, all within the grace.
//!
//! A kill that is cut short by an order to end sooner is begun again with the shorter grace, and so is one that
//! a restart of edgecore cut short: the hook then runs once more, as with the kubelet.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Worker;
use super::orders::{ordered_end, ordered_to_end_sooner};
use crate::pods::events::Tone;
use crate::pods::hooks;
use crate::pods::lifecycle::{self, Kill, MIN_GRACE_SECONDS};
use crate::runtime::RuntimeError;

/// The names of those that have stopped.
type Stopped = watch::Sender<BTreeSet<String>>;

impl Worker {
    /// Whether all are stopped; else the worker looks and plans again.
    pub(super) async fn kill_all(&mut self, kills: Vec<Kill>) -> bool {
        let longest = kills.iter().map(|kill| kill.grace_seconds).max().unwrap_or(0);
        for kill in &kills {
            self.announce(kill);
        }
        let stopped = watch::channel(BTreeSet::new()).0;
        let stops = kills.iter().map(|kill| self.stop(kill, &stopped));
        // What is obeyed already is no reason to start over, nor is what cannot cut the shortest grace: an orphan
        // gets the grace of its annotations, which may be longer than that of the order to end it.
        let obeyed = ordered_end(&self.order).map_or(longest, |grace| grace.min(longest));
        let sooner = obeyed.max(MIN_GRACE_SECONDS);
        let floor_reached = sooner <= MIN_GRACE_SECONDS;
        let results = tokio::select! {
            results = join_all(stops) => results,
            () = ordered_to_end_sooner(self.orders.clone(), sooner), if !floor_reached => return false,
        };
        let failed = results.into_iter().filter_map(Result::err).next_back();
        if let Some(error) = &failed {
            self.kill_failed(error).await;
        }
        failed.is_none()
    }

    async fn stop(&self, kill: &Kill, stopped: &Stopped) -> Result<(), RuntimeError> {
        let hook = whole(self.pre_stop(kill).await);
        let turn = wait_for_turn(kill, grace(kill).saturating_sub(hook), stopped).await;
        let left = kill.left_after(hook + turn);
        self.kit.runtime.stop_container(&kill.id, left).await?;
        stopped.send_modify(|names| {
            names.insert(kill.name.clone());
        });
        Ok(())
    }

    /// Runs the hook for at most the whole grace; says how long it took.
    async fn pre_stop(&self, kill: &Kill) -> Duration {
        let began = Instant::now();
        let grace = grace(kill);
        let container = lifecycle::killed(self.pod(), &self.observed, kill);
        let hook = container.and_then(|container| Some((container, hooks::pre_stop(container)?)));
        let Some((container, handler)) = hook.filter(|_| !grace.is_zero()) else {
            return Duration::ZERO;
        };
        let target = self.hook_target(container, &kill.id);
        match timeout(grace, hooks::run(handler, target)).await {
            Ok(Ok(hooked)) => self.hooked(&hooked),
            Ok(Err(failure)) => {
                debug!(container = kill.name, %failure, "preStop");
                self.say(
                    &kill.name,
                    (Tone::Warning, "FailedPreStopHook", "PreStopHook failed"),
                );
            }
            Err(_) => debug!(
                container = kill.name,
                "the preStop hook outlives the grace period"
            ),
        }
        began.elapsed()
    }

    pub(super) async fn kill_failed(&self, error: &RuntimeError) {
        let message = format!("error killing pod: {error}");
        self.kit
            .events
            .pod(self.pod(), Tone::Warning, "FailedKillPod", &message);
        tokio::time::sleep(super::RETRY).await;
    }

    fn announce(&mut self, kill: &Kill) {
        if kill.restart {
            self.history.owed.insert(kill.id.clone());
        }
        if self.announced.insert(kill.id.clone()) {
            self.say(&kill.name, (Tone::Normal, "Killing", &kill.message));
        }
    }
}

/// Waits, for at most `left`, until those that end first have ended; says how long that took. One that cannot
/// be stopped is waited for to the last.
async fn wait_for_turn(kill: &Kill, left: Duration, stopped: &Stopped) -> Duration {
    let began = Instant::now();
    let mut names = stopped.subscribe();
    let all = names.wait_for(|names| kill.after.iter().all(|name| names.contains(name)));
    if timeout(left, all).await.is_err() {
        debug!(
            container = kill.name,
            "its turn did not come within the grace period"
        );
    }
    began.elapsed()
}

fn grace(kill: &Kill) -> Duration {
    Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0))
}

/// Without what is less than a second.
const fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}
