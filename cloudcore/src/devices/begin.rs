//! What a session finds shown when it begins to write: the statuses of its node, in one list.
//!
//! What it is: two requests in the place of four for each device, where another replica wrote last. What it is
//! not: a cache of values; what is kept of each status is which one it is, and a digest of what it says.
//!
//! ```text
//! first write ──► few devices? ── yes ──► each status is looked at by itself
//!                     `── no ──► statuses of the node ──► Lease ──► a write for what differs
//! ```
//!
//! **Invariant:** the Lease is read after the list: whoever takes it later makes another revision of what was
//! listed, and a write over that conflicts. What is listed bears the label of this node, so no other node has
//! spoken for its device.

use std::time::Duration;

use bytes::Bytes;
use protocol::devices::API_VERSION;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tracing::debug;

use super::document::{NODE_LABEL, is_label};
use super::shown::{Written, listed};
use super::writer::DeviceWriter;
use crate::cluster::{Actor, Call, WriteError};

/// So few devices are looked at one by one, which is three reads each.
const FEW: usize = 2;
/// What the statuses of one node may weigh together. One whose devices say more is looked at piece by piece.
const LIST: usize = 8 << 20;
/// Lists at a time: what a replica holds of values when all nodes come to it at once.
const LISTS: usize = 2;
/// The pause after a list that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// The lists of all sessions.
#[derive(Debug)]
pub(super) struct Lists(Semaphore);

impl Default for Lists {
    fn default() -> Self {
        Self(Semaphore::new(LISTS))
    }
}

/// How far one session has come.
#[derive(Debug, Default)]
pub(super) struct Begun(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// Nothing was listed yet.
    #[default]
    Not,
    /// It could not be, and is not tried before then.
    Failed(Instant),
    /// It was, or each status is looked at by itself.
    Done,
}

#[derive(Deserialize)]
struct Statuses<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

impl DeviceWriter {
    /// Finds out what is shown, once.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point: the next write begins again.
    pub(super) async fn begin(&self) -> Result<(), WriteError> {
        let mut state = self.begun().0.lock().await;
        match *state {
            State::Done => return Ok(()),
            State::Failed(until) if Instant::now() < until => {
                let what = "what devices show";
                return Err(WriteError::Unlisted { what });
            }
            State::Failed(_) | State::Not => {}
        }
        let node = &self.by().node;
        if self.cluster().devices_of(node) > FEW && is_label(node.as_ref()) {
            match self.list().await {
                Err(WriteError::Api(error)) if !error.may_pass() => {
                    debug!(%node, error = &error as &dyn std::error::Error, "its statuses cannot be listed");
                }
                Err(error) => {
                    *state = State::Failed(Instant::now() + AGAIN);
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        *state = State::Done;
        Ok(())
    }

    async fn list(&self) -> Result<(), WriteError> {
        // Never closed.
        let _room = self.lists().0.acquire().await;
        let label = NODE_LABEL.replace('/', "%2F");
        let node = &self.by().node;
        // As the API server has them in memory, which spares it a walk over all that etcd has of other nodes; what
        // has changed since is another revision.
        let call = Call::get(format!(
            "/apis/{API_VERSION}/devicestatuses?resourceVersion=0&labelSelector={label}%3D{node}"
        ));
        let found = self
            .cluster()
            .api()
            .call(Actor::Cloudcore, call.at_most(LIST))
            .await?;
        self.cluster().still_ours(self.by()).await?;
        self.found(&found);
        Ok(())
    }

    fn found(&self, list: &Bytes) {
        let list: Result<Statuses<'_>, _> = serde_json::from_slice(list);
        let items = list.ok().and_then(|list| list.items).unwrap_or_default();
        let now = Instant::now();
        for (key, base, entry) in items.iter().filter_map(|item| listed(item.get().as_bytes(), now)) {
            let known = self.cluster().known_device(&key);
            let is_its = |uid: &str| uid == entry.device;
            let Some(known) =
                known.filter(|known| is_its(&known.uid) && known.node == *self.by().node.as_ref())
            else {
                continue;
            };
            self.cluster().status_says(&key, entry);
            self.may_write_over(&known.uid, Written { base, filled: None });
        }
    }
}
