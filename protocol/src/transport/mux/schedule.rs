//! Whose turn it is: strict priority, and a floor for whoever waits.
//!
//! **Invariant:** each class that waits gets at least 2 % of the bytes; nothing but such a floor,
//! one chunk of it at a time, ever goes before a more urgent class.

use crate::class::Class;

/// What each waiting class gets, in percent.
const FLOOR: u64 = 2;

/// Which classes have something to send.
pub(in crate::transport) type Waiting = [bool; Class::ALL.len()];

/// Chooses between classes.
#[derive(Debug, Default)]
pub(in crate::transport) struct Scheduler {
    /// What each class should have had, in hundredths of a byte.
    owed: [u64; Class::ALL.len()],
    /// The last chunk was somebody's floor: the next is the most urgent one.
    floor_was_last: bool,
}

impl Scheduler {
    /// The class whose chunk, of at most `chunk` bytes, goes next.
    pub(in crate::transport) fn next(&mut self, waiting: Waiting, chunk: usize) -> Option<Class> {
        let urgent = Class::ALL.into_iter().find(|class| waiting[index(*class)])?;
        let due = |class: &Class| waiting[index(*class)] && self.owed[index(*class)] >= chunk as u64 * 100;
        let floor = Class::ALL
            .into_iter()
            .filter(due)
            .max_by_key(|class| self.owed[index(*class)])
            .filter(|class| *class != urgent && !self.floor_was_last);
        self.floor_was_last = floor.is_some();
        Some(floor.unwrap_or(urgent))
    }

    /// `bytes` of `class` went, while `waiting` had something to send.
    pub(in crate::transport) fn sent(&mut self, class: Class, bytes: usize, waiting: Waiting) {
        let bytes = bytes as u64;
        for (owed, waits) in self.owed.iter_mut().zip(waiting) {
            // Who has nothing to say saves nothing up.
            *owed = if waits { *owed + bytes * FLOOR } else { 0 };
        }
        let mine = &mut self.owed[index(class)];
        *mine = mine.saturating_sub(bytes * 100);
    }
}

/// The place of a class in [`Class::ALL`].
pub(in crate::transport) const fn index(class: Class) -> usize {
    class as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that each class got in `rounds` chunks while all of `waiting` had more to send.
    fn shares(waiting: Waiting, rounds: usize, chunk: usize) -> [usize; 7] {
        let (mut scheduler, mut got) = (Scheduler::default(), [0; 7]);
        for _ in 0..rounds {
            let class = scheduler.next(waiting, chunk).unwrap();
            got[index(class)] += chunk;
            scheduler.sent(class, chunk, waiting);
        }
        got
    }

    #[test]
    fn every_waiting_class_gets_two_percent_and_the_most_urgent_the_rest() {
        for chunk in [1024, 16 << 10] {
            let got = shares([true; 7], 10_000, chunk);
            let floor = 10_000 * chunk * 2 / 100;
            for low in &got[1..] {
                assert!((floor - chunk..=floor + chunk).contains(low), "{got:?}");
            }
            assert!(got[0] >= 10_000 * chunk * 87 / 100, "{got:?}");
        }
    }

    #[test]
    fn a_class_that_waits_alone_gets_everything() {
        let mut bulk = [false; 7];
        bulk[6] = true;
        assert_eq!(shares(bulk, 10, 100)[6], 1000);
    }

    #[test]
    fn the_most_urgent_waits_for_one_floor_chunk_at_most() {
        let (mut scheduler, mut low) = (Scheduler::default(), [true; 7]);
        low[0] = false;
        for _ in 0..500 {
            let class = scheduler.next(low, 1000).unwrap();
            scheduler.sent(class, 1000, low);
        }
        let turns: Vec<_> = (0..2).map(|_| scheduler.next([true; 7], 1000).unwrap()).collect();
        assert!(turns.contains(&Class::Control), "{turns:?}");
    }

    #[test]
    fn who_had_nothing_to_say_is_owed_nothing() {
        let mut scheduler = Scheduler::default();
        let mut desired = [false; 7];
        desired[1] = true;
        for _ in 0..1000 {
            scheduler.sent(Class::Desired, 1000, desired);
        }
        assert_eq!(scheduler.next([true; 7], 1000), Some(Class::Control));
        assert!(scheduler.owed.iter().all(|owed| *owed == 0 || *owed < 100_000));
    }
}
