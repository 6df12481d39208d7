//! When a wish is written to a device, and when it is given up. Pure.
//!
//! ```text
//!            a new wish                     sent              the report equals it
//! settled ─────────────► due ─────────────► confirming ─────► settled
//!    ▲                    ▲  not reached: back-off │  └ no report yet: written again, with back-off
//!    └─── confirmTimeout ─┴────────────────────────┘
//! ```
//!
//! One change of a wish is one effort. An effort ends when the device reports the value, or when
//! `confirmTimeout` has passed since it was first reached; the time that nobody could reach it does
//! not count, so that a wish waits for a device that is switched off.
//!
//! **Invariant:** what a person changes at the device after an effort has ended is not written over, by a
//! later process neither, unless the property says `enforce`.

use std::time::Duration;

use tokio::time::Instant;

use crate::devices::Wish;

/// The first wait between two writes of one effort; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait between two writes of one effort.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How a property wants to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// How long a written value may take to be reported back.
    pub(crate) confirm_timeout: Duration,
    /// Whether a device that was changed by hand is set back.
    pub(crate) enforce: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write this value, and say with [`Writing::sent`] and its siblings what came of it.
    Write(String),
    /// Nothing until then, or until a wish or a report changes.
    Wait(Option<Instant>),
    /// The device never reported the value of this wish: say so, once.
    GiveUp {
        /// The wish.
        version: u64,
        /// How it failed.
        why: String,
    },
}

/// Where the writing of one property stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writing {
    version: Option<u64>,
    effort: Option<Effort>,
    /// The device may have another value than it last reported: something was written to it and
    /// never confirmed.
    in_doubt: bool,
}

#[derive(Clone, Debug)]
struct Effort {
    next: Instant,
    wait: Duration,
    reached: Option<Instant>,
    refusal: Option<String>,
    /// The last report equals the wish, and is older than something that may have been carried out
    /// since: it is written whatever that report says.
    owed: bool,
    /// The last write got no answer.
    unanswered: bool,
}

impl Effort {
    fn begin(now: Instant) -> Self {
        Self {
            next: now,
            wait: FIRST_WAIT,
            reached: None,
            refusal: None,
            owed: false,
            unanswered: false,
        }
    }

    fn later(&mut self, now: Instant) {
        self.next = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }
}

impl Writing {
    /// What to do about this wish now; none if there is no wish any more.
    pub(crate) fn next(&mut self, wish: Option<&Wish>, manner: Manner, now: Instant) -> Step {
        let Some(wish) = wish else {
            self.effort = None;
            self.version = None;
            return Step::Wait(None);
        };
        self.take(wish, manner, now);
        let Some(effort) = &self.effort else {
            return Step::Wait(None);
        };
        let ends = effort.reached.map(|reached| reached + manner.confirm_timeout);
        if ends.is_some_and(|ends| ends <= now) {
            let refusal = self.effort.take().and_then(|effort| effort.refusal);
            let why = refusal.map_or_else(
                || "NotConfirmed".to_owned(),
                |refusal| format!("NotConfirmed: {refusal}"),
            );
            return Step::GiveUp {
                version: wish.version,
                why,
            };
        }
        if effort.next <= now {
            return Step::Write(wish.value.clone());
        }
        Step::Wait(Some(ends.map_or(effort.next, |ends| ends.min(effort.next))))
    }

