//! How fast what one node says is written. Pure: time is given.
//!
//! What a node says costs the API server and etcd, which all nodes share, and a node's key may be stolen. So the
//! writes of its state and those of its events have a [`Rate`] each, over all its streams and sessions at a
//! replica. Above it reports wait in the intake, and the windows of the link then push back: none is lost or
//! refused, and no other node waits, nor the node's own state for its events.
//!
//! An honest node stays below, also at its fastest. A pod takes some three statuses to start, and two and its end
//! to go: sixty that start and end at once are 360 writes, in ten seconds each way; 110, which is all that a node
//! has by default, are 660, and while the first 600 are made others become due. After that twenty a second are six
//! pods that start in every second. Of events edgecore tells at most 600 within a minute, whatever happens (five of
//! each of 110 pods are 550), so that they wait only after a long cut, when up to 1,000 are kept.
//!
//! A thief costs the API server twenty small patches a second, and etcd, which keeps events for an hour, 300 MB
//! ([`MAX_EVENT`](protocol::reported::MAX_EVENT) bytes ten times a second): what is left of its quota is for the
//! cluster.
//!
//! Devices have turns of their own, and what is only written again because somebody else changed it is bounded by
//! the desk. Beats and Leases are no reports: no node looks dead because it says much.
//!
//! **Invariant:** within any span of time a node has at most a burst of writes of each class, and one more in each
//! of the rate's spans; those under way when two streams of one kind overlap come on top.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::reported::Class;
use tokio::time::Instant;

use crate::each::{Each, Rests};
use crate::gcra::{Gcra, Rate};

/// The node and its pods.
pub(super) const STATE: Rate = Rate {
    every: Duration::from_millis(50),
    burst: 600,
};

/// Events.
pub(super) const EVENTS: Rate = Rate {
    every: Duration::from_millis(100),
    burst: 600,
};

/// What one node has written of late.
#[derive(Debug, Default)]
pub struct NodePace {
    state: Mutex<Gcra>,
    events: Mutex<Gcra>,
}

impl NodePace {
    /// When one more report of a class may be written; now, or later.
    pub(super) fn opens(&self, class: Class, now: Instant) -> Instant {
        self.of(class)
            .map_or(now, |(written, rate)| written.lock().opens(rate, now))
    }

    /// A report of a class is written.
    pub(super) fn take(&self, class: Class, now: Instant) {
        if let Some((written, rate)) = self.of(class) {
            written.lock().take(rate, now);
        }
    }

    const fn of(&self, class: Class) -> Option<(&Mutex<Gcra>, Rate)> {
        match class {
            Class::State => Some((&self.state, STATE)),
            Class::Event => Some((&self.events, EVENTS)),
            Class::Device => None,
        }
    }
}

impl Rests for NodePace {
    fn rested(&self, now: Instant) -> bool {
        self.state.rested(now) && self.events.rested(now)
    }
}

/// The paces of all nodes that have written here of late.
#[derive(Debug, Default)]
pub struct Paces {
    nodes: Each<NodeName, NodePace>,
}

impl Paces {
    /// The pace of a node: the same for all its streams.
    pub fn of(&self, node: &NodeName) -> Arc<NodePace> {
        self.nodes.of(node, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_comes_back_goes_on_where_it_was() {
        let paces = Paces::default();
        let now = Instant::now();
        for _ in 0..STATE.burst {
            let pace = paces.of(&node("a"));
            assert_eq!(pace.opens(Class::State, now), now);
            pace.take(Class::State, now);
        }
        assert_eq!(paces.of(&node("a")).opens(Class::State, now), now + STATE.every);
        assert_eq!(paces.of(&node("a")).opens(Class::Event, now), now);
        assert_eq!(paces.of(&node("b")).opens(Class::State, now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_have_rested_are_forgotten_but_for_those_with_a_stream() {
        let paces = Paces::default();
        let streaming = paces.of(&node("a"));
        paces.of(&node("b")).take(Class::Event, Instant::now());
        drop(paces.of(&node("c")));
        assert_eq!(paces.nodes.len(), 3, "b owes time yet");
        advance(EVENTS.every).await;
        drop(paces.of(&node("d")));
        assert_eq!(paces.nodes.len(), 2);
        assert!(Arc::ptr_eq(&streaming, &paces.of(&node("a"))));
    }
}
