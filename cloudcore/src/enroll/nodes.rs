//! Enrolled devices for the people who look after them: listed, forgotten.

use std::{collections::HashSet, time::SystemTime};

use protocol::{name::NodeName, tls::KeyHash};
use tracing::warn;

use super::{
    authority::{Authority, AuthorityError},
    records::{KeyRecord, NODE, TOKEN, TokenRecord, node_secret},
    secrets::Race,
};

/// Races lost before an operator is told to try again.
const TRIES: usize = 5;

/// A device that was enrolled.
#[derive(Clone, Debug)]
pub struct EnrolledNode {
    /// Its name.
    pub node: NodeName,
    /// Its key.
    pub key: KeyHash,
    /// Since when the key is accepted.
    pub since: SystemTime,
    /// Whether the key is banned.
    pub banned: bool,
}

impl Authority {
    /// Every enrolled device.
    pub async fn enrolled(&self) -> Result<Vec<EnrolledNode>, AuthorityError> {
        let keys = self
            .secrets
            .list(NODE)
            .await
            .map_err(AuthorityError::api("list the nodes' keys"))?;
        let bans: HashSet<_> = self.bans().await?.into_iter().map(|ban| ban.key).collect();
        let read = |record: KeyRecord| EnrolledNode {
            banned: bans.contains(&record.key),
            node: record.node,
            key: record.key,
            since: record.since,
        };
        let records = keys.iter().filter_map(|stored| {
            KeyRecord::read(stored)
                .inspect_err(|damaged| warn!(error = %damaged, "a key is passed over"))
                .ok()
        });
        Ok(records.map(read).collect())
    }

    /// Forgets the key of a node, which frees its name; false where there was none. To be done
    /// before its Node is deleted, or the Node is made again.
    pub async fn forget(&self, node: &NodeName) -> Result<bool, AuthorityError> {
        self.strike(node).await?;
        let name = node_secret(node);
        self.secrets
            .remove(&name)
            .await
            .map_err(AuthorityError::api(format!("delete Secret {name}")))
    }

    /// A use of a token that is recorded is granted once more, for answers that were lost; not to a node that is
    /// removed, or its spent token would bring it back.
    async fn strike(&self, node: &NodeName) -> Result<(), AuthorityError> {
        for _ in 0..TRIES {
            if self.strike_once(node).await? == Race::Won {
                return Ok(());
            }
        }
        let secret = "of a join token".to_owned();
        Err(AuthorityError::Contended { secret })
    }

    async fn strike_once(&self, node: &NodeName) -> Result<Race, AuthorityError> {
        let listed = self.secrets.list(TOKEN).await;
        let mut race = Race::Won;
        for stored in listed.map_err(AuthorityError::api("list the join tokens"))? {
            let record = TokenRecord::read(&stored).inspect_err(|damaged| {
                warn!(error = %damaged, "a token is passed over");
            });
            if let Some(struck) = record.ok().and_then(|record| record.without(node)) {
                let replaced = self.secrets.replace(&stored, struck.data()).await;
                let replaced =
                    replaced.map_err(AuthorityError::api(format!("write Secret {}", stored.name)))?;
                if replaced == Race::Lost {
                    race = Race::Lost;
                }
            }
        }
        Ok(race)
    }
}
