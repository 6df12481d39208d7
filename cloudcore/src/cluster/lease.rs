//! The node's Lease: the heartbeat, and the fence between sessions.
//!
//! What it is: compare-and-swap on one Lease per node, written as the node. What it is not: a
//! timer; the hub says when to renew, and whether the edge still deserves it.
//!
//! ```text
//! (any holder) --fence: transitions + 1, our session--> ours --renew, every 10 s--> ours
//!                                                         `--another session's--> Superseded
//! ```
//!
//! **Invariant:** a [`Fence`] never overwrites a Lease that names another session, and the Lease
//! has no owner, so that deleting the Node does not take the fence away.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use protocol::name::NodeName;
use serde_json::{Value, json};
use thiserror::Error;

use super::Cluster;
use super::api::{Actor, ApiError, Call};
use super::write::WriteError;

/// How often the holder of a session renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);
/// What the Lease promises to the node controller; the kubelet's own value.
const LEASE_SECONDS: u32 = 40;
/// The annotation that names the session, so that replicas can tell theirs from others'.
const SESSION: &str = "tombolo.dev/session";
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

/// The Lease of a node, held by one session.
#[derive(Debug)]
pub struct Fence {
    node: NodeName,
    session: String,
    lease: Value,
}

impl Fence {
    /// The generation: grows by one with each session of the node.
    pub fn generation(&self) -> u64 {
        self.lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0)
    }
}

