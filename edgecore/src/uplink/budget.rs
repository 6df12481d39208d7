//! What the classes of traffic may cost in a day, and what they have cost.
//!
//! [`Day`] counts, from the totals of [`Traffic`]; [`Budgets`] asks it before a tunnel is opened and
//! before an event is sent, and keeps its count over restarts. Until midnight (UTC) a spent budget
//! refuses new tunnels, while those that are open go on, and lets events wait in the outbox; nothing
//! else is ever held up.
//!
//! **Invariant:** flash is written only when a sixteenth of a budget has gone since the last time, and
//! at a stop; a crash forgets no more than that.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::class::Class;
use protocol::clock::Clock;
use protocol::transport::Traffic;
use thiserror::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Budget, written};
use crate::store::{Batch, Db, Table};

/// The row of [`Table::Meta`].
const ROW: &str = "budgets";
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// What part of a budget is worth a write.
const WORTH: u64 = 16;
const DAY_MS: u64 = 86_400_000;
const CLASSES: usize = Class::ALL.len();

/// No new tunnel, or no event, until then.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the budget of class {} is spent: {} a day; it renews at {renews}", class.name(), written(*day))]
pub struct Spent {
    /// Whose.
    pub class: Class,
    /// How much it is.
    pub day: u64,
    /// When there is more.
    pub renews: Timestamp,
}

/// How one budget is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// What it is.
    pub budget: Budget,
    /// What was used of the day's.
    pub used: u64,
    /// When the day ends.
    pub renews: Timestamp,
}

/// The bytes of one day, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Day {
    /// Days since 1970, UTC.
    number: u64,
    /// Before this run began.
    before: [u64; CLASSES],
    /// The totals of this run when the day, or the run, began.
    began: [u64; CLASSES],
}

impl Day {
    /// Begins anew on any other day: a clock that was wrong must not hold a budget back for years.
    const fn turn(&mut self, number: u64, totals: [u64; CLASSES]) {
        if self.number != number {
            *self = Self {
                number,
                before: [0; CLASSES],
                began: totals,
            };
        }
    }

    fn used(&self, totals: [u64; CLASSES]) -> [u64; CLASSES] {
        std::array::from_fn(|n| self.before[n] + totals[n].saturating_sub(self.began[n]))
    }
}

/// What was written, to compare with.
fn encode(number: u64, used: [u64; CLASSES]) -> Bytes {
    let numbers = std::iter::once(number).chain(used);
    numbers.flat_map(u64::to_be_bytes).collect()
}

/// None of what another version wrote otherwise.
fn decode(bytes: &[u8]) -> Option<Day> {
    let mut numbers = bytes
        .chunks_exact(8)
        .filter_map(|chunk| Some(u64::from_be_bytes(chunk.try_into().ok()?)));
    let number = numbers.next()?;
    let used: Vec<_> = numbers.collect();
    Some(Day {
        number,
        before: used.try_into().ok()?,
        began: [0; CLASSES],
    })
}

/// The budgets of this node, and what counts against them.
#[derive(Debug)]
pub struct Budgets {
    limits: Vec<Budget>,
    traffic: Arc<Traffic>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    day: Day,
    /// What the store has.
    kept: (u64, [u64; CLASSES]),
    /// The day on which the log was told of each class.
    told: [u64; CLASSES],
}

impl Budgets {
    /// Budgets, with what the last run counted. What cannot be read is no reason not to start.
    pub async fn load(budgets: Vec<Budget>, db: &Db, clock: Clock) -> Self {
        let stored = if budgets.iter().any(|budget| budget.day.is_some()) {
            db.get(Table::Meta, ROW).await
        } else {
            Ok(None)
        };
        let day = stored
            .inspect_err(
                |error| tracing::warn!(%error, "the day's traffic was not read; it counts from zero"),
            )
            .ok()
            .flatten()
            .and_then(|bytes| decode(&bytes))
            .unwrap_or_default();
        Self::with(budgets, day, clock)
    }

    /// No budgets at all.
    pub fn none(clock: Clock) -> Self {
        Self::with(Vec::new(), Day::default(), clock)
    }

    fn with(budgets: Vec<Budget>, day: Day, clock: Clock) -> Self {
        let rates = budgets
            .iter()
            .filter_map(|budget| Some((budget.class, budget.second?)));
        Self {
            traffic: Arc::new(Traffic::limited(rates)),
            limits: budgets,
            clock,
            state: Mutex::new(State {
                kept: (day.number, day.before),
                day,
                ..State::default()
            }),
        }
    }

    /// What counts.
    pub const fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Whether a tunnel of `class` may be opened, or a message of it be sent, now.
    pub fn admit(&self, class: Class) -> Result<(), Spent> {
        let limit = self
            .limits
            .iter()
            .find_map(|budget| budget.day.filter(|_| budget.class == class));
        let Some(day) = limit else {
            return Ok(());
        };
        let (number, used) = self.used();
        if used[class as usize] < day {
            return Ok(());
        }
        let renews = end_of(number);
        let spent = Spent { class, day, renews };
        let told = std::mem::replace(&mut self.state.lock().told[class as usize], number);
        if told != number {
            let then = if class == Class::MessagesNormal {
                "events wait"
            } else {
                "new tunnels are refused"
            };
            tracing::warn!("{spent}; until then {then}");
        }
        Err(spent)
    }

