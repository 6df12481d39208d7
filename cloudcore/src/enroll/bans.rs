//! Bans for the people who look after devices: made, listed, ended.
//!
//! A ban is of a key, under whatever name it comes, and outlives the node: who bans a device and removes it
//! finds the ban here.

use std::{collections::BTreeMap, time::SystemTime};

use protocol::{name::NodeName, tls::KeyHash};
use tracing::warn;

use super::{
    authority::{Authority, AuthorityError},
    records::{BAN, BanRecord, ban_secret, banned_key},
    secrets::Stored,
};

/// A key that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BannedKey {
    /// The key.
    pub key: KeyHash,
    /// The node that had it when it was banned; none where the record is damaged, and the ban holds all the same.
    pub node: Option<NodeName>,
    /// Since when.
    pub since: Option<SystemTime>,
}

impl Authority {
    /// Every ban there is.
    pub async fn bans(&self) -> Result<Vec<BannedKey>, AuthorityError> {
        let listed = self.secrets.list(BAN).await;
        let listed = listed.map_err(AuthorityError::api("list the bans"))?;
        Ok(listed.iter().filter_map(read).collect())
    }

    /// Bans the key of a node, under any name: its session and tunnels end at once on every
    /// replica. The name stays taken; a token with `--replace-key` gives it to another device.
    pub async fn ban(&self, node: &NodeName) -> Result<KeyHash, AuthorityError> {
        let record = self.read_key(node).await?;
        let record = record.ok_or_else(|| AuthorityError::NoSuchNode(node.clone()))?;
        let ban = BanRecord {
            key: record.key,
            node: node.clone(),
            since: self.settings.clock.now(),
        };
        let name = ban_secret(&record.key);
        // Where it exists already, it holds already.
        let created = self.secrets.create(&name, BAN, ban.data(), BTreeMap::new()).await;
        created.map_err(AuthorityError::api(format!("create Secret {name}")))?;
        Ok(record.key)
    }

    /// Ends the ban of a key; false where there was none. Whether it is accepted again is another question: a
    /// node that was removed must join.
    pub async fn unban(&self, key: &KeyHash) -> Result<bool, AuthorityError> {
        let name = ban_secret(key);
        let removed = self.secrets.remove(&name).await;
        removed.map_err(AuthorityError::api(format!("delete Secret {name}")))
    }
}

/// A ban is what its Secret's name says, so that damage within cannot hide it.
fn read(stored: &Stored) -> Option<BannedKey> {
    let Some(key) = banned_key(&stored.name) else {
        warn!(secret = stored.name, "is no ban, and is passed over");
        return None;
    };
    let record = BanRecord::read(stored)
        .inspect_err(|damaged| warn!(error = %damaged, "a damaged ban still holds"))
        .ok();
    Some(BannedKey {
        key,
        node: record.as_ref().map(|record| record.node.clone()),
        since: record.map(|record| record.since),
    })
}
