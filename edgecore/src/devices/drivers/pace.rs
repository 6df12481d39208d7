//! When an endpoint that failed is tried again: after 1 to 30 s.

use std::time::Duration;

use crate::backoff::{Backoff, Pace};

const PACE: Pace = Pace {
    first: Duration::from_secs(2),
    longest: Duration::from_secs(30),
    sure: 0.5,
};

/// It failed once more: how long to wait.
pub(crate) fn pause(backoff: &mut Backoff) -> Duration {
    backoff.pause(PACE, rand::random())
}
