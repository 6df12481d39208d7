//! Waiting for a turn to write. The [`Pace`] decides whose it is.

use std::collections::HashMap;

use parking_lot::Mutex;
use protocol::name::NodeName;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::pace::{Next, Pace, Ticket};

/// The queue of all writes of devices.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    pace: Pace,
    calls: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    turns: &'a Turns,
    node: &'a NodeName,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.lock();
        queue.calls.remove(&self.ticket);
        queue.pace.leave(self.node, self.ticket);
    }
}

impl Turns {
    /// Waits until a write for the node may be made.
    ///
    /// # Cancel safety
    ///
    /// The place in the queue is given up when dropped.
    pub(super) async fn turn(&self, node: &NodeName) {
        let (call, called) = oneshot::channel();
        let ticket = {
            let mut queue = self.queue.lock();
            let ticket = queue.pace.enter(node);
            queue.calls.insert(ticket, call);
            ticket
        };
        let _place = Place {
            turns: self,
            node,
            ticket,
        };
        self.bell.notify_one();
        // Never dropped uncalled while the place is held.
        drop(called.await);
    }

    /// Calls those whose turn it is, for ever.
    pub(super) async fn run(&self) {
        loop {
            match self.call_next() {
                Next::Go(_) => {}
                Next::At(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.bell.notified() => {}
                },
                Next::Nobody => self.bell.notified().await,
            }
        }
    }

    fn call_next(&self) -> Next {
        let mut queue = self.queue.lock();
        let next = queue.pace.next(Instant::now());
        if let Next::Go(ticket) = next
            && let Some(call) = queue.calls.remove(&ticket)
        {
            // Who no longer listens has left already.
            let _ = call.send(());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_pace_of_the_node_and_one_that_is_given_up_is_nobodys() {
        let turns = Turns::default();
        let node: NodeName = "e1".parse().unwrap();
        let story = async {
            let start = Instant::now();
            for _ in 0..120 {
                turns.turn(&node).await;
            }
            let lasted = start.elapsed();
            assert!(
                lasted >= Duration::from_millis(990) && lasted < Duration::from_millis(1_100),
                "{lasted:?}"
            );
            assert!(
                timeout(Duration::from_millis(1), turns.turn(&node))
                    .await
                    .is_err()
            );
            assert!(turns.queue.lock().calls.is_empty());
        };
        tokio::select! {
            () = story => {}
            () = turns.run() => {}
        }
    }
}
