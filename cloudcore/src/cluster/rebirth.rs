//! Nodes that were deleted while enrolled, made again.
//!
//! A cloud's node controller deletes Nodes that it does not know, all that are cut off at once, and after 40 s the
//! pod garbage collector deletes the pods of those that are still missing. So several are made at a time, each with
//! a limit of time and a pause of its own, and one that cannot be made holds up no other. All replicas see the same
//! deletions in the same order: each draws lots whose turn is next, and leaves out what another has made meanwhile.
//!
//! **Invariant:** a Node is made again only while its name is enrolled, by what is read for it: `node remove`
//! deletes the key first and then the Node.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::object::{Body, ObjectKey};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::Cluster;
use super::api::{Actor, Call};
use super::document::reborn;
use super::nodes::NODES;
use super::watch::full_jitter;
use super::write::{BoxError, WriteError};
use crate::waits::due;

/// So many at a time: three requests each, of the hundreds that an API server answers at once.
const AT_ONCE: usize = 32;
/// What one may take; it is three requests.
const TURN_LIMIT: Duration = Duration::from_secs(15);
/// Between attempts for one Node.
const PAUSE: Duration = Duration::from_secs(2);

/// Nodes that were deleted and have to be made again.
#[derive(Debug, Default)]
pub(super) struct Rebirths {
    pub(super) waiting: Mutex<BTreeMap<String, Lost>>,
    bell: Notify,
    /// The last state of each that is not there again yet.
    pub(super) lost: Mutex<HashMap<String, Body>>,
}

/// A Node that is gone.
#[derive(Debug)]
pub(super) struct Lost {
    /// As it was.
    last: Body,
    /// Not before.
    due: Instant,
    /// Of those that are due the lowest is next.
    lot: u32,
    /// Whether the log knows that it could not be made.
    told: bool,
}

impl Lost {
    fn new(last: Body) -> Self {
        Self {
            last,
            due: Instant::now(),
            lot: rand::random(),
            told: false,
        }
    }
}

impl Rebirths {
    /// Another one.
    fn add(&self, name: String, last: Body) {
        self.lost.lock().insert(name.clone(), last.clone());
        self.waiting.lock().insert(name, Lost::new(last));
        self.bell.notify_one();
    }

    /// A Node is there, or nobody wants it any more: what it was is not needed.
    pub(super) fn settle(&self, name: &str) {
        self.lost.lock().remove(name);
    }

    /// What a Node was that is not there again yet.
    pub(super) fn last_of(&self, name: &str) -> Option<Body> {
        self.lost.lock().get(name).cloned()
    }

    /// It could not be made: later, unless it was made and deleted once more.
    fn put_off(&self, name: String, lost: Lost) {
        let due = Instant::now() + PAUSE + full_jitter(PAUSE);
        let later = Lost {
            due,
            told: true,
            ..lost
        };
        self.waiting.lock().entry(name).or_insert(later);
    }

    /// Whose turn it is.
    fn draw(&self, now: Instant) -> Option<(String, Lost)> {
        let mut waiting = self.waiting.lock();
        let ready = waiting.iter().filter(|(_, lost)| lost.due <= now);
        let (name, _) = ready.min_by_key(|(_, lost)| lost.lot)?;
        let name = name.clone();
        waiting.remove_entry(&name)
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.lock().values().map(|lost| lost.due).min()
    }
}

impl Cluster {
    /// A Node of ours is gone from the watch, with its last state if the watch told it.
    pub(super) fn lost_node(&self, key: &ObjectKey, last: Option<&[u8]>) {
        let held = self
            .inner
            .index
            .read()
            .node(&key.name)
            .map(|entry| entry.whole.clone());
        self.inner.index.write().remove(key);
        self.forget_session(&key.name);
        if let Some(last) = last.map(Body::compress).or(held) {
            self.inner.rebirths.add(key.name.clone(), last);
        }
    }

    /// Makes deleted Nodes again while their names are enrolled, for ever.
    pub(super) async fn rebirth_nodes(&self) {
        let rebirths = &self.inner.rebirths;
        let mut turns = FuturesUnordered::new();
        loop {
            while turns.len() < AT_ONCE
                && let Some((name, lost)) = rebirths.draw(Instant::now())
            {
                turns.push(self.turn(name, lost));
            }
            let next = rebirths.next_due().filter(|_| turns.len() < AT_ONCE);
            tokio::select! {
                Some(()) = turns.next() => {}
                () = rebirths.bell.notified() => {}
                () = due(next) => {}
            }
        }
    }

    /// Tries one once.
    async fn turn(&self, name: String, lost: Lost) {
        let made = timeout(TURN_LIMIT, self.rebirth(&name, &lost.last)).await;
        let made = made.unwrap_or_else(|_| Err("the API server is too slow just now".into()));
        let Err(error) = made else { return };
        if !lost.told {
            let error = &*error as &dyn std::error::Error;
            warn!(
                node = name,
                error, "could not be made again yet; it is tried until it can"
            );
        }
        self.inner.rebirths.put_off(name, lost);
    }

    /// # Cancel safety
    ///
    /// What was made in the last moment is met as a conflict by the next attempt.
    async fn rebirth(&self, name: &str, last: &Body) -> Result<(), BoxError> {
        let Ok(node) = name.parse::<NodeName>() else {
            return Ok(());
        };
        let last: Value = serde_json::from_slice(&last.json()?)?;
        if self.is_made_again(&node, &last) {
            return Ok(());
        }
        match self.confirm(&node).await {
            Err(WriteError::NotEnrolled { .. }) => return Ok(()),
            confirmed => confirmed?,
        }
        let made = reborn(&last).to_string().into_bytes();
        match self.api().call(Actor::Cloudcore, Call::post(NODES, made)).await {
            Ok(answer) => {
                self.made_again(&node);
                self.saw_node_now(&node, &answer);
                Ok(())
            }
            // Another replica was faster, or the Node only lost its label.
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a Node in the place of the one that was deleted: the answer to a write that was under way
    /// then may still show that one.
    fn is_made_again(&self, node: &NodeName, deleted: &Value) -> bool {
        let index = self.inner.index.read();
        let uid = deleted["metadata"]["uid"].as_str().unwrap_or_default();
        index
            .node(node.as_ref())
            .is_some_and(|entry| entry.object.version.uid != uid)
    }
}

#[cfg(test)]
mod tests;
