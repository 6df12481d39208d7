//! A pod's turn to start: one of the node's few, so that a burst does not crowd the processor.
//!
//! It is kept from the sandbox to the pod's first containers, so that of a burst some pods run early instead of all
//! late, and is given back wherever the wait is long: who waits for a network or a share that does not answer needs
//! no processor, and must not keep the others from starting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep;
use tracing::info;

use super::orders::ordered_to_end_sooner;
use super::{Order, Worker};
use crate::pods::spec;
use crate::pods::turns::keeping;

/// How long a start that waits for a file system or a token keeps its permit, and how long an image is waited for in
/// place.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long one that waits for the runtime does. Making a sandbox or a container is work; what takes so long waits for a
/// network or a disk, and a pod that is to end does not wait any longer.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);

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

/// Waits for what the runtime makes, with the permit for a while. Nothing when the pod is ordered to end and it has not
/// come for long: the kubelet waits for the runtime's answer, minutes perhaps. What is being made meanwhile is let be:
/// giving up what comes in a moment leaves the runtime more to clean than ending it. What is made all the same is found
/// by its labels.
pub(super) async fn made<T>(
    permit: &mut Option<OwnedSemaphorePermit>,
    orders: watch::Receiver<Order>,
    (what, work): (&str, impl Future<Output = T>),
) -> Option<T> {
    let pod = spec::name(&orders.borrow().desired.pod).to_owned();
    let to_end_and_late = async {
        sleep(RUNTIME_PATIENCE).await;
        ordered_to_end_sooner(orders, i64::MAX).await;
    };
    tokio::select! {
        biased;
        made = keeping(permit, RUNTIME_PATIENCE, work) => return Some(made),
        () = to_end_and_late => {}
    }
    info!(pod, "its {what} is not waited for any longer: the pod is to end");
    *permit = None;
    None
}
