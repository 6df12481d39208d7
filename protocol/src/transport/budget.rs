//! What all connections of a process together may have to hold for their peers.
//!
//! Credit is a promise to hold what comes. Each connection has a [`Share`]: [`SESSION`] bytes for as
//! long as it lives, and more while there is more. Half of the budget is kept for new connections;
//! what one may have of the other half is a part of what is free there, so that the first who ask
//! leave something to the last, and who has much gives some of it back as it reads.
//!
//! **Invariant:** all shares together never exceed the budget.

use std::sync::Arc;

use parking_lot::Mutex;

/// What every connection has.
pub const SESSION: u64 = 16 << 10;
/// Over [`SESSION`], a connection may have this part of what it has there and what is free.
const PART: u64 = 32;

/// The budget of a process. Clones share it.
#[derive(Clone, Debug)]
pub struct ReceiveBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    total: u64,
    promised: Mutex<Promised>,
}

/// What shares hold.
#[derive(Debug, Default)]
struct Promised {
    /// Up to [`SESSION`] of each.
    sessions: u64,
    /// Over that.
    over: u64,
}

impl ReceiveBudget {
    /// A budget of so many bytes.
    pub fn new(total: u64) -> Self {
        let promised = Mutex::default();
        Self(Arc::new(Budget { total, promised }))
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.0.total
    }

    /// What is promised to peers.
    pub fn promised(&self) -> u64 {
        let promised = self.0.promised.lock();
        promised.sessions + promised.over
    }

    /// The share of one more connection; none when there is no room for it.
    pub(super) fn share(&self) -> Option<Share> {
        let mut promised = self.0.promised.lock();
        let sessions = promised.sessions + SESSION;
        (sessions + promised.over <= self.0.total).then(|| {
            promised.sessions = sessions;
            Share {
                budget: self.clone(),
                over: 0,
            }
        })
    }

    /// What shares may hold over [`SESSION`].
    fn most_over(&self, promised: &Promised) -> u64 {
        (self.0.total / 2).min(self.0.total - promised.sessions)
    }

    fn free(&self) -> u64 {
        let promised = self.0.promised.lock();
        self.most_over(&promised).saturating_sub(promised.over)
    }
}

/// What one connection holds of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: ReceiveBudget,
    /// Over [`SESSION`].
    over: u64,
}

impl Share {
    pub(super) const fn held(&self) -> u64 {
        SESSION + self.over
    }

    /// What it should hold at most now.
    pub(super) fn most(&self) -> u64 {
        SESSION + (self.over + self.budget.free()) / PART
    }

    /// Whether little is free: who does not need something gives it back.
    pub(super) fn is_tight(&self) -> bool {
        self.budget.free() < self.budget.total() / 8
    }

    /// Holds `bytes` from now on, or [`SESSION`]; false, and nothing changed, when there is not so
    /// much.
    pub(super) fn set(&mut self, bytes: u64) -> bool {
        let over = bytes.saturating_sub(SESSION);
        if over == self.over {
            // Most often: the budget is everybody's, and so is its lock.
            return true;
        }
        let mut promised = self.budget.0.promised.lock();
        let all = promised.over - self.over + over;
        if over > self.over && all > self.budget.most_over(&promised) {
            return false;
        }
        promised.over = all;
        drop(promised);
        self.over = over;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut promised = self.budget.0.promised.lock();
        promised.sessions -= SESSION;
        promised.over -= self.over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_more_than_there_is_room_for_gets_nothing() {
        let budget = ReceiveBudget::new(3 * SESSION + 1);
        let mut shares: Vec<_> = std::iter::from_fn(|| budget.share()).collect();
        assert_eq!((shares.len(), budget.promised()), (3, 3 * SESSION));
        assert!(!shares[0].set(SESSION + 2) && shares[0].set(SESSION + 1));
        shares.clear();
        assert_eq!(budget.promised(), 0);
    }

    #[test]
    fn half_of_the_budget_is_for_connections_to_come() {
        let budget = ReceiveBudget::new(8 * SESSION);
        let mut first = budget.share().unwrap();
        assert!(!first.set(5 * SESSION + 1) && first.set(5 * SESSION));
        let others: Vec<_> = std::iter::from_fn(|| budget.share()).collect();
        assert_eq!(others.len(), 3);
        assert!(first.is_tight() && first.set(4 * SESSION) && !first.set(5 * SESSION + 1));
    }

    #[test]
    fn who_has_much_gives_some_back_and_all_have_the_same_in_the_end() {
        let budget = ReceiveBudget::new(256 << 20);
        let mut shares: Vec<_> = (0..1000).filter_map(|_| budget.share()).collect();
        for _ in 0..200 {
            for share in &mut shares {
                assert!(share.set(share.most()));
            }
        }
        let held = || shares.iter().map(Share::held);
        let (least, most) = (held().min().unwrap(), held().max().unwrap());
        assert!(most - least < 20 << 10 && least > 100 << 10, "{least} to {most}");
    }
}
