//! Messages that the broker has yet to hear of that they are safe. Pure.
//!
//! A message says things of several devices; it is acknowledged when each of them was taken, or was
//! overtaken by a later message that is itself not acknowledged yet.
//!
//! **Invariant:** messages are acknowledged in the order in which they came, as MQTT wants it.

use std::collections::{BTreeMap, VecDeque};

/// What one thing that a message says is known by.
pub(crate) type Ticket = u64;

/// Messages that are not acknowledged.
#[derive(Debug)]
pub(crate) struct Unacked<M> {
    messages: VecDeque<(M, usize)>,
    /// The number of the first of them.
    first: u64,
    /// The message of each ticket that is open.
    open: BTreeMap<Ticket, u64>,
}

impl<M> Default for Unacked<M> {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            first: 0,
            open: BTreeMap::new(),
        }
    }
}

impl<M> Unacked<M> {
    /// A message came, and said these things.
    pub(crate) fn push(&mut self, message: M, tickets: impl IntoIterator<Item = Ticket>) {
        let number = self.first + self.messages.len() as u64;
        let before = self.open.len();
        self.open
            .extend(tickets.into_iter().map(|ticket| (ticket, number)));
        self.messages.push_back((message, self.open.len() - before));
    }

    /// One thing was taken.
    pub(crate) fn done(&mut self, ticket: Ticket) {
        let Some(number) = self.open.remove(&ticket) else {
            return;
        };
        let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        if let Some((_, left)) = self.messages.get_mut(index) {
            *left = left.saturating_sub(1);
        }
    }

    /// The first message, if it may be acknowledged now.
    pub(crate) fn ready(&self) -> Option<&M> {
        let (message, left) = self.messages.front()?;
        (*left == 0).then_some(message)
    }

    /// The first message was acknowledged.
    pub(crate) fn acknowledged(&mut self) {
        if self.messages.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The connection is gone: the broker delivers all of them again.
    pub(crate) fn clear(&mut self) {
        self.first += self.messages.len() as u64;
        self.messages.clear();
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(unacked: &mut Unacked<&'static str>) -> Vec<&'static str> {
        let mut all = Vec::new();
        while let Some(message) = unacked.ready() {
            all.push(*message);
            unacked.acknowledged();
        }
        all
    }

    #[test]
    fn messages_are_acknowledged_in_order_each_when_all_of_it_was_taken() {
        let mut unacked = Unacked::default();
        unacked.push("one", [1, 2]);
        unacked.push("two", [3]);
        unacked.push("nothing", []);
        unacked.done(3);
        unacked.done(1);
        assert_eq!(ready(&mut unacked), [""; 0]);
        unacked.done(2);
        assert_eq!(ready(&mut unacked), ["one", "two", "nothing"]);
        unacked.push("three", [4]);
        unacked.done(4);
        assert_eq!(ready(&mut unacked), ["three"]);
    }

    #[test]
    fn what_came_over_another_connection_is_forgotten() {
        let mut unacked = Unacked::default();
        unacked.push("old", [1]);
        unacked.clear();
        unacked.push("new", [2]);
        unacked.done(1);
        assert_eq!(ready(&mut unacked), [""; 0]);
        unacked.done(2);
        assert_eq!(ready(&mut unacked), ["new"]);
    }
}
