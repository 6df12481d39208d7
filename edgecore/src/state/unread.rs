//! Pods that the cluster wants and of which this node holds no readable version.
//!
//! After a downgrade, with a damaged value or a full disk, a pod may run that nobody here knows. It is no
//! orphan: it goes on as it is until a version comes that can be read, or until the cluster removes it.

use std::collections::BTreeSet;

use protocol::desired::Held;
use protocol::object::{Digest, ObjectKey, Revision, Version};

use super::{Desired, Holdings};
use crate::pods::seams::UnreadPod;

/// How the replica knows a row that cannot be read: older than anything, and equal to nothing, so that the
/// next comparison replaces or removes it. Without a UID, so that it comes with its status.
pub(super) fn held(key: ObjectKey) -> Held {
    Held {
        key,
        version: Version {
            uid: String::new(),
            revision: Revision(0),
            digest: Digest::of(b"unreadable"),
        },
        references: BTreeSet::new(),
    }
}

impl Holdings {
    fn unread_pods(&self) -> Vec<UnreadPod> {
        let pod = |key: &ObjectKey, uid: Option<&String>| UnreadPod {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.cloned(),
        };
        let unread = self.unread.iter().map(|(key, uid)| pod(key, uid.as_ref()));
        let untaken = self.untaken.iter().map(|(key, uid)| pod(key, Some(uid)));
        unread.chain(untaken).collect()
    }
}

impl Desired {
    pub(super) fn unread_pods(&self) -> Vec<UnreadPod> {
        self.shared.held.read().unread_pods()
    }
}
