//! When what the edge refused is offered again. Pure but for the clock.
//!
//! The pause doubles with each offer that is refused in its turn: a large object that a full disk refuses would else
//! cross a metered link every few seconds, for as long as the disk is full. What was offered again is refused by
//! nobody until its answer has come, so that only a long time without a refusal makes the pause short again.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause.
const FIRST: Duration = Duration::from_secs(5);

/// The longest: a disk that has room again waits for it. And how long nothing may be refused for the first to hold
/// again: longer than an answer takes.
const LAST: Duration = Duration::from_mins(2);

pub(super) struct Retry {
    pause: Duration,
    at: Option<Instant>,
    offered: Option<Instant>,
}

impl Retry {
    pub(super) const fn new() -> Self {
        Self {
            pause: FIRST,
            at: None,
            offered: None,
        }
    }

    /// When it is time; the pause begins with the first refusal.
    pub(super) fn next(&mut self, has_refused: bool) -> Option<Instant> {
        if self.at.is_none() && has_refused {
            if self.offered.is_none_or(|offered| offered.elapsed() > LAST) {
                self.pause = FIRST;
            }
            self.at = Some(Instant::now() + self.pause);
        }
        self.at
    }

    /// It is time: whether there still is something to offer again.
    pub(super) fn fire(&mut self, has_refused: bool) -> bool {
        self.at = None;
        if has_refused {
            self.offered = Some(Instant::now());
            self.pause = (self.pause * 2).min(LAST);
        }
        has_refused
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    /// How long until the next offer, of which the answer comes a moment later.
    async fn pause(retry: &mut Retry) -> Duration {
        let refused = Instant::now();
        sleep_until(retry.next(true).unwrap()).await;
        let pause = refused.elapsed();
        assert!(retry.fire(true));
        assert_eq!(retry.next(false), None, "what was offered has no answer yet");
        advance(Duration::from_secs(1)).await;
        pause
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_again_and_again_is_offered_less_and_less_often() {
        let mut retry = Retry::new();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(pause(&mut retry).await.as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120, 120]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_time_without_a_refusal_the_pause_is_short() {
        let mut retry = Retry::new();
        for _ in 0..3 {
            pause(&mut retry).await;
        }
        advance(LAST).await;
        assert_eq!(pause(&mut retry).await, FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_meanwhile_is_not_offered() {
        let mut retry = Retry::new();
        assert_eq!(retry.next(false), None);
        let at = retry.next(true);
        assert_eq!(retry.next(false), at, "the pause goes on");
        assert!(!retry.fire(false));
        assert_eq!(retry.next(true), Some(Instant::now() + FIRST));
    }
}
