//! What this node must hold: in memory for every reader, written through to the store.
//!
//! The whole state of an edge is a few megabytes, so readers never wait for the disk and never for
//! the network: after a power cut without a link, everything that was held is held again. Only the
//! uplink writes, and a change is visible here only when it is durable.
//!
//! ```text
//! uplink ──Commit──► Desired ──batch──► store
//!                      │ (then) memory
//!                      └──change counters──► pods::Manager, network, ...
//! ```
//!
//! What it does not do: decide what is newer (the replica does), or know what a pod contains.
//!
//! **Invariant:** memory never shows what a power cut could take back, unless the disk is
//! [read-only](crate::store::Stores::frozen): then any end of the program takes back what came since, and the cluster
//! sends it again.

mod codec;
mod fences;
mod lookup;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fences::{FENCES, VoidChanges, VoidRows};
use parking_lot::{Mutex, RwLock};
use protocol::desired::{AbsentReason, Commit, Fences, Held, names_others, references};
use protocol::object::{Body, Kind, Object, ObjectKey};
use thiserror::Error;
use tokio::sync::watch;

use crate::pods::desired::DesiredPod;
use crate::pods::spec;
use crate::store::{Batch, Db, MAX_OPS, Op, StoreError, Table};

pub use codec::DecodeError;

/// Why the desired state could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The store refused.
    #[error("the desired state could not be read from the store")]
    Store(#[from] StoreError),
}

/// What the replica needs to know of the last boot.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Every key with its version.
    pub held: Vec<Held>,
    /// How far the edge had seen.
    pub fences: Fences,
}

/// What this node must hold. Clones share it.
#[derive(Clone, Debug)]
pub struct Desired {
    db: Db,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    held: RwLock<Holdings>,
    void: Mutex<VoidRows>,
    pods_changed: watch::Sender<u64>,
    objects_changed: watch::Sender<u64>,
    devices_changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Holdings {
    pods: BTreeMap<ObjectKey, Arc<DesiredPod>>,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    absent: BTreeMap<ObjectKey, AbsentReason>,
    /// Pods that are wanted and of which no readable version is held, with the UID where it is known.
    unread: BTreeMap<ObjectKey, Option<String>>,
    /// Pods that are wanted and could not be stored, with their UIDs.
    untaken: BTreeMap<ObjectKey, String>,
    pods_synced: bool,
}

impl Desired {
    /// What the store holds. A value that cannot be read stands in the map as something that the cluster
    /// cannot have, so that it is brought again or removed.
    pub async fn load(db: Db) -> Result<(Self, Remembered), StateError> {
        let mut holdings = Holdings::default();
        let (fences, void) = fences::load(&db).await?;
        let mut remembered = Remembered {
            fences,
            ..Remembered::default()
        };
        for (key, bytes) in db.scan(Table::Desired).await? {
            remembered.held.extend(holdings.read(&key, bytes));
        }
        for (key, bytes) in db.scan(Table::Absent).await? {
            match codec::decode_absence(bytes) {
                Ok(absence) => {
                    holdings.absent.insert(absence.key.clone(), absence.reason);
                    remembered.held.push(Held {
                        key: absence.key,
                        version: absence.version,
                        references: BTreeSet::new(),
                    });
                }
                Err(error) => {
                    tracing::warn!(key, %error, "a stored absence cannot be read; it is asked for again");
                }
            }
        }
        let shared = Shared {
            held: RwLock::new(holdings),
            void: Mutex::new(void),
            pods_changed: watch::channel(0).0,
            objects_changed: watch::channel(0).0,
            devices_changed: watch::channel(0).0,
        };
        let shared = Arc::new(shared);
        Ok((Self { db, shared }, remembered))
    }

