//! What came in and is not acknowledged yet, and what came in before. Pure.
//!
//! The broker repeats, after a reconnect, what it saw no acknowledgement of: in the order in which
//! it delivered it, each marked as a repeat. Most of that was taken already.
//!
//! ```text
//! admit ──► open ──finish──► done ──poll_ack, in order of arrival──► acknowledged
//!             └──lost: the same message comes again and finds its own place by its hash
//! ```
//!
//! **Invariant:** acknowledgements leave in the order of arrival, each once its own message and all
//! before it are done.

use std::collections::{HashSet, VecDeque};

use protocol::devices::DeviceName;

/// How many messages are remembered: as many as a broker has in flight to one client here.
pub(super) const REMEMBERED: usize = 4096;

/// A message, numbered as it came.
pub(super) type Arrival = u64;

/// What tells a message from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of topic and payload.
    pub(super) hash: [u8; 16],
    /// Whose it is; none if it is no device's.
    pub(super) device: Option<DeviceName>,
    /// By what its sender tells it from its other messages, if by anything.
    pub(super) said: Option<[u8; 16]>,
}

/// What becomes of a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is to be worked on.
    New(Arrival),
    /// It was taken before: it is acknowledged when it is done.
    Known,
}

#[derive(Debug)]
struct Recent {
    arrival: Arrival,
    mark: Mark,
    /// In which connection it came last.
    connection: u64,
    acknowledged: bool,
    /// It came as a repeat in that connection, and was taken all the same.
    taken_again: bool,
}

#[derive(Debug)]
struct Waiting {
    packet: u16,
    arrival: Arrival,
}

/// The messages of one broker.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    next: Arrival,
    connection: u64,
    /// Repeats come in order: none is looked for before this one.
    cursor: Arrival,
    waiting: VecDeque<Waiting>,
    open: HashSet<Arrival>,
    recent: VecDeque<Recent>,
}

impl Arrivals {
    /// Takes note of a message; `packet` is its number if it wants an acknowledgement, `repeat` what
    /// the broker says of it.
    pub(super) fn admit(&mut self, packet: Option<u16>, repeat: bool, mark: Mark) -> Admission {
        let Some(packet) = packet else {
            return Admission::New(self.number());
        };
        if repeat && let Some(arrival) = self.known(&mark) {
            self.waiting.push_back(Waiting { packet, arrival });
            return Admission::Known;
        }
        let arrival = self.number();
        self.open.insert(arrival);
        self.waiting.push_back(Waiting { packet, arrival });
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent {
            arrival,
            mark,
            connection: self.connection,
            acknowledged: false,
            taken_again: repeat,
        });
        Admission::New(arrival)
    }

    /// Whether a message will be acknowledged, and is not done.
    pub(super) fn is_open(&self, arrival: Arrival) -> bool {
        self.open.contains(&arrival)
    }

    /// All that a message asked for was done.
    pub(super) fn finish(&mut self, arrival: Arrival) {
        self.open.remove(&arrival);
    }

    /// The number of the next message that may be acknowledged.
    pub(super) fn poll_ack(&mut self) -> Option<u16> {
        let first = self.waiting.front()?;
        if self.open.contains(&first.arrival) {
            return None;
        }
        let Waiting { packet, arrival } = self.waiting.pop_front()?;
        if let Ok(at) = self
            .recent
            .binary_search_by_key(&arrival, |recent| recent.arrival)
        {
            self.recent[at].acknowledged = true;
        }
        Some(packet)
    }

    /// The connection is gone: what was not acknowledged comes again.
    pub(super) fn lost(&mut self) {
        self.waiting.clear();
        self.connection += 1;
        self.cursor = 0;
    }

    /// The broker has forgotten the session: nothing of it comes again.
    pub(super) fn forgotten(&mut self) {
        self.recent.clear();
    }

    const fn number(&mut self) -> Arrival {
        self.next += 1;
        self.next
    }

    /// Repeats come in the order of what they repeat: whatever follows one of the same device that was
    /// taken again must be taken again too, else the older value would stay.
    fn known(&mut self, mark: &Mark) -> Option<Arrival> {
        let connection = self.connection;
        let is_before = |recent: &Recent| {
            recent.taken_again && recent.connection == connection && recent.mark.device == mark.device
        };
        if self.recent.iter().any(is_before) {
            return None;
        }
        self.unacknowledged(mark).or_else(|| self.acknowledged(mark))
    }

    /// What was never acknowledged comes again for certain, each once.
    fn unacknowledged(&mut self, mark: &Mark) -> Option<Arrival> {
        let (cursor, connection) = (self.cursor, self.connection);
        let expected = self.recent.iter_mut().find(|recent| {
            recent.arrival >= cursor
                && recent.connection != connection
                && !recent.acknowledged
                && recent.mark.hash == mark.hash
        })?;
        expected.connection = connection;
        expected.taken_again = false;
        self.cursor = expected.arrival + 1;
        Some(expected.arrival)
    }

    /// An acknowledgement may have been lost with the connection. But a device that only ever says
    /// on and off says again what it said before: unless its message bears a mark that no other of
    /// them bears, only its newest one passes for a repeat. What is taken twice does no harm, for what
    /// was said after it is taken again too; what is not taken is lost.
    fn acknowledged(&mut self, mark: &Mark) -> Option<Arrival> {
        let mut of_device = self
            .recent
            .iter()
            .rev()
            .filter(|recent| recent.mark.device == mark.device);
        let mut alike = of_device
            .clone()
            .filter(|recent| mark.said.is_some() && recent.mark.said == mark.said);
        let found = match (alike.next(), alike.next()) {
            (Some(only), None) => Some(only),
            _ => of_device.next(),
        }
        .filter(|recent| recent.mark.hash == mark.hash && recent.arrival >= self.cursor)?;
        let arrival = found.acknowledged.then_some(found.arrival)?;
        self.cursor = arrival + 1;
        Some(arrival)
    }
}

#[cfg(test)]
mod tests;
