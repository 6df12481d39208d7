//! When a node's certificate is asked for anew. Pure: the time and the dice are the caller's.
//!
//! ```text
//! made ───────── two thirds ──┬─ jitter ─┬──────────── end
//!                             └── asked ─┘  again and again
//! ```
//!
//! **Invariant:** nothing is asked of a cloudcore that did not say how much to leave, and two attempts
//! are apart by a pause that grows. A clock that was ahead and is right again never makes a pause longer.

use std::time::{Duration, SystemTime};

/// Devices that joined together do not all ask together: they are spread over this part of the lead.
const SPREAD: u32 = 5;
/// The first pause is this part of the lead, within the bounds.
const FIRST: u32 = 40;
/// The least and the most that the first pause may be.
const FIRST_BOUNDS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));
/// The longest pause is this part of the lead, or the other bound if that is shorter.
const LONGEST: u32 = 8;
/// The longest pause of a certificate that lives long.
const LONGEST_BOUND: Duration = Duration::from_hours(12);
/// An answer that does not come within this is not waited for.
const ANSWER: Duration = Duration::from_secs(30);

/// When one certificate is asked for anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When it ends.
    end: SystemTime,
    /// What is left of it when the next one is asked for, as cloudcore says.
    lead: Option<Duration>,
    /// Where in the spread this one is, from 0 to 1.
    dice: f64,
    pause: Option<Pause>,
    failures: u32,
}

/// Nothing is asked for until it is over.
#[derive(Clone, Copy, Debug)]
struct Pause {
    length: Duration,
    end: SystemTime,
}

impl Pause {
    fn from(now: SystemTime, length: Duration) -> Self {
        let end = now + length;
        Self { length, end }
    }

    /// Its end. A pause of which more is left than it was long began while the clock was ahead: it is over, or it
    /// would hold until the clock is there again.
    fn end(self, now: SystemTime) -> Option<SystemTime> {
        let left = self.end.duration_since(now).unwrap_or_default();
        (left <= self.length).then_some(self.end)
    }
}

impl Schedule {
    pub(super) const fn new(end: SystemTime, dice: f64) -> Self {
        Self {
            end,
            lead: None,
            dice,
            pause: None,
            failures: 0,
        }
    }

    pub(super) const fn end(&self) -> SystemTime {
        self.end
    }

    /// cloudcore says what to leave; nothing when it renews no certificate.
    pub(super) fn told(&mut self, lead: Duration) {
        self.lead = (!lead.is_zero()).then_some(lead);
    }

    /// When to ask; never, where the cloudcore of this session renews nothing.
    pub(super) fn due(&self, now: SystemTime) -> Option<SystemTime> {
        let lead = self.lead?;
        let jitter = (lead / SPREAD).mul_f64(self.dice.clamp(0.0, 1.0));
        // A lead that is longer than the time since 1970 asks at once.
        let due = self
            .end
            .checked_sub(lead.saturating_sub(jitter))
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let pause = self.pause.and_then(|pause| pause.end(now));
        Some(pause.map_or(due, |end| due.max(end)))
    }

    /// How long until then.
    pub(super) fn wait(&self, now: SystemTime) -> Option<Duration> {
        Some(self.due(now)?.duration_since(now).unwrap_or_default())
    }

    /// It was asked for now.
    pub(super) fn asked(&mut self, now: SystemTime) {
        self.pause = Some(Pause::from(now, ANSWER));
    }

    /// It was refused, or could not be kept.
    pub(super) fn failed(&mut self, now: SystemTime, retry_after: Option<Duration>, dice: f64) {
        let lead = self.lead.unwrap_or_default();
        let first = (lead / FIRST).clamp(FIRST_BOUNDS.0, FIRST_BOUNDS.1);
        let longest = (lead / LONGEST).min(LONGEST_BOUND).max(first);
        let most = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        let own = most.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(Pause::from(now, retry_after.unwrap_or(own)));
    }

    /// There is a new certificate. One that ends no later (the CA's own end is near) is not asked for
    /// again at once.
    pub(super) fn renewed(&mut self, end: SystemTime, now: SystemTime, dice: f64) {
        let pause = (self.lead.unwrap_or_default() / 2).min(LONGEST_BOUND);
        *self = Self {
            lead: self.lead,
            pause: Some(Pause::from(now, pause)),
            ..Self::new(end, dice)
        };
    }