    /// Makes a commit durable, then visible.
    ///
    /// What a pod names is written before the pod, and what is removed goes last: a commit that needs
    /// several batches never leaves a pod without what came with it. The fences are in the last one.
    pub async fn apply(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut commit = commit.clone();
        self.shared.held.read().keep_seeds(&mut commit.puts);
        let void = self.shared.void.lock().change(&commit.fences.void);
        for batch in batches_of(&commit, void) {
            self.db.commit(batch).await?;
        }
        self.shared.void.lock().written(&commit.fences.void);
        let changed: BTreeSet<Kind> = {
            let mut held = self.shared.held.write();
            held.fold(commit)
        };
        if changed.contains(&Kind::Pod) {
            self.shared.pods_changed.send_modify(|count| *count += 1);
        }
        if changed.iter().any(|kind| *kind != Kind::Pod) {
            self.shared.objects_changed.send_modify(|count| *count += 1);
        }
        if changed.contains(&Kind::Device) || changed.contains(&Kind::DeviceModel) {
            self.shared.devices_changed.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Notes that the cluster has confirmed the pods since this start of edgecore.
    pub fn pods_confirmed(&self) {
        let before = std::mem::replace(&mut self.shared.held.write().pods_synced, true);
        if !before {
            self.shared.pods_changed.send_modify(|count| *count += 1);
        }
    }

    /// Notes which pods the cluster wants and this node could not take. Before the pods are confirmed.
    pub fn note_untaken<'a>(&self, pods: impl Iterator<Item = (&'a ObjectKey, &'a str)>) {
        let untaken: BTreeMap<_, _> = pods.map(|(key, uid)| (key.clone(), uid.to_owned())).collect();
        let before = std::mem::replace(&mut self.shared.held.write().untaken, untaken.clone());
        if before != untaken {
            self.shared.pods_changed.send_modify(|count| *count += 1);
        }
    }

    /// How many objects are held.
    pub fn objects(&self) -> usize {
        let held = self.shared.held.read();
        held.pods.len() + held.objects.len()
    }
}

impl Holdings {
    /// Takes a row of the store; what the replica is told of it, if it is told anything.
    fn read(&mut self, row: &str, bytes: Bytes) -> Option<Held> {
        let object = match codec::decode_object(bytes.clone()) {
            Ok(object) => object,
            Err(error) => {
                tracing::warn!(key = row, %error, "a stored object cannot be read; it is fetched again");
                let key = codec::read_store_key(row)?;
                return Some(self.cannot_read(key, codec::uid(bytes)));
            }
        };
        let (known, key) = (held(&object), object.key.clone());
        self.take(object);
        if self.unread.contains_key(&key) {
            return Some(unread::held(key));
        }
        Some(known)
    }

    fn take(&mut self, object: Object) {
        self.absent.remove(&object.key);
        self.untaken.remove(&object.key);
        if object.key.kind != Kind::Pod {
            self.objects.insert(object.key.clone(), Arc::new(object));
            return;
        }
        match decode_pod(&object) {
            Ok(pod) => {
                self.unread.remove(&object.key);
                self.pods.insert(object.key, Arc::new(pod));
            }
            Err(error) => {
                tracing::error!(pod = %object.key, %error, "the object is not a pod; what runs of it is left alone");
                self.cannot_read(object.key, Some(object.version.uid));
            }
        }
    }

    /// A version of the same pod that could be read goes on.
    fn cannot_read(&mut self, key: ObjectKey, uid: Option<String>) -> Held {
        if key.kind == Kind::Pod {
            let before = self.pods.get(&key).map(|held| spec::uid(&held.pod));
            if before.is_none() || before != uid.as_deref() {
                self.pods.remove(&key);
                self.unread.insert(key.clone(), uid);
            }
        }
        unread::held(key)
    }

    fn fold(&mut self, commit: Commit) -> BTreeSet<Kind> {
        let mut changed = BTreeSet::new();
        for object in commit.puts {
            changed.insert(object.key.kind);
            self.take(object);
        }
        for key in &commit.removes {
            changed.insert(key.kind);
            self.forget(key);
        }
        for absence in &commit.absent {
            changed.insert(absence.key.kind);
            self.forget(&absence.key);
            self.absent.insert(absence.key.clone(), absence.reason);
        }
        changed
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.pods.remove(key);
        self.objects.remove(key);
        self.absent.remove(key);
        self.unread.remove(key);
        self.untaken.remove(key);
    }