    /// How they are.
    pub fn states(&self) -> Vec<BudgetState> {
        let (number, used) = self.used();
        let state = |budget: &Budget| BudgetState {
            budget: *budget,
            used: used[budget.class as usize],
            renews: end_of(number),
        };
        self.limits.iter().map(state).collect()
    }

    /// The number of today, and what was used of it.
    fn used(&self) -> (u64, [u64; CLASSES]) {
        let totals = Class::ALL.map(|class| {
            let carried = self.traffic.of(class);
            carried.sent + carried.received
        });
        let mut state = self.state.lock();
        state.day.turn(self.clock.now_millis() / DAY_MS, totals);
        (state.day.number, state.day.used(totals))
    }

    /// Keeps the count until `stop`, and once more then.
    pub async fn keep(&self, db: &Db, stop: &CancellationToken) {
        if self.limits.iter().all(|budget| budget.day.is_none()) {
            return;
        }
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            self.keep_now(db, stop.is_cancelled()).await;
        }
    }

    async fn keep_now(&self, db: &Db, last: bool) {
        let now = self.used();
        let kept = self.state.lock().kept;
        if now == kept || !(last || self.is_worth_keeping(now, kept)) {
            return;
        }
        let batch = Batch::new().put(Table::Meta, ROW, encode(now.0, now.1));
        match db.commit(batch).await {
            Ok(()) => self.state.lock().kept = now,
            Err(error) => tracing::warn!(%error, "the day's traffic was not kept"),
        }
    }

    fn is_worth_keeping(&self, now: (u64, [u64; CLASSES]), kept: (u64, [u64; CLASSES])) -> bool {
        let before = |n: usize| if now.0 == kept.0 { kept.1[n] } else { 0 };
        self.limits.iter().any(|budget| {
            let n = budget.class as usize;
            budget
                .day
                .is_some_and(|day| now.1[n].saturating_sub(before(n)) >= (day / WORTH).max(1))
        })
    }
}

fn end_of(number: u64) -> Timestamp {
    let end = Duration::from_millis(DAY_MS.saturating_mul(number.saturating_add(1)));
    let end = SystemTime::UNIX_EPOCH.checked_add(end);
    end.and_then(|end| Timestamp::try_from(end).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
impl Budgets {
    /// As if interactive tunnels had carried so much today.
    pub(super) fn carry(&self, bytes: u64) {
        self.used();
        self.state.lock().day.before[Class::Interactive as usize] += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1600;

    async fn budgets(db: &Db) -> Budgets {
        let budget = Budget {
            class: Class::Interactive,
            day: Some(LIMIT),
            second: None,
        };
        Budgets::load(vec![budget], db, Clock::system()).await
    }

    #[tokio::test]
    async fn a_spent_budget_says_whose_it_is_and_when_it_renews_and_touches_nothing_else() {
        let budgets = budgets(&Db::in_memory()).await;
        budgets.carry(LIMIT - 1);
        assert_eq!(budgets.admit(Class::Interactive), Ok(()));
        budgets.carry(1);
        let spent = budgets.admit(Class::Interactive).unwrap_err().to_string();
        assert!(
            spent.starts_with("the budget of class interactive is spent: 1Ki a day; it renews at 2"),
            "{spent}"
        );
        assert!(spent.ends_with("T00:00:00Z"), "{spent}");
        for class in Class::ALL
            .into_iter()
            .filter(|class| *class != Class::Interactive)
        {
            assert_eq!(budgets.admit(class), Ok(()));
        }
    }

    #[test]
    fn another_day_begins_from_zero_whichever_way_the_clock_went() {
        let mut totals = [0; CLASSES];
        let mut day = Day::default();
        for number in [20_000, 20_001, 19_000] {
            day.turn(number, totals);
            assert_eq!(day.used(totals), [0; CLASSES]);
            totals[3] += 50;
            day.turn(number, totals);
            assert_eq!(day.used(totals)[3], 50);
        }
    }

    #[tokio::test]
    async fn the_count_survives_a_restart_and_is_written_seldom() {
        let db = Db::in_memory();
        let stored = async || db.get(Table::Meta, ROW).await.unwrap();
        let first = budgets(&db).await;
        first.carry(LIMIT / WORTH - 1);
        first.keep_now(&db, false).await;
        assert_eq!(stored().await, None);
        first.carry(1);
        first.keep_now(&db, false).await;
        let once = stored().await;
        assert!(once.is_some());
        first.carry(7);
        first.keep_now(&db, false).await;
        assert_eq!(stored().await, once);
        let stop = CancellationToken::new();
        stop.cancel();
        first.carry(LIMIT - LIMIT / WORTH - 7);
        first.keep_now(&db, true).await;

        let second = budgets(&db).await;
        assert!(second.admit(Class::Interactive).is_err());
        assert_eq!(second.states()[0].used, LIMIT);
    }

    #[test]
    fn what_another_version_wrote_is_passed_over() {
        let used = [1, 2, 3, 4, 5, 6, 7];
        let day = decode(&encode(9, used)).unwrap();
        assert_eq!((day.number, day.before), (9, used));
        assert_eq!(decode(&encode(9, used)[..32]), None);
        assert_eq!(decode(b""), None);
    }
}
