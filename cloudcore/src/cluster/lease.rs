//! The node's Lease: the heartbeat, and the fence between sessions.
//!
//! What it is: the requests that compare and swap one Lease per node, written as the node. What it
//! is not: the rules (`fence.rs`), or a timer; the hub says when to renew, and whether the edge still
//! deserves it.
//!
//! **Invariant:** the Lease has no owner, so that deleting the Node does not take the fence away.

use std::time::Duration;

use protocol::name::NodeName;
use serde_json::Value;
use thiserror::Error;

use super::Cluster;
use super::api::{Actor, ApiError, Call};
use super::fence::{self, Fence, LeaseWrite, Proof};
use super::thin::Thin;
use super::write::WriteError;

/// How often the holder of a session renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// Lost races at Welcome: each means that another session of the same node was just faster.
const FENCE_TRIES: usize = 5;

/// Why a session could not take or keep the Lease.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Another session has taken the Lease: this one must give up its flows at once.
    #[error("node {node} is held by a newer session ({by})")]
    Superseded {
        /// The node.
        node: NodeName,
        /// The session that took it.
        by: String,
    },
    /// Others took the Lease again and again while this session tried.
    #[error("the lease of node {node} changes too fast: several devices may be using one name")]
    Contended {
        /// The node.
        node: NodeName,
    },
    /// The node may not be acted for, or the API server did not do it.
    #[error("the lease of node {node} could not be written")]
    Write {
        /// The node.
        node: NodeName,
        /// Why.
        source: WriteError,
    },
}

impl LeaseError {
    /// Whether the session has lost its generation, for good.
    pub const fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded { .. })
    }
}

/// A session of a node: as whose something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeName,
    /// The session, as the Lease names it.
    pub session: String,
}

impl Cluster {
    /// Takes the node's Lease for a session, whoever held it.
    pub async fn fence(&self, node: &NodeName, session: &str) -> Result<Fence, LeaseError> {
        for _ in 0..FENCE_TRIES {
            let current = self.read_lease(node).await?;
            let write = fence::take(current.as_ref(), node, session, self.clock().now());
            match self.write_lease(node, call(node, write)).await {
                Ok(lease) => {
                    let proof = Proof::new(session, &lease);
                    self.inner.sessions.write().insert(node.clone(), proof);
                    return Ok(Fence::new(node.clone(), session.to_owned(), lease));
                }
                // Somebody else wrote, created or removed it in between: look again.
                Err(WriteError::Api(error)) if error.is_conflict() || error.is_not_found() => {}
                Err(source) => {
                    return Err(LeaseError::Write {
                        node: node.clone(),
                        source,
                    });
                }
            }
        }
        Err(LeaseError::Contended { node: node.clone() })
    }

    /// Renews the Lease; fails with `Superseded` when another session has taken it.
    ///
    /// # Cancel safety
    ///
    /// A renewal that was cut short is recognised by the next one.
    pub async fn renew(&self, fence: &mut Fence) -> Result<(), LeaseError> {
        let renewal = call(fence.node(), fence.renewal(self.clock().now()));
        match self.write_lease(fence.node(), renewal).await {
            Ok(lease) => {
                self.proved(fence, lease);
                Ok(())
            }
            Err(WriteError::Api(error)) if error.is_conflict() || error.is_not_found() => {
                self.reread(fence).await
            }
            Err(source) => Err(LeaseError::Write {
                node: fence.node().clone(),
                source,
            }),
        }
    }

    /// The Lease was written as this fence's: what is older than that may be written over.
    fn proved(&self, fence: &mut Fence, lease: Value) {
        let mut sessions = self.inner.sessions.write();
        if let Some(proof) = sessions
            .get_mut(fence.node())
            .filter(|proof| proof.session() == fence.session())
        {
            proof.renewed(&lease);
        }
        drop(sessions);
        fence.wrote(lease);
    }

    /// Whether this session may write over a state of an object of its node without reading the Lease: never
    /// once a newer one came to this replica.
    pub(super) fn covers(&self, by: &Holder, state: &Value) -> bool {
        let sessions = self.inner.sessions.read();
        let proof = sessions.get(&by.node);
        proof.is_some_and(|proof| proof.covers(&by.session, state))
    }

    /// A Node is gone: of a session that is not here any more nothing is known, which proves nothing either.
    pub(super) fn forget_session(&self, node: &str) {
        let node = node.parse::<NodeName>().ok();
        if let Some(node) = node.filter(|node| !self.inner.index.read().is_attached(node)) {
            self.inner.sessions.write().remove(&node);
        }
    }

    /// This session wrote an object; this is the answer.
    pub(super) fn wrote_own(&self, by: &Holder, answer: &[u8]) {
        if let Ok(Thin { metadata }) = serde_json::from_slice(answer)
            && let Some(proof) = self.inner.sessions.write().get_mut(&by.node)
        {
            proof.wrote(&by.session, metadata.revision());
        }
    }

    /// Whether this very session still has the node's Lease: read before a write over a state that a newer
    /// session may have written, at this replica or at another. Reports that come together share the look: the
    /// deletions of many pods make as many revisions that no proof covers.
    pub(crate) async fn still_ours(&self, by: &Holder) -> Result<(), WriteError> {
        let read = || async {
            let lease: Value = self.as_node(&by.node, Call::get(path(&by.node))).await?;
            Ok(fence::holder(&lease).map(str::to_owned))
        };
        let found = self.inner.leases.share(&by.node, read).await;
        held_by(found, &by.node, &by.session)
    }

