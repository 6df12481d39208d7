//! What makes a link doubtful before a beat is due: the device has slept, or has another address.
//!
//! Nothing is sent to find out. Sleep is told by two clocks, one of which stands still meanwhile; the address
//! by who looks at the device anyway. A pod that comes or goes changes routes and links, and not that.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Link;

/// How often the clocks are compared: it wakes nothing but this thread.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A sleep that is shorter breaks no connection.
const SLEPT: Duration = Duration::from_secs(3);

/// Counts nudges. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Nudges(Arc<watch::Sender<u64>>);

/// Waits for the next nudge.
#[derive(Debug)]
pub(super) struct Nudged(watch::Receiver<u64>);

impl Nudges {
    pub(super) fn give(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whoever follows is told of what comes from now on.
    pub(super) fn follow(&self) -> Nudged {
        Nudged(self.0.subscribe())
    }
}

impl Nudged {
    /// Returns when one came since the last call.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Nudges the link whenever the device has slept.
pub async fn notice_sleep(link: &Link, stop: &CancellationToken) {
    let mut all = asleep();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
        if let Some(span) = slept(&mut all, asleep()) {
            tracing::info!(seconds = span.as_secs(), "this device has slept");
            link.nudge();
        }
    }
}

/// Nudges the link whenever the device has another address.
pub async fn follow_address(
    mut changes: watch::Receiver<Option<IpAddr>>,
    link: &Link,
    stop: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            seen = changes.changed() => if seen.is_err() { return },
        }
        link.nudge();
    }
}

/// How long the device has slept since the last look, if it has; `all` is told what it is now in all.
fn slept(all: &mut Duration, now: Duration) -> Option<Duration> {
    let span = now.saturating_sub(*all);
    // A look that was held up between the clocks takes nothing back.
    *all = now.max(*all);
    (span > SLEPT).then_some(span)
}

/// How long the device has slept since it was switched on.
fn asleep() -> Duration {
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    // In this order, so that a pause between the two is no sleep.
    let with_sleep = read(ClockId::CLOCK_BOOTTIME);
    with_sleep.saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_told_once_and_a_nap_is_none() {
        let seconds = Duration::from_secs;
        let mut all = seconds(100);
        assert_eq!(slept(&mut all, seconds(100)), None);
        assert_eq!(slept(&mut all, seconds(103)), None);
        assert_eq!(slept(&mut all, seconds(3703)), Some(seconds(3600)));
        assert_eq!(slept(&mut all, seconds(3703)), None);
        for held_up_or_not in [3698, 3703] {
            assert_eq!(slept(&mut all, seconds(held_up_or_not)), None);
        }
    }

    #[test]
    fn a_machine_that_is_awake_does_not_sleep() {
        let mut all = asleep();
        for _ in 0..100 {
            assert_eq!(slept(&mut all, asleep()), None);
        }
    }
}
