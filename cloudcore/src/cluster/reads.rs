//! One read of a key at a time, for all who ask for it meanwhile.
//!
//! What it is: whose turn it is to read, and who may have the answer. What it is not: a cache; an answer counts for
//! those alone who waited for it.
//!
//! **Invariant:** nobody gets the answer to a read that began before he asked.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::name::NodeName;
use tokio::sync::Mutex as Waiting;
use tokio::time::Instant;

use crate::each::{Each, Rests};

/// The reads of all nodes.
#[derive(Debug)]
pub(super) struct Reads<V> {
    turns: Each<NodeName, Turn<V>>,
}

#[derive(Debug)]
struct Turn<V> {
    /// How many reads have begun.
    begun: AtomicU64,
    /// The last read that ended: its number, and what it found. Nothing, where it failed.
    made: Waiting<Option<(u64, Option<V>)>>,
}

impl<V> Default for Reads<V> {
    fn default() -> Self {
        Self {
            turns: Each::default(),
        }
    }
}

impl<V> Default for Turn<V> {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
            made: Waiting::new(None),
        }
    }
}

impl<V> Rests for Turn<V> {
    /// Nobody who comes later may have what was read.
    fn rested(&self, _: Instant) -> bool {
        true
    }
}

impl<V: Clone> Reads<V> {
    /// What a read found that began after this call: another's, or one made by `read`. A failure is told to the
    /// one that met it; who waited for it reads at once, beside the others: one after the other each would wait as
    /// long as the first.
    ///
    /// # Cancel safety
    ///
    /// The read of a caller that is dropped counts for nobody, and the next in line makes its own.
    pub(super) async fn share<E, F>(&self, node: &NodeName, read: impl FnOnce() -> F + Send) -> Result<V, E>
    where
        E: Send,
        F: Future<Output = Result<V, E>> + Send,
    {
        let turn = self.turns.of(node, Instant::now());
        let asked = turn.begun.load(Ordering::SeqCst);
        let mut made = turn.made.lock().await;
        match &*made {
            Some((number, Some(found))) if *number > asked => return Ok(found.clone()),
            Some((number, None)) if *number > asked => {
                drop(made);
                return read().await;
            }
            Some(_) | None => {}
        }
        let number = turn.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = read().await;
        *made = Some((number, found.as_ref().ok().cloned()));
        drop(made);
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::time::sleep;

    use super::*;

    /// Reads that take half a second each, and say how many began before.
    #[derive(Default)]
    struct Server {
        reads: Reads<u64>,
        begun: AtomicU64,
        fails: bool,
    }

    impl Server {
        async fn read(&self) -> Result<u64, u64> {
            let read = || async {
                let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
                sleep(Duration::from_millis(500)).await;
                if self.fails { Err(number) } else { Ok(number) }
            };
            self.reads.share(&"e1".parse().unwrap(), read).await
        }

        /// What one finds who asks first, and what a hundred do who ask while he is being answered.
        async fn one_and_a_hundred(&self) -> (Result<u64, u64>, Vec<Result<u64, u64>>) {
            let late = async {
                sleep(Duration::from_millis(100)).await;
                join_all((0..100).map(|_| self.read())).await
            };
            tokio::join!(self.read(), late)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_while_a_read_is_under_way_shares_the_next_one() {
        let server = Server::default();
        let (first, late) = server.one_and_a_hundred().await;
        assert_eq!(first, Ok(1));
        assert!(late.iter().all(|found| *found == Ok(2)), "{late:?}");
        assert_eq!(server.read().await, Ok(3), "nothing is kept for who comes later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_makes_nobody_wait_for_more_than_two() {
        let server = Server {
            fails: true,
            ..Server::default()
        };
        let began = Instant::now();
        let (_, late) = server.one_and_a_hundred().await;
        assert!(late.iter().all(Result::is_err));
        assert_eq!(server.begun.load(Ordering::Relaxed), 101);
        assert_eq!(
            began.elapsed(),
            Duration::from_millis(1500),
            "the rest read side by side"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_given_up_counts_for_nobody() {
        let server = Server::default();
        let given_up = tokio::time::timeout(Duration::from_millis(100), server.read()).await;
        given_up.unwrap_err();
        assert_eq!(server.read().await, Ok(2));
    }
}
