//! What the pods of the node were given, by UID.
//!
//! **Invariant:** of two pods that want the same rest of the node one gets it: a claim is judged and written
//! down in one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pods::resources::Amounts;

/// What each pod requests, as it was given.
#[derive(Debug)]
pub struct Ledger {
    given: Mutex<BTreeMap<String, Amounts>>,
    freed: watch::Sender<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            given: Mutex::default(),
            freed: watch::Sender::new(0),
        }
    }
}

impl Ledger {
    /// The pod has this, whatever there is.
    pub fn note(&self, uid: &str, amounts: Amounts) {
        let before = self.given.lock().insert(uid.to_owned(), amounts);
        if before.is_some_and(|before| before != amounts) {
            self.tell();
        }
    }

    /// The pod has nothing any more.
    pub fn release(&self, uid: &str) {
        if self.given.lock().remove(uid).is_some() {
            self.tell();
        }
    }

    /// Only these pods have anything.
    pub fn keep(&self, keep: impl Fn(&str) -> bool) {
        let mut given = self.given.lock();
        let before = given.len();
        given.retain(|uid, _| keep(uid));
        if given.len() != before {
            self.tell();
        }
    }

    /// Gives the pod `amounts` if `judge`, told what the others have, does not object.
    pub fn claim<E>(
        &self,
        uid: &str,
        amounts: Amounts,
        judge: impl FnOnce(Amounts) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut given = self.given.lock();
        let others = given.iter().filter(|(other, _)| *other != uid);
        let others = others.fold(Amounts::default(), |sum, (_, amounts)| sum.plus(*amounts));
        judge(others)?;
        if given.insert(uid.to_owned(), amounts) != Some(amounts) {
            self.tell();
        }
        Ok(())
    }

    /// Changes whenever there may be more room than before.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    fn tell(&self) {
        self.freed.send_modify(|times| *times = times.wrapping_add(1));
    }
}
