//! A pod's turn to start: one of the node's few, so that a burst does not crowd the processor.
//!
//! It is kept from the sandbox to the pod's first containers, so that of a burst some pods run early instead of all
//! late, and is given back wherever the wait is long: who waits for a network or a share that does not answer needs
//! no processor, and must not keep the others from starting.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Worker;
use super::orders::ordered_to_end_sooner;

/// How long a start that waits for a file system or a token keeps its permit, and how long an image is waited for in
/// place.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long one that waits for its sandbox does. Making one is work; one that takes so long waits for its network, and
/// a pod that is to end does not wait any longer.
pub(super) const SANDBOX_PATIENCE: Duration = Duration::from_secs(10);

impl Worker {
    /// Makes sure of a permit to start. False when the pod is ordered to end.
    pub(super) async fn take_permit(&mut self) -> bool {
        if self.permit.is_none() {
            let turn = Arc::clone(&self.kit.starts).acquire_owned();
            tokio::select! {
                biased;
                () = ordered_to_end_sooner(self.orders.clone(), i64::MAX) => {}
                Ok(turn) = turn => self.permit = Some(turn),
            }
        }
        self.permit.is_some()
    }
}

/// Waits for `work` to its end, with the permit for at most `patience`.
pub(super) async fn keeping<T>(
    permit: &mut Option<OwnedSemaphorePermit>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout(patience, &mut work).await {
        return done;
    }
    *permit = None;
    work.await
}