    /// A new version of a pod that is held travels without its status: the one it came with stays, on
    /// disk too, for a pod that had ended must not run again after the next start.
    fn keep_seeds(&self, puts: &mut [Object]) {
        let seedless = |object: &&mut Object| object.key.kind == Kind::Pod && object.seed_status.is_none();
        for object in puts.iter_mut().filter(seedless) {
            object.seed_status = self.seed(object);
        }
    }

    fn seed(&self, object: &Object) -> Option<Body> {
        let before = &self.pods.get(&object.key)?.pod;
        if before.metadata.uid.as_deref() != Some(&object.version.uid) {
            return None;
        }
        let status = serde_json::to_vec(before.status.as_ref()?).ok()?;
        Some(Body::compress(&status))
    }
}

fn decode_pod(object: &Object) -> Result<DesiredPod, Box<dyn std::error::Error>> {
    let json = object.body.json()?;
    let seed = object.seed_status.as_ref().map(Body::json).transpose()?;
    Ok(DesiredPod::decode(&json, seed.as_deref())?)
}

fn held(object: &Object) -> Held {
    let references = names_others(object.key.kind)
        .then(|| references(&object.body.json().ok()?).ok())
        .flatten();
    Held {
        key: object.key.clone(),
        version: object.version.clone(),
        references: references.unwrap_or_default(),
    }
}

/// Only what a pod names can be absent.
const fn is_reference(kind: Kind) -> bool {
    matches!(kind, Kind::ConfigMap | Kind::Secret)
}

/// The commit in batches that the store takes, in an order that is safe to cut short.
fn batches_of(commit: &Commit, void: VoidChanges) -> Vec<Batch> {
    let mut writer = Writer::default();
    for (key, op) in void.puts {
        writer.push(Table::Fence, key, op);
    }
    for absence in &commit.absent {
        let key = codec::store_key(&absence.key);
        writer.push(Table::Desired, key.clone(), Op::Delete);
        writer.push(Table::Absent, key, Op::Put(codec::encode_absence(absence)));
    }
    let (pods, others): (Vec<_>, Vec<_>) = commit
        .puts
        .iter()
        .partition(|object| object.key.kind == Kind::Pod);
    for object in others.into_iter().chain(pods) {
        let key = codec::store_key(&object.key);
        writer.no_absence(&object.key, &key);
        writer.push(Table::Desired, key, Op::Put(codec::encode_object(object)));
    }
    for key in commit.removes.iter().rev() {
        let stored = codec::store_key(key);
        writer.no_absence(key, &stored);
        writer.push(Table::Desired, stored, Op::Delete);
    }
    for (key, op) in void.deletes {
        writer.push(Table::Fence, key, op);
    }
    if let Ok(fences) = serde_json::to_vec(&commit.fences) {
        writer.push(Table::Fence, FENCES.to_owned(), Op::Put(Bytes::from(fences)));
    }
    writer.batches
}

/// Starts a new batch when the last one is full.
#[derive(Default)]
struct Writer {
    batches: Vec<Batch>,
}

impl Writer {
    fn push(&mut self, table: Table, key: String, op: Op) {
        if self.batches.last().is_none_or(|batch| batch.len() >= MAX_OPS) {
            self.batches.push(Batch::new());
        }
        if let Some(batch) = self.batches.last_mut() {
            batch.push(table, key, op);
        }
    }

    fn no_absence(&mut self, key: &ObjectKey, stored: &str) {
        if is_reference(key.kind) {
            self.push(Table::Absent, stored.to_owned(), Op::Delete);
        }
    }
}

#[cfg(test)]
mod tests;
