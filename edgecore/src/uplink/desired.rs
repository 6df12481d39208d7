//! The shell of the replica: frames in, commits to the store, frames out.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::desired::{ClusterRefused, Notice, Replica, Violation};
use protocol::object::Kind;
use protocol::transport::Stream;
use protocol::wire::{DesiredDown, FrameReader, FrameWriter, WireError};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::state::{Desired, Remembered};
use crate::store::StoreError;

/// How often both sides compare what they believe in.
const COMPARE_EVERY: Duration = Duration::from_hours(1);

/// Why the desired stream ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// The stream failed.
    #[error("the desired stream failed")]
    Wire(#[from] WireError),
    /// The cloud broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// This is not the cluster that the node belongs to.
    #[error(transparent)]
    Cluster(#[from] ClusterRefused),
    /// The store has stopped.
    #[error("the desired state could not be written")]
    Store(#[from] StoreError),
}

/// The replica and where its commits go.
#[derive(Debug)]
pub struct DesiredFlow {
    replica: Mutex<Replica>,
    desired: Desired,
    nudge: Notify,
}

impl DesiredFlow {
    /// The flow of what was remembered.
    pub fn new(desired: Desired, remembered: Remembered) -> Arc<Self> {
        Arc::new(Self {
            replica: Mutex::new(Replica::load(remembered.held, remembered.fences)),
            desired,
            nudge: Notify::new(),
        })
    }

    /// The containers of a removed pod are gone; what it named may go too.
    pub fn terminated(&self, uid: &str) {
        self.replica.lock().terminated(uid);
        self.nudge.notify_one();
    }

    /// Removed pods whose containers may still run, as far as it was told.
    pub fn terminating(&self) -> Vec<String> {
        self.replica.lock().terminating().map(str::to_owned).collect()
    }

    /// The cluster and epoch that this edge belongs to; empty before the first session.
    pub fn cluster(&self) -> (String, u64) {
        let replica = self.replica.lock();
        let fences = replica.fences();
        (fences.cluster_id.clone(), fences.epoch)
    }

    /// Kinds that are known to be equal to the cluster's view in this session.
    pub fn synced(&self) -> Vec<Kind> {
        let replica = self.replica.lock();
        Kind::ALL
            .into_iter()
            .filter(|kind| replica.synced(*kind))
            .collect()
    }

    fn all_synced(&self) -> bool {
        let replica = self.replica.lock();
        Kind::ALL.into_iter().all(|kind| replica.synced(kind))
    }

    /// Serves one desired stream until it ends or `stop`. `synced` is told when each kind equals the cluster's view.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a commit must be answered. Use `stop`.
    pub async fn serve(
        &self,
        stream: Stream,
        cluster: (&str, u64),
        synced: &(dyn Fn() + Sync),
        stop: &CancellationToken,
    ) -> Result<(), FlowError> {
        self.replica.lock().connected(cluster.0, cluster.1)?;
        let served = self.exchange(stream, synced, stop).await;
        self.replica.lock().disconnected();
        served
    }

    async fn exchange(
        &self,
        stream: Stream,
        synced: &(dyn Fn() + Sync),
        stop: &CancellationToken,
    ) -> Result<(), FlowError> {
        let mut reader = FrameReader::new(stream.recv);
        let mut writer = FrameWriter::new(stream.send);
        let mut compare_at = Instant::now() + jittered();
        loop {
            self.commit().await?;
            if self.all_synced() {
                synced();
            }
            while let Some(frame) = self.next() {
                writer.write(&frame).await?;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.nudge.notified() => {}
                () = sleep_until(compare_at) => {
                    self.replica.lock().compare();
                    compare_at = Instant::now() + jittered();
                }
                frame = reader.read::<DesiredDown>() => match frame? {
                    Some(frame) => self.replica.lock().handle_frame(frame)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn next(&self) -> Option<protocol::wire::DesiredUp> {
        let mut replica = self.replica.lock();
        while let Some(notice) = replica.poll_notice() {
            tell(&notice);
        }
        replica.poll_transmit()
    }

    /// Writes what the replica wants written, until it wants nothing more.
    async fn commit(&self) -> Result<(), FlowError> {
        loop {
            let wanted = self.replica.lock().poll_commit();
            let Some(commit) = wanted else { break };
            match self.desired.apply(&commit).await {
                Ok(()) => self.replica.lock().committed(commit.id)?,
                Err(error) => {
                    self.replica.lock().failed(commit.id)?;
                    if error.breaks() {
                        return Err(error.into());
                    }
                    tracing::warn!(%error, "objects could not be stored; the older versions stay");
                }
            }
        }
        let replica = self.replica.lock();
        self.desired.note_untaken(replica.untaken_pods());
        if replica.orphans_may_go() {
            self.desired.pods_confirmed();
        }
        Ok(())
    }
}

fn tell(notice: &Notice) {
    match notice {
        Notice::MassRemoval { removes, held } => {
            tracing::warn!(
                removes,
                held,
                "the cluster removes more than half of this node's pods"
            );
        }
        Notice::Diverged { kind } => {
            tracing::warn!(%kind, "this node and the cluster disagree after several comparisons");
        }
    }
}

fn jittered() -> Duration {
    COMPARE_EVERY.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}
