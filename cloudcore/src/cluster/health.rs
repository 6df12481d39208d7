//! Whether the API server answers, as the lease writes tell.

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
    /// Nothing has been asked yet.
    #[default]
    Unasked,
    /// The last one was answered, then.
    Answered(Instant),
    /// All have failed since then.
    Silent(Instant),
}

impl Health {
    pub(super) fn answered(&self) {
        *self.state.lock() = State::Answered(Instant::now());
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

    /// Whether the API server is reachable from here, with patience.
    pub fn is_reachable(&self) -> bool {
        match *self.state.lock() {
            State::Unasked | State::Answered(_) => true,
            State::Silent(since) => since.elapsed() < PATIENCE,
        }
    }

    /// How long ago a request was last answered; `None` when that is not known.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        match *self.state.lock() {
            State::Answered(at) => Some(at.elapsed()),
            State::Unasked | State::Silent(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_only_after_a_while_and_one_answer_ends_it() {
        let health = Health::default();
        health.silent();
        tokio::time::advance(PATIENCE.checked_sub(Duration::from_secs(1)).unwrap()).await;
        health.silent();
        assert!(health.is_reachable());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!health.is_reachable());
        health.answered();
        assert!(health.is_reachable());
    }
}
