//! What the Secrets say: tokens, accepted keys, bans, the epoch. Text in, types out, and back.

use std::{str::FromStr, time::SystemTime};

use jiff::Timestamp;
use protocol::{
    join::{SecretHash, TokenId},
    name::NodeName,
    tls::KeyHash,
};
use thiserror::Error;

use super::secrets::{Data, Stored};

/// The kind label of a join token.
pub(super) const TOKEN: &str = "token";
/// The kind label of a node's accepted key.
pub(super) const NODE: &str = "node";
/// The kind label of a ban.
pub(super) const BAN: &str = "ban";
/// The Secret with the CA, which bears the cluster's epoch too.
pub(super) const CA_SECRET: &str = "tombolo-ca";
/// The annotation that has the epoch.
pub(super) const EPOCH: &str = "tombolo.dev/epoch";
/// What the epoch is where nobody has raised it.
pub(super) const FIRST_EPOCH: u64 = 1;
/// What the names of bans begin with.
const BAN_PREFIX: &str = "tombolo-ban-";

/// Replaced keys that are remembered, so that an old token cannot bring one back.
const REPLACED_MAX: usize = 32;

/// A Secret of ours does not say what it should.
#[derive(Debug, Error)]
#[error("Secret {secret} is damaged: {field} is missing or unreadable; {}", self.remedy())]
pub struct Damaged {
    /// The Secret.
    pub secret: String,
    /// The key within it.
    pub field: &'static str,
}

impl Damaged {
    /// Without its CA no device is let in any more; what else there is can be made again.
    fn remedy(&self) -> &'static str {
        if self.secret == CA_SECRET {
            "restore it from a backup (docs/operate.md, Back up and restore), and do not delete it: every device would \
             have to join anew"
        } else {
            "restore it from a backup (docs/operate.md, Back up and restore), or delete it if there is none"
        }
    }
}

pub(super) fn token_secret(id: &TokenId) -> String {
    format!("tombolo-token-{id}")
}

pub(super) fn node_secret(node: &NodeName) -> String {
    format!("tombolo-node-{node}")
}

pub(super) fn ban_secret(key: &KeyHash) -> String {
    format!("{BAN_PREFIX}{key}")
}

/// The key that a ban's Secret is named after.
pub(super) fn banned_key(secret: &str) -> Option<KeyHash> {
    secret.strip_prefix(BAN_PREFIX)?.parse().ok()
}

/// What a Secret says of the epoch.
pub(super) fn epoch_of(secret: &Stored) -> u64 {
    let said = secret.annotations.get(EPOCH);
    said.and_then(|epoch| epoch.trim().parse().ok())
        .unwrap_or(FIRST_EPOCH)
}

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenRecord {
    pub(super) hash: SecretHash,
    pub(super) expires: SystemTime,
    pub(super) uses: u32,
    pub(super) node: Option<NodeName>,
    pub(super) replace_key: bool,
    pub(super) used: Vec<Use>,
}

/// One use of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) node: NodeName,
    pub(super) key: KeyHash,
}

/// Stands for the key of a device that was removed: no key hashes to it.
const STRUCK: KeyHash = KeyHash([0; 32]);

impl TokenRecord {
    /// The record without the right of a removed node to use the token once more; its use still counts. None where
    /// it has no such right.
    pub(super) fn without(&self, node: &NodeName) -> Option<Self> {
        let mut record = self.clone();
        let mut struck = false;
        for used in &mut record.used {
            if used.node == *node && used.key != STRUCK {
                used.key = STRUCK;
                struck = true;
            }
        }
        struck.then_some(record)
    }

    pub(super) fn read(stored: &Stored) -> Result<Self, Damaged> {
        let used: Option<Vec<Use>> = lines(stored, "used-by").map(Use::parse).collect();
        Ok(Self {
            hash: field(stored, "hash")?,
            expires: time(stored, "expires")?,
            uses: field(stored, "uses")?,
            node: optional(stored, "node")?,
            replace_key: optional(stored, "replace-key")?.unwrap_or(false),
            used: used.ok_or_else(|| damaged(stored, "used-by"))?,
        })
    }

    pub(super) fn data(&self) -> Data {
        let mut data = Data::new();
        data.insert("hash".to_owned(), self.hash.to_string());
        data.insert("expires".to_owned(), show(self.expires));
        data.insert("uses".to_owned(), self.uses.to_string());
        if let Some(node) = &self.node {
            data.insert("node".to_owned(), node.to_string());
        }
        if self.replace_key {
            data.insert("replace-key".to_owned(), "true".to_owned());
        }
        if !self.used.is_empty() {
            let used: Vec<_> = self
                .used
                .iter()
                .map(|used| format!("{} {}", used.node, used.key))
                .collect();
            data.insert("used-by".to_owned(), used.join("\n"));
        }
        data
    }
}

impl Use {
    fn parse(line: &str) -> Option<Self> {
        let (node, key) = line.split_once(' ')?;
        Some(Self {
            node: node.parse().ok()?,
            key: key.parse().ok()?,
        })
    }
}

/// The key that is accepted for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRecord {
    pub(super) node: NodeName,
    pub(super) key: KeyHash,
    pub(super) since: SystemTime,
    /// Keys that once were.
    pub(super) replaced: Vec<KeyHash>,
}

impl KeyRecord {
    pub(super) fn read(stored: &Stored) -> Result<Self, Damaged> {
        let replaced: Result<Vec<KeyHash>, _> = lines(stored, "replaced").map(str::parse).collect();
        Ok(Self {
            node: field(stored, "node")?,
            key: field(stored, "key")?,
            since: time(stored, "since")?,
            replaced: replaced.map_err(|_| damaged(stored, "replaced"))?,
        })
    }

