//! What this replica knows of keys, bans and the epoch, kept up to date by one watch.
//!
//! **Invariant:** only what the watch (or a fresh read) said is in it; a damaged ban still bans.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::RwLock;
use protocol::{name::NodeName, tls::KeyHash};
use tokio::sync::watch;
use tracing::warn;

use super::{
    records::{BAN, CA_SECRET, KeyRecord, NODE, banned_key, epoch_of},
    secrets::{CA, KIND_LABEL, Stored},
};

/// Accepted keys and bans.
#[derive(Debug, Default)]
pub(super) struct Known {
    facts: RwLock<Facts>,
    /// Counts changes; 0 until everything was listed once.
    changes: watch::Sender<u64>,
    /// The highest that was seen.
    epoch: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Facts {
    keys: HashMap<NodeName, KeyHash>,
    bans: HashSet<KeyHash>,
}

/// One Secret's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fact {
    Key(NodeName, KeyHash),
    Ban(KeyHash),
    Epoch(u64),
}

impl Known {
    pub(super) fn accepted(&self, node: &NodeName) -> Option<KeyHash> {
        self.facts.read().keys.get(node).copied()
    }

    pub(super) fn is_banned(&self, key: &KeyHash) -> bool {
        self.facts.read().bans.contains(key)
    }

    /// What a fresh read said, before the watch does.
    pub(super) fn learn(&self, node: &NodeName, key: KeyHash) {
        self.facts.write().keys.insert(node.clone(), key);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) async fn synced(&self) {
        // Fails only when the sender is gone, and that is `self`.
        let _ = self.changes.subscribe().wait_for(|changes| *changes > 0).await;
    }

    /// Waits for an epoch that is higher.
    pub(super) async fn epoch_above(&self, held: u64) -> u64 {
        let mut epochs = self.epoch.subscribe();
        let seen = epochs.wait_for(|epoch| *epoch > held).await.map(|epoch| *epoch);
        // Fails only when the sender is gone, and that is `self`.
        seen.unwrap_or(held)
    }

    /// Follows the Secrets, until dropped.
    pub(super) async fn follow(&self, api: Api<Secret>) {
        let ours = watcher::Config::default().labels(&format!("{KIND_LABEL} in ({NODE},{BAN},{CA})"));
        let mut events = watcher::watcher(api, ours).default_backoff().boxed();
        let mut listing = Facts::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event, &mut listing),
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the watch of keys and bans failed; trying again"
                    );
                }
            }
        }
    }

    fn take(&self, event: Event<Secret>, listing: &mut Facts) {
        match event {
            Event::Init => *listing = Facts::default(),
            Event::InitApply(secret) => listing.add(self.read(secret)),
            Event::InitDone => self.change(|facts| *facts = std::mem::take(listing)),
            Event::Apply(secret) => {
                let fact = self.read(secret);
                self.change(|facts| facts.add(fact));
            }
            Event::Delete(secret) => self.change(|facts| facts.remove(read(secret))),
        }
    }

    /// An epoch is no fact that may be lost again: it is kept apart.
    fn read(&self, secret: Secret) -> Option<Fact> {
        let fact = read(secret)?;
        if let Fact::Epoch(seen) = fact {
            self.epoch.send_if_modified(|epoch| {
                let higher = seen > *epoch;
                *epoch = seen.max(*epoch);
                higher
            });
        }
        Some(fact)
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.write());
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl Facts {
    fn add(&mut self, fact: Option<Fact>) {
        match fact {
            Some(Fact::Key(node, key)) => {
                self.keys.insert(node, key);
            }
            Some(Fact::Ban(key)) => {
                self.bans.insert(key);
            }
            Some(Fact::Epoch(_)) | None => {}
        }
    }

    fn remove(&mut self, fact: Option<Fact>) {
        match fact {
            Some(Fact::Key(node, _)) => {
                self.keys.remove(&node);
            }
            Some(Fact::Ban(key)) => {
                self.bans.remove(&key);
            }
            Some(Fact::Epoch(_)) | None => {}
        }
    }
}

/// A ban is read from its Secret's name, so that damage within cannot lift it.
fn read(secret: Secret) -> Option<Fact> {
    let stored = Stored::of(secret);
    let fact = match stored.kind() {
        NODE => KeyRecord::read(&stored)
            .map(|record| Fact::Key(record.node, record.key))
            .ok(),
        BAN => banned_key(&stored.name).map(Fact::Ban),
        CA => (stored.name == CA_SECRET).then(|| Fact::Epoch(epoch_of(&stored))),
        _ => None,
    };
    if fact.is_none() {
        warn!(
            secret = stored.name,
            "does not read as a key, a ban or the CA, and is passed over"
        );
    }
    fact
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;
    use crate::enroll::{
        records::{ban_secret, node_secret},
        secrets::Data,
    };

    fn secret(name: String, kind: &str, data: Data) -> Secret {
        let labels = Some([(KIND_LABEL.to_owned(), kind.to_owned())].into());
        let data = data
            .into_iter()
            .map(|(key, value)| (key, ByteString(value.into_bytes())))
            .collect();
        let metadata = ObjectMeta {
            name: Some(name),
            labels,
            ..ObjectMeta::default()
        };
        Secret {
            metadata,
            data: Some(data),
            ..Secret::default()
        }
    }

    fn key(node: &str, key: u8) -> Secret {
        let node: NodeName = node.parse().unwrap();
        let record = KeyRecord {
            node: node.clone(),
            key: KeyHash([key; 32]),
            since: UNIX_EPOCH,
            replaced: vec![],
        };
        secret(node_secret(&node), NODE, record.data())
    }

    #[test]
    fn a_relist_forgets_what_is_gone_and_nobody_sees_half_of_it() {
        let (known, mut listing) = (Known::default(), Facts::default());
        let name: NodeName = "a".parse().unwrap();
        known.take(Event::Init, &mut listing);
        known.take(Event::InitApply(key("a", 1)), &mut listing);
        assert_eq!(known.accepted(&name), None);
        known.take(Event::InitDone, &mut listing);
        assert_eq!(known.accepted(&name), Some(KeyHash([1; 32])));
        known.take(Event::Apply(key("a", 2)), &mut listing);
        assert_eq!(known.accepted(&name), Some(KeyHash([2; 32])));
        known.take(Event::Init, &mut listing);
        assert_eq!(known.accepted(&name), Some(KeyHash([2; 32])));
        known.take(Event::InitDone, &mut listing);
        assert_eq!(known.accepted(&name), None);
    }

    #[test]
    fn an_empty_ban_still_bans_and_lifting_it_takes_its_removal() {
        let (known, mut listing) = (Known::default(), Facts::default());
        let ban = secret(ban_secret(&KeyHash([3; 32])), BAN, Data::new());
        known.take(Event::Apply(ban.clone()), &mut listing);
        assert!(known.is_banned(&KeyHash([3; 32])));
        known.take(Event::Delete(ban), &mut listing);
        assert!(!known.is_banned(&KeyHash([3; 32])));
    }
}
