//! The store of an edge: batches in order, each whole or not at all; what was not written when the
//! process or the power went may be there or not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use protocol::desired::{Commit, Fences, Held, names_others, references};
use protocol::object::{Kind, Object, ObjectKey, Version};
use protocol::reported::{Change, PodIdentity, Seq};
use protocol::wire::Report;

/// What is in the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) entries: BTreeMap<ObjectKey, Row>,
    pub(crate) fences: Fences,
    pub(crate) outbox: BTreeMap<u64, Report>,
    pub(crate) reserved: u64,
    /// The journal of devices, and up to where its versions are reserved.
    pub(crate) devices: BTreeMap<String, Bytes>,
    pub(crate) versions: u64,
    /// The last status of each pod.
    pub(crate) statuses: BTreeMap<String, (PodIdentity, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) version: Version,
    /// None for an absence.
    pub(crate) object: Option<Object>,
    pub(crate) references: BTreeSet<ObjectKey>,
}

/// One batch.
#[derive(Clone, Debug)]
pub(crate) enum Batch {
    Desired(Box<Commit>),
    Reports(Vec<Op>),
    Devices(Vec<(String, Option<Bytes>)>),
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Report),
    Delete(Seq),
    Reserve(u64),
    Status(PodIdentity, Vec<u8>),
    ForgetStatus(String),
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) image: Image,
    pub(crate) waiting: VecDeque<Batch>,
    pub(crate) full: bool,
}

/// What an outbox wants written, in its order.
pub(crate) fn ops(change: Change) -> Vec<Op> {
    let reserve = change.reserved.map(Op::Reserve);
    let deletes = change.delete.into_iter().map(Op::Delete);
    reserve
        .into_iter()
        .chain(change.write.map(Op::Put))
        .chain(deletes)
        .collect()
}

impl Image {
    pub(crate) fn write(&mut self, batch: Batch) {
        match batch {
            Batch::Desired(commit) => self.commit(*commit),
            Batch::Reports(ops) => ops.into_iter().for_each(|op| self.apply(op)),
            Batch::Devices(rows) => {
                for (key, row) in rows {
                    match row {
                        Some(row) => drop(self.devices.insert(key, row)),
                        None => drop(self.devices.remove(&key)),
                    }
                }
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Put(report) => drop(self.outbox.insert(report.seq, report)),
            Op::Delete(seq) => drop(self.outbox.remove(&seq.0)),
            Op::Reserve(end) => self.reserved = end,
            Op::Status(pod, status) => drop(self.statuses.insert(pod.uid.clone(), (pod, status))),
            Op::ForgetStatus(uid) => drop(self.statuses.remove(&uid)),
        }
    }

    fn commit(&mut self, commit: Commit) {
        for key in commit.removes {
            self.entries.remove(&key);
        }
        for object in commit.puts {
            self.put(object);
        }
        for absence in commit.absent {
            let row = Row {
                version: absence.version,
                object: None,
                references: BTreeSet::new(),
            };
            self.entries.insert(absence.key, row);
        }
        self.fences = commit.fences;
    }

    /// As `state::Holdings::keep_seeds`: a new version of a pod keeps the status it came with.
    fn put(&mut self, mut object: Object) {
        let before = self.entries.get(&object.key).and_then(|row| row.object.as_ref());
        if object.key.kind == Kind::Pod
            && object.seed_status.is_none()
            && let Some(before) = before.filter(|before| before.version.uid == object.version.uid)
        {
            object.seed_status.clone_from(&before.seed_status);
        }
        let names = if names_others(object.key.kind) {
            references(&object.body.json().unwrap()).unwrap()
        } else {
            BTreeSet::new()
        };
        let row = Row {
            version: object.version.clone(),
            references: names,
            object: Some(object),
        };
        self.entries.insert(row.object.as_ref().unwrap().key.clone(), row);
    }

    pub(crate) fn held(&self) -> Vec<Held> {
        let held = |(key, row): (&ObjectKey, &Row)| Held {
            key: key.clone(),
            version: row.version.clone(),
            references: row.references.clone(),
        };
        self.entries.iter().map(held).collect()
    }
}
