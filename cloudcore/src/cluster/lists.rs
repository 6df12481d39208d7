//! Whose turn it is to have a list made for a node.
//!
//! What an edge sends can ask for a consistent list, and a list is dear: it goes to etcd, under cloudcore's own
//! name, at the cost of every other node. So those who want one of the same node and kind wait for each other, share
//! what began after they asked, and begin anew no faster than at a [`Rate`], also over many streams.
//!
//! **Invariant:** of a node and kind at most one list is under way, and nobody gets one that began before he asked.

use std::time::Duration;

use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::object::{Kind, Revision};
use tokio::sync::Mutex as Waiting;
use tokio::time::{Instant, sleep_until};

use crate::each::{Each, Rests};
use crate::gcra::{Gcra, Rate};

/// A node's own pods: cheap as lists go.
pub(super) const PODS: Rate = Rate {
    every: Duration::from_secs(2),
    burst: 10,
};

/// A whole kind of the cluster, whose watch ends for it.
pub(super) const SHARED: Rate = Rate {
    every: Duration::from_secs(10),
    burst: 2,
};

/// The turns of all nodes.
#[derive(Debug, Default)]
pub(super) struct Lists {
    turns: Each<(NodeName, Kind), Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// The lists so far.
    begun: Mutex<Gcra>,
    /// The newest list: when it began, and what it found.
    made: Waiting<Option<(Instant, Revision)>>,
}

impl Lists {
    /// The revision of a list that began after this call: another's, or one made by `list`.
    ///
    /// # Cancel safety
    ///
    /// The list of a caller that is dropped counts for nobody, and the next in line makes its own.
    pub(super) async fn share<E, F>(
        &self,
        (node, kind): (&NodeName, Kind),
        pace: Rate,
        list: impl FnOnce() -> F + Send,
    ) -> Result<Revision, E>
    where
        F: Future<Output = Result<Revision, E>> + Send,
    {
        let asked = Instant::now();
        let turn = self.turns.of(&(node.clone(), kind), asked);
        let mut made = turn.made.lock().await;
        if let Some((_, revision)) = made.filter(|(began, _)| *began > asked) {
            return Ok(revision);
        }
        let opens = turn.begun.lock().opens(pace, Instant::now());
        sleep_until(opens).await;
        let began = Instant::now();
        turn.begun.lock().take(pace, began);
        let revision = list().await?;
        *made = Some((began, revision));
        drop(made);
        Ok(revision)
    }
}

impl Rests for Turn {
    fn rested(&self, now: Instant) -> bool {
        self.begun.rested(now)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::join_all;
    use tokio::time::sleep;

    use super::*;

    const PACE: Rate = Rate {
        every: Duration::from_secs(10),
        burst: 2,
    };

    /// Lists that take half a second each.
    #[derive(Default)]
    struct Server {
        lists: Lists,
        made: AtomicU64,
    }

    impl Server {
        async fn list(&self, node: &str) -> u64 {
            let make = || async {
                sleep(Duration::from_millis(500)).await;
                Ok::<_, Infallible>(Revision(self.made.fetch_add(1, Ordering::Relaxed) + 1))
            };
            let node = node.parse().unwrap();
            self.lists.share((&node, Kind::Pod), PACE, make).await.unwrap().0
        }

        fn made(&self) -> u64 {
            self.made.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_while_a_list_is_made_shares_the_next_one() {
        let server = Server::default();
        let late = async {
            sleep(Duration::from_millis(100)).await;
            join_all((0..100).map(|_| server.list("a"))).await
        };
        let (first, late) = tokio::join!(server.list("a"), late);
        assert_eq!(first, 1);
        assert!(late.iter().all(|revision| *revision == 2), "{late:?}");
        assert_eq!(server.made(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_one_after_the_other_keep_to_the_pace_and_hold_up_no_other_node() {
        let (server, began) = (Server::default(), Instant::now());
        for _ in 0..2 {
            server.list("a").await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(1), "a few may come at once");
        for _ in 0..4 {
            server.list("a").await;
        }
        assert!(
            began.elapsed() >= Duration::from_secs(39),
            "{:?}",
            began.elapsed()
        );
        let began = Instant::now();
        server.list("b").await;
        assert_eq!(began.elapsed(), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_given_up_counts_against_the_pace_and_for_nobody() {
        let server = Server::default();
        for _ in 0..2 {
            let given_up = tokio::time::timeout(Duration::from_millis(100), server.list("a")).await;
            given_up.unwrap_err();
        }
        let began = Instant::now();
        assert_eq!(server.list("a").await, 1);
        assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_ask_no_more_are_forgotten() {
        let server = Server::default();
        for number in 0..20 {
            server.list(&format!("n{number}")).await;
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(server.lists.turns.len(), 1);
    }
}
