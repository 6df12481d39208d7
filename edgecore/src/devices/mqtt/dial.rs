//! When and how the next connection is made. Pure: the dice are the caller's.

use std::time::Duration;

use super::wire::{Lost, Session, Version};
use crate::backoff::{Backoff, Pace};

/// A broker that restarts is back soon, and asking a closed port on the node itself costs next to nothing.
const PACE: Pace = Pace {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(30),
    sure: 0.5,
};
/// A connection that lasted so long was a good one. A shorter one may have been taken over by a
/// client of the same name, and two such clients must not throw each other out without a pause.
const GOOD: Duration = Duration::from_secs(5);

/// How the next connection is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    /// In which version.
    pub(super) version: Version,
    /// With the old session or without.
    pub(super) session: Session,
    backoff: Backoff,
}

impl Default for Dial {
    fn default() -> Self {
        Self {
            version: Version::Five,
            session: Session::Resumed,
            backoff: Backoff::default(),
        }
    }
}

impl Dial {
    /// A connection stands: the session is a new one or wanted.
    pub(super) const fn connected(&mut self) {
        self.session = Session::Resumed;
    }

    /// A connection ended that had stood for so long, if it stood at all. Returns the pause before
    /// the next; `dice` is a fresh random number from 0 to 1.
    pub(super) fn lost(&mut self, lost: &Lost, stood: Option<Duration>, dice: f64) -> Duration {
        match (lost, stood) {
            // What was too large, or could not be read, would be delivered again at each reconnect.
            (Lost::TooLarge, _) | (Lost::Version, Some(_)) => self.session = Session::Clean,
            (Lost::Version | Lost::HungUp, None) => {
                self.version = match self.version {
                    Version::Five => Version::Three,
                    Version::Three => Version::Five,
                };
            }
            (Lost::HungUp | Lost::Broken(_), _) => {}
        }
        if stood.is_some_and(|stood| stood >= GOOD) {
            self.backoff.reset();
        }
        self.backoff.pause(PACE, dice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Lost {
        Lost::Broken("refused".to_owned())
    }

    #[test]
    fn pauses_double_to_half_a_minute_and_start_anew_after_a_good_connection() {
        let mut dial = Dial::default();
        let pauses: Vec<_> = (0..10)
            .map(|_| dial.lost(&refused(), None, 1.0).as_millis())
            .collect();
        assert_eq!(
            pauses,
            [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        let short = dial.lost(&refused(), Some(Duration::from_secs(1)), 1.0);
        assert_eq!(short, PACE.longest, "it may have been taken over");
        assert_eq!(dial.lost(&refused(), Some(GOOD), 0.0), PACE.first / 2);
    }

    #[test]
    fn a_broker_that_does_not_know_the_version_is_asked_in_the_other() {
        let mut dial = Dial::default();
        dial.lost(&Lost::Version, None, 0.0);
        assert_eq!(dial.version, Version::Three);
        dial.lost(&Lost::HungUp, None, 0.0);
        assert_eq!(dial.version, Version::Five);
        // A connection that stood is proof of the version.
        dial.lost(&Lost::HungUp, Some(GOOD), 0.0);
        dial.lost(&refused(), None, 0.0);
        assert_eq!(dial.version, Version::Five);
    }

    #[test]
    fn a_message_that_is_too_large_costs_the_session_once() {
        let mut dial = Dial::default();
        dial.lost(&Lost::TooLarge, Some(GOOD), 0.0);
        assert_eq!(dial.session, Session::Clean);
        dial.lost(&refused(), None, 0.0);
        assert_eq!(dial.session, Session::Clean, "until it was dropped");
        dial.connected();
        assert_eq!(dial.session, Session::Resumed);
        dial.lost(&Lost::Version, Some(GOOD), 0.0);
        assert_eq!(dial.session, Session::Clean, "so does one that cannot be read");
    }
}
