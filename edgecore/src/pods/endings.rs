//! Pods that end come before those that have ended.
//!
//! ```text
//! begin ──► Ending (held while the pod is stopped) ──► dropped
//!                                                        └──► turn ──► the runtime erases what it kept of the pod
//! ```
//!
//! Someone waits for a stop, a drain or a rollout; nobody waits for the erasing (where a pod of the same name
//! does, the worker takes no turn), which costs the runtime about
//! as much: it takes the pod's network down once more. So it waits, though not for long, for there are pods that
//! take an hour to end; and it is done for few at a time, because a start may be under way by then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

/// How long an erasing makes way.
const LIMIT: Duration = Duration::from_secs(10);
/// How many are erased at a time.
const AT_A_TIME: usize = 2;

/// The pods of a node that end.
#[derive(Debug)]
pub struct Endings {
    under_way: watch::Sender<usize>,
    turns: Semaphore,
}

impl Default for Endings {
    fn default() -> Self {
        Self {
            under_way: watch::Sender::new(0),
            turns: Semaphore::new(AT_A_TIME),
        }
    }
}

impl Endings {
    /// A pod is being stopped, while this is held.
    pub fn begin(self: &Arc<Self>) -> Ending {
        self.under_way.send_modify(|count| *count += 1);
        Ending(Arc::clone(self))
    }

    /// Waits until nothing is being stopped, or long enough. What it gives is held during the erasing.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let mut under_way = self.under_way.subscribe();
        let none = under_way.wait_for(|count| *count == 0);
        let _ = timeout(LIMIT, none).await;
        self.turns.acquire().await.ok()
    }
}

/// A pod that is being stopped.
#[derive(Debug)]
pub struct Ending(Arc<Endings>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_erasing_waits_for_every_pod_that_ends() {
        let endings = Arc::new(Endings::default());
        let (first, second) = (endings.begin(), endings.begin());
        let turn = endings.turn();
        tokio::pin!(turn);
        assert!(turn.as_mut().now_or_never().is_none());
        drop(first);
        assert!(turn.as_mut().now_or_never().is_none());
        drop(second);
        assert!(turn.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_ends_slowly_is_not_waited_for() {
        let endings = Arc::new(Endings::default());
        let _slow = endings.begin();
        let began = Instant::now();
        assert!(endings.turn().await.is_some());
        assert_eq!(began.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_erased_at_a_time() {
        let endings = Endings::default();
        let held = [endings.turn().await, endings.turn().await];
        assert!(endings.turn().now_or_never().is_none());
        drop(held);
        assert!(endings.turn().now_or_never().is_some());
    }
}
