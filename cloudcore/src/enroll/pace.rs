//! How many enrolment requests reach the API server. Pure: time is given.
//!
//! Whoever reaches the port may ask to enrol, and each request reads Secrets. Behind a load
//! balancer sources cannot be told apart, so the pace is one for all: a flood delays those who
//! join, who come back by themselves, and never the API server.
//!
//! **Invariant:** in any span of time at most [`BURST`] requests pass, and one more per [`EVERY`].

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use protocol::tls::KeyHash;
use tokio::time::Instant;

use crate::gcra::{Gcra, Rate};

/// One request in this time, on the average: each costs the API server up to seven requests.
const EVERY: Duration = Duration::from_millis(100);
/// So many may come at once: a batch of devices that is switched on together.
const BURST: u32 = 50;
const RATE: Rate = Rate {
    every: EVERY,
    burst: BURST,
};

/// Lets requests pass, or not.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Gcra>);

impl Pace {
    /// Whether one more request may pass now.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut passed = self.0.lock();
        let admitted = passed.opens(RATE, now) <= now;
        if admitted {
            passed.take(RATE, now);
        }
        admitted
    }
}

/// Of one key, one request in this time.
const EVERY_OF_KEY: Duration = Duration::from_secs(5);

/// Lets each key ask now and then, so that none takes the turns of the others.
#[derive(Debug, Default)]
pub(super) struct KeyPace {
    /// When each of them last passed: only keys that a certificate was signed for get here.
    last: Mutex<HashMap<KeyHash, Instant>>,
}

impl KeyPace {
    /// Whether this key may ask now.
    pub(super) fn admits(&self, key: &KeyHash, now: Instant) -> bool {
        let mut last = self.last.lock();
        last.retain(|_, passed| now < *passed + EVERY_OF_KEY);
        let admitted = !last.contains_key(key);
        if admitted {
            last.insert(*key, now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_in_its_time() {
        let (pace, start) = (Pace::default(), Instant::now());
        let passed = (0..BURST * 2).filter(|_| pace.admits(start)).count();
        assert_eq!(passed, BURST as usize);
        assert!(!pace.admits(start + EVERY / 2));
        assert!(pace.admits(start + EVERY));
        assert!(!pace.admits(start + EVERY));
    }

    #[test]
    fn a_quiet_time_earns_no_more_than_a_burst() {
        let (pace, start) = (Pace::default(), Instant::now());
        let later = start + Duration::from_hours(1);
        let passed = (0..BURST * 2).filter(|_| pace.admits(later)).count();
        assert_eq!(passed, BURST as usize);
    }

    #[test]
    fn a_key_that_asks_without_end_takes_one_turn_in_its_time_and_no_others() {
        let (pace, start) = (KeyPace::default(), Instant::now());
        let (busy, other) = (KeyHash([1; 32]), KeyHash([2; 32]));
        let passed = (0..100)
            .filter(|n| pace.admits(&busy, start + EVERY * *n))
            .count();
        assert_eq!(passed, 2);
        let later = start + EVERY_OF_KEY * 4;
        assert!(pace.admits(&other, later));
        assert_eq!(pace.last.lock().len(), 1, "what is over is forgotten");
    }
}