    /// After a conflict: the rules say what it means.
    async fn reread(&self, fence: &mut Fence) -> Result<(), LeaseError> {
        let node = fence.node().clone();
        let found = self.read_lease(&node).await?;
        if found.is_none() {
            // Gone with the node, perhaps, and then nobody would delete it once more.
            let confirmed = self.confirm(&node).await;
            confirmed.map_err(|source| LeaseError::Write {
                node: node.clone(),
                source,
            })?;
        }
        let write = fence
            .after_conflict(found.as_ref(), self.clock().now())
            .map_err(|by| LeaseError::Superseded {
                node: node.clone(),
                by,
            })?;
        match self.write_lease(&node, call(&node, write)).await {
            Ok(lease) => {
                self.proved(fence, lease);
                Ok(())
            }
            Err(source) => Err(LeaseError::Write { node, source }),
        }
    }

    async fn read_lease(&self, node: &NodeName) -> Result<Option<Value>, LeaseError> {
        let answer = self.as_node::<Value>(node, Call::get(path(node))).await;
        match self.note_lease(answer) {
            Ok(lease) => Ok(Some(lease)),
            Err(WriteError::Api(error)) if error.is_not_found() => Ok(None),
            Err(source) => Err(LeaseError::Write {
                node: node.clone(),
                source,
            }),
        }
    }

    async fn write_lease(&self, node: &NodeName, call: Call) -> Result<Value, WriteError> {
        let answer = self.as_node(node, call).await;
        self.note_lease(answer)
    }

    fn note_lease<T>(&self, answer: Result<T, WriteError>) -> Result<T, WriteError> {
        match &answer {
            Ok(_) => self.health().answered(),
            Err(WriteError::Api(error)) if error.is_forbidden() => self.health().doubted(),
            Err(WriteError::Api(error)) if error.answered() && error.code() < 500 => self.health().answered(),
            Err(WriteError::Api(_)) => drop(self.health().silent()),
            Err(_) => {}
        }
        answer
    }

    /// Reads some Lease under cloudcore's own name: the sign of life of a replica without sessions.
    pub(super) async fn probe_leases(&self) -> Result<(), ApiError> {
        match self
            .api()
            .call(Actor::Cloudcore, Call::get(format!("{LEASES}/tombolo-probe")))
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

pub(super) fn path(node: &NodeName) -> String {
    format!("{LEASES}/{node}")
}

fn call(node: &NodeName, write: LeaseWrite) -> Call {
    match write {
        LeaseWrite::Create(lease) => Call::post(LEASES, lease.to_string().into_bytes()),
        LeaseWrite::Replace(lease) => Call::put(path(node), lease.to_string().into_bytes()),
    }
}

/// What the answer to a look at the Lease means for this session's writes.
fn held_by(
    found: Result<Option<String>, WriteError>,
    node: &NodeName,
    session: &str,
) -> Result<(), WriteError> {
    match found {
        Ok(holder) if holder.as_deref() == Some(session) => Ok(()),
        Ok(_) => Err(WriteError::Superseded { node: node.clone() }),
        // Somebody deleted it, and the next renewal makes it again: what is to be written is not gone with it.
        Err(error) if error.is_not_found() => Err(WriteError::Unlisted {
            what: "the node's Lease",
        }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Method, StatusCode};
    use serde_json::json;

    use super::super::testing::{Enrolled, cluster, cluster_of};
    use super::*;

    #[tokio::test]
    async fn a_lease_that_is_gone_is_made_again_for_a_node_that_is_still_enrolled_alone() {
        for enrolled in [true, false] {
            let made = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&made);
            let cluster = cluster_of(
                move |asked| {
                    if asked.is(&Method::POST, LEASES) {
                        count.fetch_add(1, Ordering::Relaxed);
                        return (StatusCode::CREATED, asked.body);
                    }
                    (StatusCode::NOT_FOUND, json!({ "code": 404 }))
                },
                Arc::new(Enrolled::as_remembered(enrolled)),
            );
            let mut fence = Fence::new("edge-1".parse().unwrap(), "one".to_owned(), json!({}));
            assert_eq!(cluster.renew(&mut fence).await.is_ok(), enrolled);
            assert_eq!(made.load(Ordering::Relaxed), usize::from(enrolled));
        }
    }

    #[test]
    fn a_lease_that_was_deleted_makes_a_report_wait_and_never_end() {
        let node: NodeName = "edge-1".parse().unwrap();
        let missing = WriteError::Api(ApiError::Refused {
            action: "GET the Lease".to_owned(),
            code: 404,
            reason: "NotFound".to_owned(),
            message: String::new(),
            retry_after: None,
        });
        assert!(missing.is_permanent());
        let error = held_by(Err(missing), &node, "session").unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        assert_eq!(error.code(), 503);
    }

    #[tokio::test]
    async fn reports_that_come_together_share_a_look_at_the_lease_that_began_after_they_asked() {
        let looks = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&looks);
        // Another session takes the Lease after the first look has begun.
        let cluster = cluster(move |asked| {
            if !asked.is(&Method::GET, &format!("{LEASES}/e1")) {
                return (StatusCode::NOT_FOUND, json!({ "code": 404 }));
            }
            let session = ["one", "two"][count.fetch_add(1, Ordering::Relaxed).min(1)];
            let lease = json!({ "metadata": { "annotations": { "tombolo.dev/session": session } } });
            (StatusCode::OK, lease)
        });
        let by = Holder {
            node: "e1".parse().unwrap(),
            session: "one".to_owned(),
        };
        let all = futures::future::join_all((0..60).map(|_| cluster.still_ours(&by))).await;
        let ours = all.iter().filter(|held| held.is_ok()).count();
        assert_eq!((ours, looks.load(Ordering::Relaxed)), (1, 2), "{all:?}");
    }
}
