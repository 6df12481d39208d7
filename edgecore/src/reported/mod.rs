//! What this node observed, on its way to the cluster.
//!
//! [`Reporter`] is the shell of the outbox: it makes each report durable before it returns, sends
//! what is due while there is a stream, and deletes what the API server has.
//!
//! ```text
//! pods, node ──put──► Outbox ──Change──► Book.unwritten ──one batch──► store
//!                       └──Report──► stream ──► cloud ──Committed──► Outbox
//! ```
//!
//! Events have a stream of their own where the cloud takes one, and wait in the outbox when the link's
//! budget says so.
//!
//! **Invariant:** changes reach the store in the order in which the outbox made them, so that a
//! deletion can never be overtaken by the entry that it deletes; and an entry is written before the one that it
//! replaces is deleted. A power cut between two writes leaves both, and the next start deletes the older one.

mod devices;
mod flow;
mod statuses;
mod transitions;
mod unwritten;

pub use flow::{FlowError, Way};

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Event, Node, NodeCondition, Pod};
use parking_lot::Mutex;
use prost::Message as _;
use protocol::reported::{Change, Outbox, OutboxKey, PodIdentity, Seq};
use protocol::wire::Report as Entry;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::pods::spec;
use crate::store::{Db, MAX_OPS, Op, StoreError, Table};
use statuses::LastStatus;
use unwritten::{RESERVED, Unwritten};

/// Why a report could not be kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The store refused.
    #[error("the report could not be stored")]
    Store(#[from] StoreError),
    /// The report cannot be written as JSON.
    #[error("the report cannot be written")]
    Encode(#[from] serde_json::Error),
}

/// Reports of this node, kept until the API server has them.
#[derive(Debug)]
pub struct Reporter {
    db: Db,
    book: Mutex<Book>,
    /// How far the store is; whoever holds it writes.
    written: tokio::sync::Mutex<u64>,
    changed: Notify,
    /// The same for events: they may have a stream of their own.
    told: Notify,
    began: Instant,
}

#[derive(Debug)]
struct Book {
    outbox: Outbox,
    /// The last status of each pod, also from before a restart.
    statuses: BTreeMap<String, LastStatus>,
    /// Those of which nothing may be said yet.
    withheld: BTreeMap<String, LastStatus>,
    /// Since when what holds of the node.
    conditions: Vec<NodeCondition>,
    unwritten: Unwritten,
    /// How many changes were ever made.
    made: u64,
    /// Which entries of devices are on flash, and which are not.
    devices: devices::Places,
}

impl Reporter {
    /// The reports that the API server did not have when edgecore last ran. What it did have of
    /// pods is said again, for the cluster may have changed its mind in the meantime.
    pub async fn load(db: Db) -> Result<Self, StoreError> {
        let reserved = db.get(Table::Meta, RESERVED).await?;
        let reserved = reserved.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let mut entries = Vec::new();
        for table in [Table::Outbox, Table::Event] {
            for (key, bytes) in db.scan(table).await? {
                match Entry::decode(bytes) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => {
                        tracing::warn!(key, %error, "a stored report cannot be read; it is dropped");
                    }
                }
            }
        }
        let waiting: Vec<_> = entries
            .iter()
            .filter_map(|entry| OutboxKey::from_wire(entry.key.clone()))
            .collect();
        let places = devices::Places::of(&entries);
        let replaced = replaced(&entries);
        let (outbox, unreadable) = Outbox::load(entries, reserved.unwrap_or_default());
        for error in unreadable {
            tracing::warn!(%error, "the outbox was repaired");
        }
        let mut book = Book {
            outbox,
            statuses: BTreeMap::new(),
            withheld: BTreeMap::new(),
            conditions: transitions::load(&db).await?,
            unwritten: Unwritten::default(),
            made: 0,
            devices: places,
        };
        // Before anything else is written: one that outlived its successor would be sent at a later start.
        for seq in replaced {
            book.keep(Table::Outbox, entry_key(seq), Op::Delete);
        }
        for (uid, bytes) in db.scan(Table::PodState).await? {
            match serde_json::from_slice::<LastStatus>(&bytes) {
                Ok(last) => book.remember(uid, last, &waiting),
                Err(error) => {
                    tracing::warn!(uid, %error, "a stored pod status cannot be read; it is dropped");
                }
            }
        }
        Ok(Self {
            db,
            book: Mutex::new(book),
            written: tokio::sync::Mutex::new(0),
            changed: Notify::new(),
            told: Notify::new(),
            began: Instant::now(),
        })
    }

    /// Reports the node's document.
    pub async fn node(&self, document: &Node) -> Result<(), ReportError> {
        let json = serde_json::to_vec(document)?;
        let conditions = transitions::of(document);
        let kept = serde_json::to_vec(&conditions)?;
        self.put(|book| {
            book.put(OutboxKey::Node, &json);
            if book.conditions != conditions {
                book.keep(Table::Meta, transitions::ROW.to_owned(), Op::Put(kept.into()));
                book.conditions = conditions;
            }
        })
        .await
    }

    /// Which conditions the node had last, and since when, also from before a restart.
    pub fn node_conditions(&self) -> Vec<NodeCondition> {
        self.book.lock().conditions.clone()
    }

    /// Says that nothing of a pod is left here.
    pub async fn gone(&self, pod: &Pod) -> Result<(), ReportError> {
        let identity = identity(pod);
        self.put(|book| {
            let change = book.outbox.gone(identity);
            book.note(change, Table::Outbox);
        })
        .await
    }

    /// Tells an event; the same name is the same event.
    pub async fn event(&self, event: &Event) -> Result<(), ReportError> {
        let key = OutboxKey::Event {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            name: event.metadata.name.clone().unwrap_or_default(),
        };
        let json = serde_json::to_vec(event)?;
        let kept = self
            .put(|book| {
                let change = book.outbox.put(key, &json);
                book.note(change, Table::Event);
            })
            .await;
        self.told.notify_one();
        kept
    }

    /// Events that the API server does not have yet.
    pub fn pending_events(&self) -> usize {
        self.book.lock().outbox.pending_events()
    }

    /// Reports that the API server does not have yet.
    pub fn pending(&self) -> usize {
        self.book.lock().outbox.pending()
    }

    /// Entries that the API server keeps refusing, one line each.
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.book.lock().outbox.troubles();
        troubles
            .into_iter()
            .map(|trouble| {
                format!(
                    "{}: refused {} times: {}",
                    trouble.key, trouble.attempts, trouble.text
                )
            })
            .collect()
    }

    async fn put(&self, change: impl FnOnce(&mut Book)) -> Result<(), ReportError> {
        let mine = {
            let mut book = self.book.lock();
            change(&mut book);
            book.made
        };
        let written = self.write(mine).await;
        self.changed.notify_one();
        Ok(written?)
    }

    /// Returns when change `mine` is durable. Whoever comes first writes for all.
    async fn write(&self, mine: u64) -> Result<(), StoreError> {
        let mut written = self.written.lock().await;
        if *written >= mine {
            return Ok(());
        }
        let (mut left, made) = {
            let book = self.book.lock();
            (book.unwritten.len(), book.made)
        };
        while left > 0 {
            let batch = self.book.lock().unwritten.offer(left.min(MAX_OPS));
            let taken = batch.len();
            if let Err(error) = self.db.commit(batch).await {
                self.book.lock().unwritten.refused(&error);
                return Err(error);
            }
            self.book.lock().unwritten.written();
            left -= taken;
        }
        *written = made;
        self.book.lock().devices.written(made);
        Ok(())
    }
}

