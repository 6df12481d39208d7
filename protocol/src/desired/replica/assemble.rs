//! From frames to closures: what stands between Begin and End, checked item by item.

use std::collections::BTreeSet;

use crate::desired::{AbsentReason, MAX_CLOSURE, MAX_ITEMS, Violation, frames, names_others, references};
use crate::object::{Body, Digest, Object, ObjectKey, Revision, Version};
use crate::wire::{Absent, DesiredDown, Remove, Upsert, desired_down};

use super::guards::RejectReason;

/// What came in, in order.
#[derive(Debug)]
pub(super) enum Received {
    /// A whole closure.
    Closure(Closure),
    /// A word of the comparison.
    Word(desired_down::Kind),
}

/// What is committed together, or not at all.
#[derive(Debug, Default)]
pub(super) struct Closure {
    pub(super) seq: u64,
    pub(super) items: Vec<Item>,
    /// Why it cannot be taken, if one of its objects is damaged.
    pub(super) fault: Option<RejectReason>,
    pub(super) bytes: usize,
}

/// One change of a closure, with the view revision that it rests on.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: ObjectKey,
    pub(super) view: Revision,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Put {
        object: Box<Object>,
        references: BTreeSet<ObjectKey>,
    },
    Absent {
        reason: AbsentReason,
        seen: Revision,
    },
    Remove {
        uid: String,
    },
    /// Could not be read; the closure's fault says why.
    Unreadable {
        uid: String,
    },
}

impl Item {
    /// The uid that the publisher believes to be held once this is taken.
    pub(super) fn offered(&self) -> Option<String> {
        match &self.what {
            What::Put { object, .. } => Some(object.version.uid.clone()),
            What::Unreadable { uid } => Some(uid.clone()),
            What::Absent { .. } => Some(String::new()),
            What::Remove { .. } => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Assembler {
    open: Option<Closure>,
    last: u64,
}

impl Assembler {
    /// Takes a frame; what it completes.
    pub(super) fn take(&mut self, frame: DesiredDown) -> Result<Option<Received>, Violation> {
        match frame.kind.ok_or(Violation::Empty)? {
            desired_down::Kind::Begin(begin) => self.begin(begin.seq).map(|()| None),
            desired_down::Kind::Upsert(upsert) => self.upsert(upsert).map(|()| None),
            desired_down::Kind::Remove(remove) => self.remove(remove).map(|()| None),
            desired_down::Kind::Absent(absent) => self.absent(absent).map(|()| None),
            desired_down::Kind::End(end) => self.end(end.seq).map(Some),
            word @ (desired_down::Kind::Same(_)
            | desired_down::Kind::Different(_)
            | desired_down::Kind::WantKeys(_)
            | desired_down::Kind::Synced(_)
            | desired_down::Kind::CompareNow(_)
            | desired_down::Kind::Plan(_)
            | desired_down::Kind::Behind(_)) => self.word(word).map(Some),
        }
    }

    fn begin(&mut self, seq: u64) -> Result<(), Violation> {
        if self.open.is_some() || seq <= self.last {
            return Err(Violation::OutsideClosure { frame: "Begin" });
        }
        self.last = seq;
        self.open = Some(Closure {
            seq,
            ..Closure::default()
        });
        Ok(())
    }

    fn upsert(&mut self, upsert: Upsert) -> Result<(), Violation> {
        let closure = self.closure(upsert.seq, "Upsert")?;
        let key = frames::to_key(upsert.kind, upsert.key.clone())?;
        let digest = frames::to_digest(&upsert.digest)?;
        let view = Revision(upsert.view_revision);
        let uid = frames::to_uid(upsert.uid.clone())?;
        let what = match read(&key, digest, upsert) {
            Ok(what) => what,
            Err(reason) => {
                closure.fault = Some(reason);
                What::Unreadable { uid }
            }
        };
        closure.push(Item { key, view, what })
    }

    fn remove(&mut self, remove: Remove) -> Result<(), Violation> {
        let key = frames::to_key(remove.kind, remove.key)?;
        let what = What::Remove {
            uid: frames::to_uid(remove.uid)?,
        };
        self.closure(remove.seq, "Remove")?.push(Item {
            key,
            view: Revision(remove.view_revision),
            what,
        })
    }

    fn absent(&mut self, absent: Absent) -> Result<(), Violation> {
        let key = frames::to_key(absent.kind, absent.key)?;
        // A reason that only a newer version knows is still an absence.
        let reason = AbsentReason::from_wire(absent.reason).unwrap_or(AbsentReason::Missing);
        let item = Item {
            key,
            view: Revision(absent.view_revision),
            what: What::Absent {
                reason,
                seen: Revision(absent.seen_revision),
            },
        };
        self.closure(absent.seq, "Absent")?.push(item)
    }

    fn end(&mut self, seq: u64) -> Result<Received, Violation> {
        self.closure(seq, "End")?;
        let closure = self
            .open
            .take()
            .ok_or(Violation::OutsideClosure { frame: "End" })?;
        Ok(Received::Closure(closure))
    }

    fn word(&self, word: desired_down::Kind) -> Result<Received, Violation> {
        match self.open {
            Some(_) => Err(Violation::OutsideClosure {
                frame: "a word of the comparison",
            }),
            None => Ok(Received::Word(word)),
        }
    }

    fn closure(&mut self, seq: u64, frame: &'static str) -> Result<&mut Closure, Violation> {
        self.open
            .as_mut()
            .filter(|open| open.seq == seq)
            .ok_or(Violation::OutsideClosure { frame })
    }
}

impl Closure {
    fn push(&mut self, item: Item) -> Result<(), Violation> {
        if let What::Put { object, .. } = &item.what {
            self.bytes += object.body.bytes.len();
        }
        self.items.push(item);
        if self.bytes > MAX_CLOSURE || self.items.len() > MAX_ITEMS {
            return Err(Violation::Malformed {
                field: "closure, which is too large",
            });
        }
        Ok(())
    }
}

/// Opens the body, checks its digest and reads what a pod names.
fn read(key: &ObjectKey, digest: Digest, upsert: Upsert) -> Result<What, RejectReason> {
    let body = Body::from_wire(upsert.body).map_err(|_| RejectReason::Damaged)?;
    let json = body.json().map_err(|_| RejectReason::Damaged)?;
    if Digest::of(&json) != digest {
        return Err(RejectReason::Damaged);
    }
    let names = if names_others(key.kind) {
        references(&json).map_err(|_| RejectReason::Damaged)?
    } else {
        BTreeSet::new()
    };
    let version = Version {
        uid: upsert.uid,
        revision: Revision(upsert.revision),
        digest,
    };
    let seed_status = upsert
        .seed_status
        .and_then(|seed| Body::from_wire(Some(seed)).ok());
    let object = Box::new(Object {
        key: key.clone(),
        version,
        body,
        seed_status,
    });
    Ok(What::Put {
        object,
        references: names,
    })
}
