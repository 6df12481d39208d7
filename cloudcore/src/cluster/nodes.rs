//! Writing Node objects: registration, status, and the Node that was deleted while enrolled.
//!
//! What it is: requests. What may be in them is `document.rs`.
//!
//! **Invariant:** under cloudcore's own name a Node is only ever created, never changed: all that
//! follows is written as the node. It is created only after a look in the cluster whether its name is still enrolled.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::object::{Body, Kind, ObjectKey, canonical};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Cluster;
use super::api::{Actor, Call, Content};
use super::attempt::{Ask, Attempt};
use super::document::{NodeDocument, reborn};
use super::labels;
use super::lease::Holder;
use super::watch::full_jitter;
use super::write::{BoxError, WriteError};

const NODES: &str = "/api/v1/nodes";
/// Between attempts to make a deleted Node again: the pod garbage collector waits 40 s.
const REBIRTH_PAUSE: Duration = Duration::from_secs(2);

/// Nodes that were deleted and have to be made again.
#[derive(Debug, Default)]
pub(super) struct Rebirths {
    waiting: Mutex<BTreeMap<String, Body>>,
    bell: Notify,
    /// The last state of each that is not there again yet.
    lost: Mutex<HashMap<String, Body>>,
}

impl Rebirths {
    /// A Node is there, or nobody wants it any more: what it was is not needed.
    pub(super) fn settle(&self, name: &str) {
        self.lost.lock().remove(name);
    }
}

impl Cluster {
    /// Whether the watch knows a Node of ours by that name.
    pub(super) fn knows_node(&self, node: &NodeName) -> bool {
        self.inner.index.read().node(node.as_ref()).is_some()
    }

    /// Writes what a node says of itself: registers it in one POST where it does not exist yet,
    /// else brings its status up to date.
    pub async fn write_node(&self, by: &Holder, document: &[u8]) -> Result<(), WriteError> {
        let document = parse_document(&by.node, document)?;
        match self.cached_node(&by.node) {
            None => self.register(by, &document).await,
            Some(current) => match self.bring_up_to_date(by, &document, current).await {
                // Deleted a moment ago: the node registers again.
                Err(error) if error.is_not_found() => self.register(by, &document).await,
                other => other,
            },
        }
    }

    /// Creates a Node in one POST under cloudcore's own name: with full status, or, where it was there before, as
    /// it was then, and brings it up to date.
    async fn register(&self, by: &Holder, document: &NodeDocument) -> Result<(), WriteError> {
        let node = &by.node;
        self.admit(node).await?;
        self.confirm(node).await?;
        let last = self.last_of(node);
        let made = match &last {
            Some(last) => reborn(last),
            None => document.registration(node, self.addresses().as_ref()),
        };
        let made = Call::post(NODES, made.to_string().into_bytes());
        let current = match self.api().call(Actor::Cloudcore, made).await {
            Ok(answer) => {
                self.wrote_own(by, &answer);
                self.saw_node_now(node, &answer);
                if last.is_none() {
                    info!(%node, "registered");
                    return Ok(());
                }
                self.made_again(node);
                serde_json::from_slice(&answer).unwrap_or_default()
            }
            Err(error) if error.is_conflict() => self.read_node(node).await?,
            Err(error) => return Err(error.into()),
        };
        self.bring_up_to_date(by, document, current).await
    }

    /// Whether the name is enrolled. Read, not remembered: `node remove` deletes the key first and then the Node.
    pub(super) async fn confirm(&self, node: &NodeName) -> Result<(), WriteError> {
        let confirmed = self.enrolment().confirm(node).await;
        let unread = |source| WriteError::Unconfirmed {
            node: node.clone(),
            source,
        };
        if confirmed.map_err(unread)? {
            return Ok(());
        }
        self.inner.rebirths.settle(node.as_str());
        Err(WriteError::NotEnrolled { node: node.clone() })
    }

    /// The Node as it was before it was deleted, if it was ever seen here.
    fn last_of(&self, node: &NodeName) -> Option<Value> {
        let lost = self.inner.rebirths.lost.lock().get(node.as_str()).cloned();
        // The watch may lag behind the deletion.
        let Some(lost) = lost else {
            return self.cached_node(node);
        };
        serde_json::from_slice(&lost.json().ok()?).ok()
    }

    fn made_again(&self, node: &NodeName) {
        warn!(%node, "was deleted while enrolled: made again (cloudcore node remove is the way out)");
        self.inner.metrics.rebirths.inc();
    }

    async fn bring_up_to_date(
        &self,
        by: &Holder,
        document: &NodeDocument,
        mut current: Value,
    ) -> Result<(), WriteError> {
        let mut attempt = Attempt::default();
        let mut ask = Attempt::first(Some(self.covers(by, &current)));
        loop {
            ask = match ask {
                Ask::Lease => {
                    self.still_ours(by).await?;
                    Attempt::after_lease()
                }
                Ask::Read => {
                    current = self.read_node(&by.node).await?;
                    attempt.after_read(self.covers(by, &current))
                }
                Ask::Write => match self.patch_status_once(by, document, &current).await {
                    Err(WriteError::Api(error)) if error.is_conflict() => match attempt.after_conflict() {
                        Some(ask) => ask,
                        None => return Err(error.into()),
                    },
                    Err(error) => return Err(error),
                    Ok(()) => break,
                },
            };
        }
        self.patch_metadata(by, document, &current).await
    }

