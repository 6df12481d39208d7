//! Which node has its session here.
//!
//! **Invariant:** one session a node; the newest wins and the older learns of it at once.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use protocol::{name::NodeName, tls::PeerIdentity};
use tokio::sync::oneshot;

/// The sessions of this replica.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<HashMap<NodeName, Entry>>>);

struct Entry {
    session: String,
    address: SocketAddr,
    certificate_ends: SystemTime,
    supersede: oneshot::Sender<String>,
}

/// A session, for those who look.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The node.
    pub node: NodeName,
    /// The session's name.
    pub session: String,
    /// Where the edge dials from.
    pub address: SocketAddr,
}

/// A session's place in the registry, given up when dropped.
pub(super) struct Registered {
    registry: Registry,
    node: NodeName,
    session: String,
    /// Resolves to the name of a newer session.
    pub(super) superseded: oneshot::Receiver<String>,
}

impl Registry {
    /// Enters a session; an older one of the node is told.
    pub(super) fn enter(&self, peer: &PeerIdentity, session: &str) -> Registered {
        let node = &peer.node;
        let (supersede, superseded) = oneshot::channel();
        let entry = Entry {
            session: session.to_owned(),
            address: peer.address,
            certificate_ends: peer.expires,
            supersede,
        };
        if let Some(older) = self.0.lock().insert(node.clone(), entry) {
            // Fails when the older session is over already.
            let _ = older.supersede.send(session.to_owned());
        }
        Registered {
            registry: self.clone(),
            node: node.clone(),
            session: session.to_owned(),
            superseded,
        }
    }

    pub(super) fn list(&self) -> Vec<Connected> {
        let connected = |(node, entry): (&NodeName, &Entry)| Connected {
            node: node.clone(),
            session: entry.session.clone(),
            address: entry.address,
        };
        self.0.lock().iter().map(connected).collect()
    }

    /// When the first of the nodes' certificates ends.
    pub(super) fn first_end(&self) -> Option<SystemTime> {
        self.0.lock().values().map(|entry| entry.certificate_ends).min()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Registered {
    /// The node's certificate was renewed.
    pub(super) fn extend(&self, certificate_ends: SystemTime) {
        let mut sessions = self.registry.0.lock();
        if let Some(entry) = sessions.get_mut(&self.node)
            && entry.session == self.session
        {
            entry.certificate_ends = certificate_ends;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut sessions = self.registry.0.lock();
        if sessions
            .get(&self.node)
            .is_some_and(|entry| entry.session == self.session)
        {
            sessions.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use protocol::tls::KeyHash;

    use super::*;

    #[test]
    fn the_newest_session_wins_and_an_older_end_does_not_touch_it() {
        let registry = Registry::default();
        let peer = PeerIdentity {
            node: "a".parse().unwrap(),
            key: KeyHash([1; 32]),
            expires: UNIX_EPOCH,
            address: "192.0.2.1:1".parse().unwrap(),
        };
        let later = UNIX_EPOCH + Duration::from_secs(9);
        let mut first = registry.enter(&peer, "s1");
        first.extend(later);
        assert_eq!(registry.first_end(), Some(later));
        assert!(first.superseded.try_recv().is_err());
        let second = registry.enter(&peer, "s2");
        first.extend(later);
        assert_eq!(registry.first_end(), Some(UNIX_EPOCH), "the older session's");
        assert_eq!(first.superseded.try_recv().unwrap(), "s2");
        drop(first);
        assert_eq!(registry.list()[0].session, "s2");
        drop(second);
        assert_eq!(registry.len(), 0);
    }
}
