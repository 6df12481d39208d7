//! The rules of the fence between sessions: what is written into a node's Lease, and whose it is. Pure.
//!
//! ```text
//! (any holder) --take: transitions + 1, our session--> ours --renew--> ours
//!                                                         `--another session's--> Superseded
//! ```
//!
//! **Invariants:** a status is never written over a newer session's; a [`Fence`] never asks for a write over a Lease that names another session,
//! every [`LeaseWrite::Replace`] carries the resourceVersion that it was read with, and its `renewTime` is later than that one's: replicas' clocks
//! differ, and the node controller counts no renewal that is not later than the last.

use std::collections::BTreeSet;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use protocol::name::NodeName;
use protocol::object::Revision;
use serde_json::{Value, json};

/// What the Lease promises to the node controller; the kubelet's own value.
const LEASE_SECONDS: u32 = 40;
/// How many writes of its own a session remembers while its Lease cannot be renewed.
const OWN_MOST: usize = 1024;
/// The annotation that names the session, so that replicas can tell theirs from others'.
pub(crate) const SESSION: &str = "tombolo.dev/session";

/// A write that takes, renews or makes a Lease.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseWrite {
    /// There was none.
    Create(Value),
    /// In the place of the one that was read; a conflict means that it has changed since.
    Replace(Value),
}

/// The Lease of a node, held by one session.
#[derive(Debug)]
pub struct Fence {
    node: NodeName,
    session: String,
    lease: Value,
}

/// The write that takes a node's Lease for a session, whoever held it.
pub fn take(current: Option<&Value>, node: &NodeName, session: &str, now: SystemTime) -> LeaseWrite {
    match current {
        None => LeaseWrite::Create(fresh(node, session, now)),
        Some(lease) => LeaseWrite::Replace(taken(lease, session, now)),
    }
}

/// The session that a Lease names.
pub fn holder(lease: &Value) -> Option<&str> {
    lease["metadata"]["annotations"][SESSION].as_str()
}

impl Fence {
    /// The fence of a session whose take was answered with this Lease.
    pub const fn new(node: NodeName, session: String, lease: Value) -> Self {
        Self { node, session, lease }
    }

    /// The node.
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// The session.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// The generation: grows by one with each session of the node.
    pub fn generation(&self) -> u64 {
        self.lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0)
    }

    /// The write that renews it.
    pub fn renewal(&self, now: SystemTime) -> LeaseWrite {
        LeaseWrite::Replace(renewed(&self.lease, now))
    }

    /// A write was answered with this Lease.
    pub fn wrote(&mut self, lease: Value) {
        self.lease = lease;
    }

    /// What to write after a renewal met a conflict and the Lease was read: ours with another
    /// revision (a lost reply), gone, or another's, whose session is the error.
    pub fn after_conflict(&self, found: Option<&Value>, now: SystemTime) -> Result<LeaseWrite, String> {
        match found {
            Some(lease) => {
                let by = holder(lease).unwrap_or("nobody");
                if by == self.session {
                    Ok(LeaseWrite::Replace(renewed(lease, now)))
                } else {
                    Err(by.to_owned())
                }
            }
            // Deleted with kubectl: made again, with the generation that it had.
            None => Ok(LeaseWrite::Create(reborn(&self.lease, now))),
        }
    }
}

/// Which states of the node's objects a newer session cannot have written, as far as a session knows.
///
/// A status is written over the state that the cache shows, and the cache may show what a newer
/// session wrote a moment ago, at another replica. Revisions are one sequence over all kinds: what is
/// not newer than this session's own last write of the Lease was written while the Lease was its own.
#[derive(Debug)]
pub struct Proof {
    session: String,
    lease: Revision,
    /// This session's own writes since then.
    own: BTreeSet<Revision>,
}

impl Proof {
    /// Of a session whose take of the Lease was answered with it.
    pub fn new(session: &str, lease: &Value) -> Self {
        Self {
            session: session.to_owned(),
            lease: revision_of(lease),
            own: BTreeSet::new(),
        }
    }

    /// The session.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// A renewal was answered with this Lease.
    pub fn renewed(&mut self, lease: &Value) {
        self.lease = revision_of(lease);
        self.own.retain(|own| *own > self.lease);
    }

    /// A session's write of an object made this revision.
    pub fn wrote(&mut self, session: &str, revision: Revision) {
        if session == self.session && revision > self.lease {
            self.own.insert(revision);
            // What is forgotten costs a read of the Lease.
            if self.own.len() > OWN_MOST {
                self.own.pop_first();
            }
        }
    }

    /// Whether a session may write over a state without reading the Lease: the proof is its own, and the state
    /// is older than that, its own, or a pod's that no node has reported yet.
    pub fn covers(&self, session: &str, state: &Value) -> bool {
        let revision = revision_of(state);
        let blank = state["status"]["startTime"].is_null() && state["status"]["nodeInfo"].is_null();
        session == self.session && (blank || revision <= self.lease || self.own.contains(&revision))
    }
}

fn revision_of(object: &Value) -> Revision {
    let text = object["metadata"]["resourceVersion"].as_str();
    // What cannot be read is newer than any proof.
    Revision(text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX))
}

/// Kubernetes' `MicroTime`: always six digits, always UTC.
fn micro_time(now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{now:.6}")
}

/// Now, or a moment after the time that a Lease says: one that another replica renewed whose clock is ahead, or
/// this one before its clock was set back. A time that cannot be read counts as none.
fn after(lease: &Value, now: SystemTime) -> String {
    let said = lease["spec"]["renewTime"].as_str();
    let said = said.and_then(|said| said.parse::<Timestamp>().ok());
    let next = said.and_then(|said| said.checked_add(SignedDuration::from_micros(1)).ok());
    micro_time(next.map_or(now, |next| now.max(next.into())))
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
    next["spec"]["acquireTime"] = json!(after(lease, now));
    next["spec"]["renewTime"] = next["spec"]["acquireTime"].clone();
    next
}