impl Cluster {
    /// Takes the node's Lease for a session, whoever held it.
    pub async fn fence(&self, node: &NodeName, session: &str) -> Result<Fence, LeaseError> {
        for _ in 0..FENCE_TRIES {
            let current = self.read_lease(node).await?;
            let now = self.clock().now();
            let write = match &current {
                None => Call::post(LEASES, bytes(&fresh(node, session, now))),
                Some(lease) => Call::put(path(node), bytes(&taken(lease, session, now))),
            };
            match self.write_lease(node, write).await {
                Ok(lease) => {
                    self.inner
                        .sessions
                        .write()
                        .insert(node.clone(), session.to_owned());
                    return Ok(Fence {
                        node: node.clone(),
                        session: session.to_owned(),
                        lease,
                    });
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
        let renewed = renewed(&fence.lease, self.clock().now());
        match self
            .write_lease(&fence.node, Call::put(path(&fence.node), bytes(&renewed)))
            .await
        {
            Ok(lease) => {
                fence.lease = lease;
                Ok(())
            }
            Err(WriteError::Api(error)) if error.is_conflict() || error.is_not_found() => {
                self.reread(fence).await
            }
            Err(source) => Err(LeaseError::Write {
                node: fence.node.clone(),
                source,
            }),
        }
    }

    /// Whether this replica's session still has the node's Lease: read after a write met a
    /// conflict, before it is tried again.
    pub(super) async fn still_ours(&self, node: &NodeName) -> Result<(), WriteError> {
        let Some(session) = self.inner.sessions.read().get(node).cloned() else {
            return Ok(());
        };
        let lease: Value = self.as_node(node, Call::get(path(node))).await?;
        if lease["metadata"]["annotations"][SESSION] == json!(session) {
            Ok(())
        } else {
            Err(WriteError::Superseded { node: node.clone() })
        }
    }

    /// After a conflict: ours with another revision (a lost reply), gone, or another's.
    async fn reread(&self, fence: &mut Fence) -> Result<(), LeaseError> {
        let node = fence.node.clone();
        let write = match self.read_lease(&node).await? {
            Some(lease) => {
                judge(fence, &lease)?;
                Call::put(path(&node), bytes(&renewed(&lease, self.clock().now())))
            }
            // Deleted with kubectl: made again, with the generation that it had.
            None => Call::post(LEASES, bytes(&reborn(&fence.lease, self.clock().now()))),
        };
        let written = self.write_lease(&node, write).await;
        fence.lease = written.map_err(|source| LeaseError::Write { node, source })?;
        Ok(())
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

fn path(node: &NodeName) -> String {
    format!("{LEASES}/{node}")
}

fn bytes(lease: &Value) -> Vec<u8> {
    lease.to_string().into_bytes()
}

/// Kubernetes' `MicroTime`: always six digits, always UTC.
fn micro_time(now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{now:.6}")
}

fn fresh(node: &NodeName, session: &str, now: SystemTime) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": node.to_string(), "namespace": "kube-node-lease", "annotations": { SESSION: session } },
        "spec": {
            "holderIdentity": node.to_string(),
            "leaseDurationSeconds": LEASE_SECONDS,
            "leaseTransitions": 1,
            "acquireTime": micro_time(now),
            "renewTime": micro_time(now),
        },
    })
}

/// The same Lease in the hands of a new session. Whatever else others wrote into it stays.
fn taken(lease: &Value, session: &str, now: SystemTime) -> Value {
    let mut next = lease.clone();
    let transitions = lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
    if !next["metadata"]["annotations"].is_object() {
        next["metadata"]["annotations"] = json!({});
    }
    next["metadata"]["annotations"][SESSION] = json!(session);
    next["spec"]["holderIdentity"] = next["metadata"]["name"].clone();
    next["spec"]["leaseDurationSeconds"] = json!(LEASE_SECONDS);
    next["spec"]["leaseTransitions"] = json!(transitions + 1);
    next["spec"]["acquireTime"] = json!(micro_time(now));
    next["spec"]["renewTime"] = json!(micro_time(now));
    next
}

fn renewed(lease: &Value, now: SystemTime) -> Value {
    let mut next = lease.clone();
    next["spec"]["renewTime"] = json!(micro_time(now));
    next
}

/// The same Lease for a create: without what the server alone writes.
fn reborn(lease: &Value, now: SystemTime) -> Value {
    let mut next = renewed(lease, now);
    if let Some(meta) = next["metadata"].as_object_mut() {
        meta.retain(|field, _| matches!(field.as_str(), "name" | "namespace" | "annotations" | "labels"));
    }
    next
}

/// Whether the Lease still is the fence's. Pure.
fn judge(fence: &Fence, lease: &Value) -> Result<(), LeaseError> {
    let by = lease["metadata"]["annotations"][SESSION]
        .as_str()
        .unwrap_or("nobody");
    if by == fence.session {
        return Ok(());
    }
    Err(LeaseError::Superseded {
        node: fence.node.clone(),
        by: by.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeName {
        "e1".parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_taken_lease_counts_one_more_transition_and_keeps_what_others_wrote() {
        let mut lease = fresh(&node(), "one", at(0));
        lease["metadata"]["labels"] = json!({"team": "sea"});
        lease["metadata"]["resourceVersion"] = json!("7");

        let next = taken(&lease, "two", at(5));

        assert_eq!(next["spec"]["leaseTransitions"], 2);
        assert_eq!(next["metadata"]["annotations"][SESSION], "two");
        assert_eq!(next["metadata"]["labels"]["team"], "sea");
        assert_eq!(
            next["metadata"]["resourceVersion"], "7",
            "it is a compare-and-swap"
        );
        assert_eq!(next["spec"]["holderIdentity"], "e1");
        assert_eq!(next["spec"]["renewTime"], "1970-01-01T00:00:05.000000Z");
    }

    #[test]
    fn a_lease_that_names_another_session_supersedes() {
        let fence = Fence {
            node: node(),
            session: "one".into(),
            lease: fresh(&node(), "one", at(0)),
        };
        assert!(judge(&fence, &fence.lease).is_ok());
        let other = taken(&fence.lease, "two", at(1));
        assert!(judge(&fence, &other).unwrap_err().is_superseded());
    }

    #[test]
    fn a_lease_made_again_keeps_its_generation_and_carries_nothing_of_the_servers() {
        let mut lease = taken(&fresh(&node(), "one", at(0)), "two", at(1));
        lease["metadata"]["uid"] = json!("u");
        lease["metadata"]["resourceVersion"] = json!("9");
        let next = reborn(&lease, at(2));
        assert_eq!(next["spec"]["leaseTransitions"], 2);
        assert!(next["metadata"].get("uid").is_none() && next["metadata"].get("resourceVersion").is_none());
    }
}