impl Book {
    fn put(&mut self, key: OutboxKey, json: &[u8]) {
        let change = self.outbox.put(key, json);
        self.note(change, Table::Outbox);
    }

    fn keep(&mut self, table: Table, key: String, op: Op) {
        self.unwritten.push(table, key, op);
        self.made += 1;
    }

    /// The same for a row that is not on flash.
    fn keep_new(&mut self, table: Table, key: String, op: Op) {
        self.unwritten.push_new(table, key, op);
        self.made += 1;
    }

    fn note(&mut self, change: Change, table: Table) {
        // The reservation first: a number on disk is never beyond what is reserved there.
        self.note_reservation(change.reserved);
        if let Some(entry) = change.write {
            let key = entry_key(Seq(entry.seq));
            self.keep(table, key, Op::Put(entry.encode_to_vec().into()));
        }
        for seq in change.delete {
            self.keep(table, entry_key(seq), Op::Delete);
        }
    }

    /// Whether numbers are about to be used whose reservation is not on the disk yet.
    fn reserves(&self) -> bool {
        self.unwritten.reserves()
    }

    fn note_reservation(&mut self, reserved: Option<u64>) {
        if let Some(reserved) = reserved {
            let end = Bytes::copy_from_slice(&reserved.to_be_bytes());
            self.keep(Table::Meta, RESERVED.to_owned(), Op::Put(end));
        }
    }
}

/// Entries of the node and of pods of which a newer one is on flash. (Those of devices have their
/// [places](devices::Places), and an event replaces none.)
fn replaced(entries: &[Entry]) -> Vec<Seq> {
    let mut newest: BTreeMap<OutboxKey, u64> = BTreeMap::new();
    let mut replaced = Vec::new();
    for entry in entries {
        let Some(key) = OutboxKey::from_wire(entry.key.clone()) else {
            continue;
        };
        if key.is_event() || matches!(key, OutboxKey::Device(_)) {
            continue;
        }
        let seq = entry.seq;
        let other = newest.get(&key).copied();
        newest.insert(key, other.map_or(seq, |other| other.max(seq)));
        replaced.extend(other.map(|other| Seq(other.min(seq))));
    }
    replaced
}

/// Numbers in the order of the keys.
fn entry_key(seq: Seq) -> String {
    format!("{:020}", seq.0)
}

fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity {
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
        uid: spec::uid(pod).to_owned(),
    }
}

#[cfg(test)]
mod tests;
