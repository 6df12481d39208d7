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
    /// The twin takes this wish for one in doubt, and it is none, or none any more: say so, once.
    Settle {
        /// The wish.
        version: u64,
    },
}

/// Where the writing of one property stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writing {
    version: Option<u64>,
    effort: Option<Effort>,
    /// The device may have another value than it last reported: something was written to it and
    /// never confirmed. What an earlier process has written the twin tells.
    in_doubt: bool,
    /// The last wish that was said to be in doubt no more.
    settled: Option<u64>,
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
            return self.rest(wish);
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

    /// Nothing is to be done; the twin may have to be told so.
    fn rest(&mut self, wish: &Wish) -> Step {
        let version = wish.version;
        if !wish.in_doubt || self.in_doubt || self.settled == Some(version) {
            return Step::Wait(None);
        }
        self.settled = Some(version);
        Step::Settle { version }
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
        self.in_doubt |= self.version.is_none() && wish.in_doubt;
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
mod tests;
