//! Whether the API server answers, and lets cloudcore act for nodes, as the lease writes tell.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lease writes that all fail for this long mean that another replica should be tried.
const PATIENCE: Duration = Duration::from_secs(15);

/// How the API server has answered of late.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

/// What the last request showed.
#[derive(Debug, Default)]
enum State {
    /// Nothing has been asked yet, or a lease was refused, and why is not known yet.
    #[default]
    Unasked,
    /// The last one was answered, then.
    Answered(Instant),
    /// All have failed since then.
    Silent(Instant),
    /// Since then it lets cloudcore act for no node.
    Refused(Instant),
}

impl Health {
    pub(super) fn answered(&self) {
        *self.state.lock() = State::Answered(Instant::now());
    }

    /// Notes that one node's lease was refused, which may be this node's own fault: it is looked into soon.
    pub(super) fn doubted(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Answered(_)) {
            *state = State::Unasked;
        }
    }

    /// Notes a failure; whether it is the first in a row.
    pub(super) fn silent(&self) -> bool {
        let mut state = self.state.lock();
        let first = !matches!(*state, State::Silent(_));
        if first {
            *state = State::Silent(Instant::now());
        }
        first
    }

    /// Notes that no node may be acted for; whether it is the first time in a row.
    pub(super) fn refused(&self) -> bool {
        let mut state = self.state.lock();
        let first = !matches!(*state, State::Refused(_));
        if first {
            *state = State::Refused(Instant::now());
        }
        first
    }

    /// Why nodes should try another replica, with patience.
    pub fn obstacle(&self) -> Option<&'static str> {
        let (since, obstacle) = match *self.state.lock() {
            State::Unasked | State::Answered(_) => return None,
            State::Silent(since) => (since, "the API server does not answer"),
            State::Refused(since) => (since, "the API server lets cloudcore act for no node"),
        };
        (since.elapsed() >= PATIENCE).then_some(obstacle)
    }

    /// How long ago a request was last answered; `None` when that is not known.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        match *self.state.lock() {
            State::Answered(at) => Some(at.elapsed()),
            State::Unasked | State::Silent(_) | State::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALMOST: Duration = Duration::from_secs(PATIENCE.as_secs() - 1);

    #[tokio::test(start_paused = true)]
    async fn silence_counts_only_after_a_while_and_one_answer_ends_it() {
        let health = Health::default();
        health.silent();
        tokio::time::advance(ALMOST).await;
        health.silent();
        assert_eq!(health.obstacle(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.obstacle().is_some());
        health.answered();
        assert_eq!(health.obstacle(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_node_that_is_refused_is_looked_into_and_no_obstacle_for_the_others() {
        let health = Health::default();
        health.answered();
        health.doubted();
        assert_eq!(health.quiet_for(), None);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(health.obstacle(), None);
        // That no node may be acted for is not taken back by one more refusal.
        assert!(health.refused());
        tokio::time::advance(ALMOST).await;
        health.doubted();
        assert!(!health.refused());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.obstacle().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_ended_by_a_refusal() {
        let health = Health::default();
        assert!(health.silent());
        tokio::time::advance(ALMOST).await;
        health.doubted();
        assert!(!health.silent());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.obstacle().is_some());
    }
}
