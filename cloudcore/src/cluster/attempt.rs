//! One write of a status: which requests it takes, and in which order. Pure.
//!
//! ```text
//! cached, covered ────────────────► Write ──► done
//! cached, not covered ──► Lease ──ours──^ `──conflict──► Read ──► Lease ──ours──► Write
//! ```
//!
//! **Invariant:** the Lease is read after the state that is written over, never before: a newer session
//! that comes later makes another revision of it, and the write conflicts.

/// Conflicts in a row after which the outbox may try again later.
const TRIES: usize = 3;

/// What to ask the API server for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The object as it is.
    Read,
    /// The Lease: whether this session still has it.
    Lease,
    /// The write, over the state that was read last.
    Write,
}

/// A write under way.
#[derive(Debug, Default)]
pub struct Attempt {
    conflicts: usize,
}

impl Attempt {
    /// The first request, given whether the cached state, if there is one, is
    /// [covered](super::fence::Proof::covers).
    pub const fn first(cached: Option<bool>) -> Ask {
        match cached {
            None => Ask::Read,
            Some(true) => Ask::Write,
            Some(false) => Ask::Lease,
        }
    }

    /// The object was read; whether that state is covered.
    pub const fn after_read(&self, covered: bool) -> Ask {
        if covered && self.conflicts == 0 {
            Ask::Write
        } else {
            Ask::Lease
        }
    }

    /// The Lease was read, and is ours.
    pub const fn after_lease() -> Ask {
        Ask::Write
    }

    /// The write met a conflict: what to ask for next, if it is to be tried again at all.
    pub fn after_conflict(&mut self) -> Option<Ask> {
        self.conflicts += 1;
        (self.conflicts < TRIES).then_some(Ask::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_conflict_the_lease_is_read_after_the_object() {
        let mut attempt = Attempt::default();
        assert_eq!(Attempt::first(Some(true)), Ask::Write);
        assert_eq!(attempt.after_conflict(), Some(Ask::Read));
        assert_eq!(attempt.after_read(true), Ask::Lease);
        assert_eq!(Attempt::after_lease(), Ask::Write);
        assert_eq!(attempt.after_conflict(), Some(Ask::Read));
        assert_eq!(attempt.after_conflict(), None);
    }

    #[test]
    fn what_a_newer_session_may_have_written_is_not_written_over_unasked() {
        assert_eq!(Attempt::first(Some(false)), Ask::Lease);
        assert_eq!(Attempt::default().after_read(false), Ask::Lease);
        assert_eq!(Attempt::default().after_read(true), Ask::Write);
    }
}