    async fn patch_status_once(
        &self,
        by: &Holder,
        document: &NodeDocument,
        current: &Value,
    ) -> Result<(), WriteError> {
        let node = &by.node;
        let patch = document
            .status_patch(current, self.addresses().as_ref())
            .to_string()
            .into_bytes();
        let call = Call::patch(format!("{NODES}/{node}/status"), Content::MergePatch, patch);
        let answer = self.request_as_node(node, call).await?;
        self.wrote_own(by, &answer);
        self.saw_node_now(node, &answer);
        Ok(())
    }

    /// The device's address, labels whose configuration changed: a write only where they differ.
    async fn patch_metadata(
        &self,
        by: &Holder,
        document: &NodeDocument,
        current: &Value,
    ) -> Result<(), WriteError> {
        let node = &by.node;
        let Some(mut metadata) = document.differing_metadata(current) else {
            return Ok(());
        };
        metadata["uid"] = current["metadata"]["uid"].clone();
        let patch = json!({ "metadata": metadata });
        let call = Call::patch(path(node), Content::MergePatch, patch.to_string().into_bytes());
        let answer = self.request_as_node(node, call).await?;
        self.wrote_own(by, &answer);
        self.saw_node_now(node, &answer);
        Ok(())
    }

    pub(super) fn cached_node(&self, node: &NodeName) -> Option<Value> {
        let whole = self.inner.index.read().node(node.as_ref())?.whole.clone();
        serde_json::from_slice(&whole.json().ok()?).ok()
    }

    async fn read_node(&self, node: &NodeName) -> Result<Value, WriteError> {
        let found: Value = self
            .api()
            .call_as(Actor::Cloudcore, Call::get(path(node)))
            .await?;
        if labels::is_ours(&found) {
            Ok(found)
        } else {
            Err(WriteError::NotOurs { node: node.clone() })
        }
    }

    /// The `InternalIP` that edge nodes show: where the API server reaches them.
    pub(super) fn addresses(&self) -> Option<Value> {
        let address = self.inner.settings.advertise?;
        Some(json!([{ "type": "InternalIP", "address": address.to_string() }]))
    }

    /// What a write returned, so that the next one needs no read. An older watch event that comes
    /// later costs at most one conflict.
    fn saw_node_now(&self, node: &NodeName, json: &[u8]) {
        let key = ObjectKey::new(Kind::Node, "", node.as_ref());
        let written = canonical(Kind::Node, json).map(|object| object.version.revision);
        let held = self
            .inner
            .index
            .read()
            .node(node.as_ref())
            .map(|entry| entry.object.version.revision);
        if written.is_ok_and(|written| held.is_none_or(|held| held < written)) {
            self.saw_node(&key, json, false);
        }
    }
}

pub(super) fn path(node: &NodeName) -> String {
    format!("{NODES}/{node}")
}

fn parse_document(node: &NodeName, document: &[u8]) -> Result<NodeDocument, WriteError> {
    NodeDocument::parse(node, document).map_err(|source| WriteError::Document {
        node: node.clone(),
        source,
    })
}

/// Nodes deleted while enrolled.
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
            self.inner
                .rebirths
                .lost
                .lock()
                .insert(key.name.clone(), last.clone());
            self.inner.rebirths.waiting.lock().insert(key.name.clone(), last);
            self.inner.rebirths.bell.notify_one();
        }
    }

    /// Makes deleted Nodes again while their names are enrolled, for ever.
    pub(super) async fn rebirth_nodes(&self) {
        loop {
            let waiting = std::mem::take(&mut *self.inner.rebirths.waiting.lock());
            if self.rebirth_all(waiting).await {
                self.inner.rebirths.bell.notified().await;
                continue;
            }
            tokio::select! {
                () = self.inner.rebirths.bell.notified() => {}
                () = sleep(REBIRTH_PAUSE + full_jitter(REBIRTH_PAUSE)) => {}
            }
        }
    }

    /// Tries each once, so that one that cannot be made holds up no other; says whether none is left.
    async fn rebirth_all(&self, waiting: BTreeMap<String, Body>) -> bool {
        let mut all = true;
        for (name, last) in waiting {
            if let Err(error) = self.rebirth(&name, &last).await {
                let error = &*error as &dyn std::error::Error;
                warn!(node = name, error, "could not be made again yet");
                self.inner.rebirths.waiting.lock().entry(name).or_insert(last);
                all = false;
            }
        }
        all
    }

    async fn rebirth(&self, name: &str, last: &Body) -> Result<(), BoxError> {
        let Ok(node) = name.parse::<NodeName>() else {
            return Ok(());
        };
        match self.confirm(&node).await {
            Err(WriteError::NotEnrolled { .. }) => return Ok(()),
            confirmed => confirmed?,
        }
        let last: Value = serde_json::from_slice(&last.json()?)?;
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
}

#[cfg(test)]
mod tests;
