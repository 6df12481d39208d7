//! Whether a mapper is there, by its socket. Pure.
//!
//! A process that has ended refuses at once; one that hangs does not, and counts as there. A mapper that
//! starts again refuses for a moment, which is why its devices are given up only after [`GONE_AFTER`].

use std::time::Duration;

use tokio::time::Instant;

/// How long a socket refuses before its mapper has ended.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(10);
/// How often a socket that answers is tried.
const EVERY: Duration = Duration::from_secs(5);
/// How soon one that refused is tried again, at first and at most: a mapper opens its socket only after its
/// registration was answered, and is to be told of its devices soon after.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);

/// What is known of a mapper's socket.
#[derive(Debug)]
pub(super) struct Presence {
    state: State,
    look_at: Instant,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It answered when it was last tried, or was never tried.
    There,
    /// It refuses since then, and was tried so often.
    Refusing { since: Instant, tries: u32 },
    /// It refused for so long that its devices were given up.
    Gone,
}

impl Presence {
    /// Of a mapper that nothing is known of; it is tried at once.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            state: State::There,
            look_at: now,
        }
    }

    /// Whether it is worth calling.
    pub(super) const fn is_there(&self) -> bool {
        matches!(self.state, State::There)
    }

    /// When the socket must be tried next.
    pub(super) const fn look_at(&self) -> Instant {
        self.look_at
    }

    /// The socket answered. Says whether that is news.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        let news = !self.is_there();
        self.state = State::There;
        self.look_at = now + EVERY;
        news
    }

    /// The socket refused. Says whether the mapper's devices must be given up now; the caller does so, and
    /// says so with [`Presence::given_up`].
    pub(super) fn refused(&mut self, now: Instant) -> bool {
        let (since, tries) = match self.state {
            State::There => (now, 0),
            State::Refusing { since, tries } => (since, tries + 1),
            State::Gone => {
                self.look_at = now + AGAIN_AT_MOST;
                return false;
            }
        };
        self.state = State::Refusing { since, tries };
        self.look_at = now + AGAIN_AT_MOST.min(AGAIN_AFTER * 2_u32.pow(tries.min(10)));
        now.duration_since(since) >= GONE_AFTER
    }

    /// Everybody knows that the devices are given up.
    pub(super) const fn given_up(&mut self) {
        self.state = State::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_mapper_is_given_up_once_after_ten_seconds_without_a_socket() {
        let start = Instant::now();
        let mut presence = Presence::new(start);
        assert!(presence.is_there() && presence.look_at() == start);
        let mut now = start;
        while !presence.refused(now) {
            assert!(!presence.is_there());
            now = presence.look_at();
        }
        assert!((GONE_AFTER..GONE_AFTER + AGAIN_AT_MOST).contains(&now.duration_since(start)));
        presence.given_up();
        assert!(!presence.refused(now + GONE_AFTER));
        assert!(presence.answered(now + GONE_AFTER * 2) && presence.is_there());
        assert!(!presence.answered(now + GONE_AFTER * 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mapper_that_starts_again_within_the_time_is_not_given_up() {
        let start = Instant::now();
        let mut presence = Presence::new(start);
        assert!(!presence.refused(start));
        assert!(!presence.refused(start + Duration::from_secs(9)));
        assert!(presence.answered(start + Duration::from_secs(9)));
        assert!(!presence.refused(start + Duration::from_secs(11)));
    }
}