    /// Whether so little is left that somebody should look.
    pub(super) fn is_pressing(&self, now: SystemTime) -> bool {
        let lead = self.lead.unwrap_or_default();
        self.end.duration_since(now).unwrap_or_default() < lead / 2
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const LIFE: Duration = Duration::from_hours(24 * 360);

    fn end() -> SystemTime {
        UNIX_EPOCH + DAY * 20_000
    }

    fn schedule(dice: f64) -> Schedule {
        let mut schedule = Schedule::new(end(), dice);
        schedule.told(LIFE / 3);
        schedule
    }

    #[test]
    fn it_is_asked_for_from_two_thirds_of_its_life_on_and_within_the_spread() {
        let begin = end() - LIFE;
        assert_eq!(schedule(0.0).due(begin), Some(begin + DAY * 240));
        assert_eq!(schedule(1.0).due(begin), Some(begin + DAY * 264));
        assert_eq!(schedule(0.0).wait(begin), Some(DAY * 240));
    }

    #[test]
    fn a_device_that_was_away_at_that_time_asks_at_once() {
        assert_eq!(schedule(1.0).wait(end() - DAY), Some(Duration::ZERO));
        assert_eq!(schedule(1.0).wait(end() + DAY), Some(Duration::ZERO));
    }

    #[test]
    fn a_cloudcore_that_renews_nothing_is_not_asked() {
        let mut schedule = Schedule::new(end(), 0.0);
        assert_eq!(schedule.wait(end()), None);
        schedule.told(DAY);
        schedule.told(Duration::ZERO);
        assert_eq!(schedule.wait(end()), None);
    }

    #[test]
    fn a_refusal_is_followed_by_pauses_that_grow_to_a_bound() {
        let (mut schedule, now) = (schedule(0.0), end() - DAY);
        let pauses: Vec<_> = (0..12)
            .map(|_| {
                schedule.failed(now, None, 1.0);
                schedule.wait(now).unwrap()
            })
            .collect();
        assert_eq!(pauses[0], Duration::from_mins(5));
        assert_eq!(pauses[1], Duration::from_mins(10));
        assert_eq!(pauses[11], LONGEST_BOUND);
        schedule.failed(now, Some(DAY), 1.0);
        assert_eq!(schedule.wait(now), Some(DAY), "obeyed");
    }

    #[test]
    fn an_answer_that_does_not_come_is_asked_for_again() {
        let (mut schedule, now) = (schedule(0.0), end() - DAY);
        schedule.asked(now);
        assert_eq!(schedule.wait(now), Some(ANSWER));
        assert_eq!(schedule.wait(now + ANSWER), Some(Duration::ZERO));
    }

    #[test]
    fn a_certificate_that_the_cas_end_cuts_short_is_not_asked_for_in_a_loop() {
        let (mut schedule, now) = (schedule(0.0), end() - DAY);
        schedule.renewed(end(), now, 0.0);
        assert_eq!(schedule.wait(now), Some(LONGEST_BOUND));
        schedule.renewed(end() + LIFE, now, 0.0);
        assert_eq!(schedule.wait(now), Some(LIFE * 2 / 3 + DAY));
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_nothing_from_being_asked_for_once_it_is_right() {
        let (ahead, now) = (UNIX_EPOCH + DAY * 47_118, end() - DAY);
        let wrong: [fn(&mut Schedule, SystemTime); 4] = [
            |schedule, ahead| schedule.asked(ahead),
            |schedule, ahead| schedule.failed(ahead, None, 1.0),
            |schedule, ahead| schedule.failed(ahead, Some(DAY), 1.0),
            |schedule, ahead| schedule.renewed(end(), ahead, 0.0),
        ];
        for make in wrong {
            let mut schedule = schedule(0.0);
            make(&mut schedule, ahead);
            assert!(schedule.wait(ahead).unwrap() > Duration::ZERO);
            assert!(schedule.wait(now).unwrap() <= LONGEST_BOUND);
            // And pauses from there on are pauses.
            make(&mut schedule, now);
            assert!(schedule.wait(now).unwrap() >= ANSWER);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_life_there_is_time_for_several_attempts_before_the_end(
            seconds in 60_u64..400_000_000,
            dice in 0.0_f64..=1.0,
            failures in 0_usize..5,
        ) {
            let life = Duration::from_secs(seconds);
            let mut schedule = Schedule::new(end(), dice);
            schedule.told(life / 3);
            let due = schedule.due(end() - life).unwrap();
            prop_assert!(due >= end() - life / 3 - Duration::from_secs(1));
            prop_assert!(end().duration_since(due).unwrap() >= life / 4);
            let mut now = due;
            for _ in 0..failures.min(2) {
                schedule.failed(now, None, dice);
                now += schedule.wait(now).unwrap();
            }
            prop_assert!(now < end());
            schedule.renewed(now + life, now, dice);
            prop_assert!(schedule.wait(now).unwrap() >= life / 7, "not again at once");
        }
    }
}