    /// The record with another key, the present one among the replaced.
    pub(super) fn replaced_by(&self, key: KeyHash, now: SystemTime) -> Self {
        let mut replaced: Vec<_> = self.replaced.iter().copied().filter(|old| *old != key).collect();
        replaced.push(self.key);
        let excess = replaced.len().saturating_sub(REPLACED_MAX);
        replaced.drain(..excess);
        Self {
            node: self.node.clone(),
            key,
            since: now,
            replaced,
        }
    }

    pub(super) fn data(&self) -> Data {
        let mut data = Data::new();
        data.insert("node".to_owned(), self.node.to_string());
        data.insert("key".to_owned(), self.key.to_string());
        data.insert("since".to_owned(), show(self.since));
        if !self.replaced.is_empty() {
            let replaced: Vec<_> = self.replaced.iter().map(ToString::to_string).collect();
            data.insert("replaced".to_owned(), replaced.join("\n"));
        }
        data
    }
}

/// A key that is not wanted any more, under any name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BanRecord {
    pub(super) key: KeyHash,
    pub(super) node: NodeName,
    pub(super) since: SystemTime,
}

impl BanRecord {
    pub(super) fn read(stored: &Stored) -> Result<Self, Damaged> {
        Ok(Self {
            key: field(stored, "key")?,
            node: field(stored, "node")?,
            since: time(stored, "since")?,
        })
    }

    pub(super) fn data(&self) -> Data {
        Data::from([
            ("key".to_owned(), self.key.to_string()),
            ("node".to_owned(), self.node.to_string()),
            ("since".to_owned(), show(self.since)),
        ])
    }
}

fn damaged(stored: &Stored, field: &'static str) -> Damaged {
    Damaged {
        secret: stored.name.clone(),
        field,
    }
}

fn optional<T: FromStr>(stored: &Stored, name: &'static str) -> Result<Option<T>, Damaged> {
    stored
        .data
        .get(name)
        .map(|text| text.trim().parse())
        .transpose()
        .map_err(|_| damaged(stored, name))
}

fn field<T: FromStr>(stored: &Stored, name: &'static str) -> Result<T, Damaged> {
    optional(stored, name)?.ok_or_else(|| damaged(stored, name))
}

fn time(stored: &Stored, name: &'static str) -> Result<SystemTime, Damaged> {
    Ok(field::<Timestamp>(stored, name)?.into())
}

fn lines<'a>(stored: &'a Stored, name: &str) -> impl Iterator<Item = &'a str> {
    stored
        .data
        .get(name)
        .map_or("", String::as_str)
        .lines()
        .filter(|line| !line.is_empty())
}

/// Whole seconds, as Kubernetes writes times.
pub(super) fn show(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use k8s_openapi::{ByteString, api::core::v1::Secret};

    use super::*;

    fn stored(data: Data) -> Stored {
        let data = data
            .into_iter()
            .map(|(key, value)| (key, ByteString(value.into_bytes())))
            .collect();
        Stored::of(Secret {
            data: Some(data),
            ..Secret::default()
        })
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_survives_its_secret() {
        let record = TokenRecord {
            hash: "ab".repeat(32).parse().unwrap(),
            expires: at(1_800_000_000),
            uses: 3,
            node: Some("edge-1".parse().unwrap()),
            replace_key: true,
            used: vec![Use {
                node: "edge-1".parse().unwrap(),
                key: KeyHash([1; 32]),
            }],
        };
        assert_eq!(TokenRecord::read(&stored(record.data())).unwrap(), record);
        let plain = TokenRecord {
            node: None,
            replace_key: false,
            used: vec![],
            ..record
        };
        assert_eq!(TokenRecord::read(&stored(plain.data())).unwrap(), plain);
    }

    #[test]
    fn a_damaged_secret_is_named_and_never_taken_for_an_open_door() {
        let mut data = BanRecord {
            key: KeyHash([2; 32]),
            node: "a".parse().unwrap(),
            since: at(1),
        }
        .data();
        data.insert("key".to_owned(), "zz".to_owned());
        assert_eq!(BanRecord::read(&stored(data)).unwrap_err().field, "key");
        assert!(TokenRecord::read(&stored(Data::new())).is_err());
    }

    #[test]
    fn nobody_is_told_to_delete_the_ca() {
        let told = |secret: &str| {
            let (secret, field) = (secret.to_owned(), "ca.key");
            Damaged { secret, field }.to_string()
        };
        let ca = told(CA_SECRET);
        assert!(
            ca.contains("restore it from a backup") && ca.contains("do not delete it"),
            "{ca}"
        );
        assert!(told("tombolo-node-a").contains("or delete it"));
    }

    #[test]
    fn replaced_keys_are_remembered_within_a_bound() {
        let mut record = KeyRecord {
            node: "a".parse().unwrap(),
            key: KeyHash([0; 32]),
            since: at(0),
            replaced: vec![],
        };
        for n in 1..=100 {
            record = record.replaced_by(KeyHash([n; 32]), at(u64::from(n)));
        }
        assert_eq!(record.replaced.len(), REPLACED_MAX);
        assert!(record.replaced.contains(&KeyHash([99; 32])) && !record.replaced.contains(&record.key));
        assert_eq!(KeyRecord::read(&stored(record.data())).unwrap(), record);
    }
}
