//! Writing Node objects: registration and status.
//!
//! What it is: requests. What may be in them is `document.rs`; Nodes that were deleted while enrolled are made again
//! by `rebirth.rs`.
//!
//! **Invariant:** under cloudcore's own name a Node is only ever created, never changed: all that
//! follows is written as the node. It is created only after a look in the cluster whether its name is still enrolled.

use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, canonical};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Cluster;
use super::api::{Actor, Call, Content};
use super::attempt::{Ask, Attempt};
use super::document::{NodeDocument, reborn};
use super::labels;
use super::lease::Holder;
use super::write::WriteError;

pub(super) const NODES: &str = "/api/v1/nodes";

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
        let lost = self.inner.rebirths.last_of(node.as_str());
        // The watch may lag behind the deletion.
        let Some(lost) = lost else {
            return self.cached_node(node);
        };
        serde_json::from_slice(&lost.json().ok()?).ok()
    }

    pub(super) fn made_again(&self, node: &NodeName) {
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
    pub(super) fn saw_node_now(&self, node: &NodeName, json: &[u8]) {
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

#[cfg(test)]
mod tests;