fn renewed(lease: &Value, now: SystemTime) -> Value {
    let mut next = lease.clone();
    next["spec"]["renewTime"] = json!(after(lease, now));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

        let LeaseWrite::Replace(next) = take(Some(&lease), &node(), "two", at(5)) else {
            panic!("a Lease that is there is replaced");
        };

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
    fn a_replica_whose_clock_is_behind_still_renews() {
        let says = |write: LeaseWrite| match write {
            LeaseWrite::Replace(lease) | LeaseWrite::Create(lease) => lease,
        };
        let ahead = fresh(&node(), "one", at(1000));
        let taken = says(take(Some(&ahead), &node(), "two", at(700)));
        assert_eq!(taken["spec"]["renewTime"], "1970-01-01T00:16:40.000001Z");
        let fence = Fence::new(node(), "two".into(), taken);
        let renewed = says(fence.renewal(at(710)));
        assert_eq!(renewed["spec"]["renewTime"], "1970-01-01T00:16:40.000002Z");
        let again = says(fence.after_conflict(Some(&renewed), at(720)).unwrap());
        assert_eq!(again["spec"]["renewTime"], "1970-01-01T00:16:40.000003Z");
        let made_again = says(fence.after_conflict(None, at(720)).unwrap());
        assert_eq!(made_again["spec"]["renewTime"], "1970-01-01T00:16:40.000002Z");
        // Its own clock counts as soon as it is later.
        assert_eq!(
            says(fence.renewal(at(1001)))["spec"]["renewTime"],
            "1970-01-01T00:16:41.000000Z"
        );
    }

    #[test]
    fn a_renewal_time_that_cannot_be_read_counts_as_none() {
        let mut lease = fresh(&node(), "one", at(1000));
        for said in [json!("soon"), json!(null), json!(7)] {
            lease["spec"]["renewTime"] = said;
            assert_eq!(
                renewed(&lease, at(5))["spec"]["renewTime"],
                "1970-01-01T00:00:05.000000Z"
            );
        }
        // Nothing is later than the last time there is.
        lease["spec"]["renewTime"] = json!(Timestamp::MAX.to_string());
        assert!(renewed(&lease, at(5))["spec"]["renewTime"].is_string());
    }

    #[test]
    fn a_lease_that_names_another_session_supersedes() {
        let fence = Fence::new(node(), "one".into(), fresh(&node(), "one", at(0)));
        assert!(fence.after_conflict(Some(&fence.lease), at(1)).is_ok());
        let other = taken(&fence.lease, "two", at(1));
        assert_eq!(fence.after_conflict(Some(&other), at(2)).unwrap_err(), "two");
    }

    #[test]
    fn what_was_written_after_the_last_renewal_by_another_is_not_covered() {
        let at =
            |revision: &str| json!({"metadata": {"resourceVersion": revision}, "status": {"startTime": "t"}});
        let mut proof = Proof::new("one", &at("10"));
        assert!(proof.covers("one", &at("10")) && !proof.covers("one", &at("11")));
        proof.wrote("one", Revision(12));
        assert!(proof.covers("one", &at("12")) && !proof.covers("one", &at("13")));
        proof.renewed(&at("14"));
        assert!(proof.covers("one", &at("13")) && proof.own.is_empty());
        // A restored cluster begins at a lower revision, and nothing is known of what is above.
        proof.renewed(&at("5"));
        assert!(!proof.covers("one", &at("12")));
    }

    #[test]
    fn a_session_that_cannot_renew_remembers_its_newest_writes_alone() {
        let at = |revision: u64| json!({"metadata": {"resourceVersion": revision.to_string()}, "status": {"startTime": "t"}});
        let mut proof = Proof::new("one", &at(10));
        let last = 11 + OWN_MOST as u64;
        for revision in 11..=last {
            proof.wrote("one", Revision(revision));
        }
        assert_eq!(proof.own.len(), OWN_MOST);
        assert!(proof.covers("one", &at(last)) && !proof.covers("one", &at(11)));
    }

    #[test]
    fn the_proof_of_a_newer_session_of_the_same_replica_is_not_an_older_one_s() {
        let at =
            |revision: &str| json!({"metadata": {"resourceVersion": revision}, "status": {"startTime": "t"}});
        let mut proof = Proof::new("two", &at("10"));
        assert!(proof.covers("two", &at("9")) && !proof.covers("one", &at("9")));
        proof.wrote("one", Revision(12));
        assert!(!proof.covers("two", &at("12")));
    }

    #[test]
    fn a_pod_that_no_node_has_reported_is_nobodys() {
        let proof = Proof::new("one", &json!({"metadata": {"resourceVersion": "10"}}));
        let pod = json!({"metadata": {"resourceVersion": "11"}, "status": {"phase": "Pending"}});
        assert!(proof.covers("one", &pod));
    }

    #[test]
    fn a_lease_made_again_keeps_its_generation_and_carries_nothing_of_the_servers() {
        let mut lease = taken(&fresh(&node(), "one", at(0)), "two", at(1));
        lease["metadata"]["uid"] = json!("u");
        lease["metadata"]["resourceVersion"] = json!("9");
        let fence = Fence::new(node(), "two".into(), lease);
        let Ok(LeaseWrite::Create(next)) = fence.after_conflict(None, at(2)) else {
            panic!("a Lease that is gone is made again");
        };
        assert_eq!(next["spec"]["leaseTransitions"], 2);
        assert!(next["metadata"].get("uid").is_none() && next["metadata"].get("resourceVersion").is_none());
    }
}