    /// The value went out; the device has yet to report it.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.in_doubt = true;
        if let Some(effort) = &mut self.effort {
            effort.refusal = None;
            effort.owed = false;
            effort.reached.get_or_insert(now);
            effort.later(now);
        }
    }

    /// What went out for this wish has come; when to write it again stays as it was.
    pub(crate) fn arrived(&mut self, version: u64, now: Instant) {
        if let Some(effort) = self.effort_for(version) {
            effort.refusal = None;
            effort.owed = false;
            effort.reached.get_or_insert(now);
        }
    }

    /// What went out for this wish was refused on its way; when to write it again stays as it was. So does the
    /// doubt: something that went out before may have come.
    pub(crate) fn turned_away(&mut self, version: u64, why: String, now: Instant) {
        if let Some(effort) = self.effort_for(version) {
            effort.refusal = Some(why);
            effort.reached.get_or_insert(now);
        }
    }

    /// The effort, if it is for this wish.
    fn effort_for(&mut self, version: u64) -> Option<&mut Effort> {
        self.effort.as_mut().filter(|_| self.version == Some(version))
    }

    /// The device was reached and would not have it.
    pub(crate) fn refused(&mut self, why: String, now: Instant) {
        if let Some(effort) = &mut self.effort {
            effort.refusal = Some(why);
            effort.reached.get_or_insert(now);
            effort.later(now);
        }
    }

    /// Whether the device was reached and has yet to report the value.
    pub(crate) fn is_awaited(&self) -> bool {
        self.effort
            .as_ref()
            .is_some_and(|effort| effort.reached.is_some())
    }

    /// It went out, and nobody answered: the device may have taken it, or anything else of it.
    pub(crate) fn unanswered(&mut self, now: Instant) {
        self.in_doubt = true;
        self.unreachable(now);
        if let Some(effort) = &mut self.effort {
            effort.unanswered = true;
        }
    }

    /// The device answers something else: it is there, and just silent on what is written. So its time runs.
    pub(crate) fn answers(&mut self, now: Instant) {
        if let Some(effort) = &mut self.effort
            && effort.unanswered
        {
            effort.reached.get_or_insert(now);
        }
    }

    /// Nobody was reached.
    pub(crate) fn unreachable(&mut self, now: Instant) {
        if let Some(effort) = &mut self.effort {
            effort.later(now);
        }
    }

    /// The device can be reached again: what waited for it is due.
    pub(crate) fn reachable(&mut self, now: Instant) {
        if let Some(effort) = &mut self.effort
            && effort.reached.is_none()
        {
            effort.next = now;
            effort.wait = FIRST_WAIT;
        }
    }

    fn take(&mut self, wish: &Wish, manner: Manner, now: Instant) {
        let new = self.version != Some(wish.version);
        self.version = Some(wish.version);
        if new {
            // One that the device has fulfilled was written by an earlier run: it is as any other that a
            // person has changed since. The last report may be older than what was written since.
            let unmet = !wish.done || (!wish.met && manner.enforce);
            self.effort = (unmet || (self.in_doubt && wish.met)).then(|| Effort {
                owed: self.in_doubt && wish.met,
                ..Effort::begin(now)
            });
            return;
        }
        // What differs now and equals it later was said after what is in doubt.
        if let Some(effort) = &mut self.effort {
            effort.owed &= wish.met;
        }
        let is_owed = self.effort.as_ref().is_some_and(|effort| effort.owed);
        // An old report that happens to equal it settles nothing.
        if wish.met && wish.done && !is_owed {
            self.effort = None;
            self.in_doubt = false;
        } else if !wish.met && self.effort.is_none() && manner.enforce && !self.in_doubt {
            self.effort = Some(Effort::begin(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANNER: Manner = Manner {
        confirm_timeout: Duration::from_secs(30),
        enforce: false,
    };

    fn wish(value: &str, version: u64, met: bool) -> Wish {
        Wish {
            value: value.to_owned(),
            version,
            met,
            done: met,
        }
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_wish_is_written_once_and_settled_by_the_report() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        assert_eq!(
            writing.next(Some(&wish("21", 1, false)), MANNER, now),
            Step::Write("21".into())
        );
        writing.sent(now);
        assert_eq!(
            writing.next(Some(&wish("21", 1, false)), MANNER, at(now, 1)),
            Step::Wait(Some(at(now, 2)))
        );
        assert_eq!(
            writing.next(Some(&wish("21", 1, true)), MANNER, at(now, 1)),
            Step::Wait(None)
        );
    }

    #[test]
    fn a_device_that_has_the_value_already_is_left_alone() {
        let mut writing = Writing::default();
        assert_eq!(
            writing.next(Some(&wish("21", 1, true)), MANNER, Instant::now()),
            Step::Wait(None)
        );
    }

    #[test]
    fn an_unconfirmed_write_is_repeated_with_back_off_and_given_up_once() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let unmet = wish("ON", 1, false);
        let (mut writes, mut now) = (Vec::new(), start);
        let why = loop {
            match writing.next(Some(&unmet), MANNER, now) {
                Step::Write(_) => {
                    writes.push((now - start).as_secs());
                    writing.sent(now);
                }
                Step::Wait(until) => now = until.unwrap(),
                Step::GiveUp { why, .. } => break why,
            }
        };
        assert_eq!((writes, why), (vec![0, 2, 6, 14], "NotConfirmed".to_owned()));
        assert_eq!(now, at(start, 30));
        assert_eq!(writing.next(Some(&unmet), MANNER, at(now, 100)), Step::Wait(None));
    }

    #[test]
    fn the_time_in_which_nobody_is_reached_does_not_count() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let unmet = wish("ON", 1, false);
        let mut now = start;
        while now < at(start, 3600) {
            match writing.next(Some(&unmet), MANNER, now) {
                Step::Write(_) => writing.unreachable(now),
                Step::Wait(until) => now = until.unwrap(),
                Step::GiveUp { .. } => panic!("given up"),
            }
        }
        writing.reachable(now);
        assert_eq!(writing.next(Some(&unmet), MANNER, now), Step::Write("ON".into()));
    }

    #[test]
    fn a_refusal_is_the_reason_that_is_given() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let unmet = wish("900", 1, false);
        let _ = writing.next(Some(&unmet), MANNER, start);
        writing.refused("exception 3".into(), start);
        assert!(matches!(
            writing.next(Some(&unmet), MANNER, at(start, 1)),
            Step::Wait(Some(_))
        ));
        assert_eq!(
            writing.next(Some(&unmet), MANNER, at(start, 30)),
            Step::GiveUp {
                version: 1,
                why: "NotConfirmed: exception 3".into()
            }
        );
    }

    #[test]
    fn a_person_at_the_switch_wins_unless_the_property_is_enforced() {
        let enforce = Manner {
            enforce: true,
            ..MANNER
        };
        for (manner, after) in [(MANNER, Step::Wait(None)), (enforce, Step::Write("ON".into()))] {
            let (mut writing, now) = (Writing::default(), Instant::now());
            let _ = writing.next(Some(&wish("ON", 1, false)), manner, now);
            writing.sent(now);
            let _ = writing.next(Some(&wish("ON", 1, true)), manner, now);
            assert_eq!(
                writing.next(Some(&wish("ON", 1, false)), manner, at(now, 60)),
                after
            );
        }
    }

    #[test]
    fn what_was_changed_by_hand_while_edgecore_was_away_stays_unless_the_property_is_enforced() {
        let enforce = Manner {
            enforce: true,
            ..MANNER
        };
        let done = Wish {
            done: true,
            ..wish("ON", 1, false)
        };
        for (manner, first) in [(MANNER, Step::Wait(None)), (enforce, Step::Write("ON".into()))] {
            let (mut writing, now) = (Writing::default(), Instant::now());
            assert_eq!(writing.next(Some(&done), manner, now), first);
        }
        // Another wish is another matter.
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&done), MANNER, now);
        let next = writing.next(Some(&wish("OFF", 2, false)), MANNER, now);
        assert_eq!(next, Step::Write("OFF".into()));
    }

    #[test]
    fn an_old_report_that_equals_a_new_wish_keeps_it_from_nothing_and_settles_nothing() {
        let old = Wish {
            done: false,
            ..wish("off", 2, true)
        };
        let (mut writing, now) = (Writing::default(), Instant::now());
        assert_eq!(writing.next(Some(&old), MANNER, now), Step::Write("off".into()));
        writing.sent(now);
        let again = Step::Wait(Some(at(now, 2)));
        assert_eq!(writing.next(Some(&old), MANNER, now), again);
        let said = wish("off", 2, true);
        assert_eq!(writing.next(Some(&said), MANNER, now), Step::Wait(None));
    }

    #[test]
    fn an_enforced_value_is_not_written_for_its_age() {
        let enforce = Manner {
            enforce: true,
            ..MANNER
        };
        let (mut writing, now) = (Writing::default(), Instant::now());
        let done = wish("ON", 1, true);
        assert_eq!(writing.next(Some(&done), enforce, now), Step::Wait(None));
        assert_eq!(writing.next(Some(&done), enforce, at(now, 60)), Step::Wait(None));
    }

    #[test]
    fn a_wish_that_is_taken_back_before_it_was_confirmed_is_written_all_the_same() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("21", 1, false)), MANNER, now);
        writing.sent(now);
        // The device still says 20; whether it took the 21 nobody knows.
        assert_eq!(
            writing.next(Some(&wish("20", 2, true)), MANNER, now),
            Step::Write("20".into())
        );
        assert_eq!(
            writing.next(Some(&wish("20", 2, true)), MANNER, now),
            Step::Write("20".into())
        );
        writing.sent(now);
        assert_eq!(
            writing.next(Some(&wish("20", 2, true)), MANNER, now),
            Step::Wait(None)
        );
    }

    #[test]
    fn a_device_that_answers_reads_and_no_writes_is_given_up() {
        for met in [false, true] {
            let (mut writing, start) = (Writing::default(), Instant::now());
            let _ = writing.next(Some(&wish("on", 1, false)), MANNER, start);
            writing.unanswered(start);
            let now = wish("off", 2, met);
            let _ = writing.next(Some(&now), MANNER, at(start, 1));
            writing.unanswered(at(start, 1));
            // As long as it answers nothing at all its time stands still.
            assert!(matches!(
                writing.next(Some(&now), MANNER, at(start, 600)),
                Step::Write(_)
            ));
            writing.unanswered(at(start, 600));
            writing.answers(at(start, 601));
            writing.answers(at(start, 620));
            let gives_up = Step::GiveUp {
                version: 2,
                why: "NotConfirmed".to_owned(),
            };
            assert_eq!(writing.next(Some(&now), MANNER, at(start, 631)), gives_up);
            let settled = Wish { done: true, ..now };
            assert_eq!(
                writing.next(Some(&settled), MANNER, at(start, 700)),
                Step::Wait(None)
            );
        }
    }

    #[test]
    fn a_wish_that_was_given_up_is_not_written_when_it_goes_and_comes_back() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let unmet = wish("80", 1, false);
        let _ = writing.next(Some(&unmet), MANNER, start);
        writing.sent(start);
        let end = writing.next(Some(&unmet), MANNER, at(start, 30));
        assert!(matches!(end, Step::GiveUp { .. }));
        assert_eq!(writing.next(None, MANNER, at(start, 40)), Step::Wait(None));
        let done = Wish { done: true, ..unmet };
        assert_eq!(writing.next(Some(&done), MANNER, at(start, 50)), Step::Wait(None));
    }

    #[test]
    fn a_wish_that_is_taken_back_after_an_answer_was_lost_is_written_until_it_went_out() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("on", 1, false)), MANNER, start);
        writing.unanswered(start);
        let back = wish("off", 2, true);
        let off = Step::Write("off".into());
        assert_eq!(writing.next(Some(&back), MANNER, at(start, 1)), off);
        writing.unanswered(at(start, 1));
        writing.reachable(at(start, 60));
        assert_eq!(writing.next(Some(&back), MANNER, at(start, 60)), off);
        writing.sent(at(start, 60));
        assert_eq!(writing.next(Some(&back), MANNER, at(start, 60)), Step::Wait(None));
    }

    #[test]
    fn a_device_that_says_the_value_whose_answer_was_lost_is_left_alone() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
        writing.unanswered(now);
        let settled = Step::Wait(None);
        assert_eq!(
            writing.next(Some(&wish("on", 1, true)), MANNER, at(now, 9)),
            settled
        );
        assert_eq!(
            writing.next(Some(&wish("on", 1, true)), MANNER, at(now, 9)),
            settled
        );
    }

    #[test]
    fn what_never_went_out_leaves_no_doubt() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
        writing.unreachable(now);
        assert_eq!(
            writing.next(Some(&wish("off", 2, true)), MANNER, at(now, 9)),
            Step::Wait(None)
        );
    }

    #[test]
    fn what_went_out_and_never_came_is_not_given_up_and_is_due_when_the_device_is_back() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let unmet = wish("OFF", 1, false);
        let mut now = start;
        while now < at(start, 60) {
            match writing.next(Some(&unmet), MANNER, now) {
                Step::Write(_) => writing.unanswered(now),
                Step::Wait(until) => now = until.unwrap(),
                Step::GiveUp { .. } => panic!("given up"),
            }
        }
        writing.reachable(now);
        let off = Step::Write("OFF".into());
        assert_eq!(writing.next(Some(&unmet), MANNER, now), off);
        writing.unanswered(now);
        writing.arrived(1, at(now, 1));
        assert_eq!(
            writing.next(Some(&unmet), MANNER, at(now, 1)),
            Step::Wait(Some(at(now, 2)))
        );
        assert!(matches!(
            writing.next(Some(&unmet), MANNER, at(now, 31)),
            Step::GiveUp { version: 1, .. }
        ));
    }

    #[test]
    fn what_arrives_of_an_earlier_wish_says_nothing_of_a_later_one() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
        writing.unanswered(now);
        let back = wish("off", 2, true);
        let off = Step::Write("off".into());
        assert_eq!(writing.next(Some(&back), MANNER, now), off);
        writing.unanswered(now);
        writing.arrived(1, now);
        writing.reachable(now);
        assert_eq!(writing.next(Some(&back), MANNER, now), off);
    }

    #[test]
    fn what_is_refused_on_its_way_is_written_again_in_its_time_and_then_given_up_with_the_reason() {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let unmet = wish("ON", 2, false);
        let _ = writing.next(Some(&unmet), MANNER, start);
        writing.unanswered(start);
        writing.turned_away(1, "of an earlier wish".to_owned(), start);
        assert!(!writing.is_awaited());
        writing.turned_away(2, "no".to_owned(), at(start, 1));
        let again = Step::Wait(Some(at(start, 2)));
        assert_eq!(writing.next(Some(&unmet), MANNER, at(start, 1)), again);
        assert_eq!(
            writing.next(Some(&unmet), MANNER, at(start, 31)),
            Step::GiveUp {
                version: 2,
                why: "NotConfirmed: no".to_owned()
            }
        );
    }

    #[test]
    fn a_wish_that_is_gone_is_not_written() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("21", 1, false)), MANNER, now);
        assert_eq!(writing.next(None, MANNER, now), Step::Wait(None));
    }
}
