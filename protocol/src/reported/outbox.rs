//! The edge half of the reported flow.
//!
//! [`Outbox`] does not write to disk: each change says what the shell must write before the
//! thing that was reported may be forgotten. Of a key only the newest value is kept, so that a
//! month offline costs no more than a minute; events are a log with a cap, the oldest go first.
//!
//! **Invariant:** a number is used once, also across crashes: numbers are taken from a block
//! that was reserved on disk before. (The shell makes one exception, for a disk without any room.)

mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use thiserror::Error;

use crate::devices::DeviceIdentity;
use crate::object::Body;
use crate::wire::Report;

use super::key::Lane;
use super::{MAX_PACKED, MAX_PAYLOAD, OutboxKey, PodIdentity, RefusalCode, Seq};

/// Numbers reserved at once: one small write per so many entries, of which devices make a hundred a
/// second without any other write.
const BLOCK: u64 = 65_536;

/// Events kept while nobody takes them.
const MAX_EVENTS: usize = 1_000;

/// Bytes of events kept while nobody takes them.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Values remembered after their commit, to say them again in the next session.
const MAX_CONFIRMED: usize = 1_024;

/// The cloud answered what was never asked, or an entry on disk cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboxError {
    /// A frame without content, or of a type that this version does not know.
    #[error("the cloud sent an empty or unknown frame on the reported stream")]
    Empty,
    /// A stored entry without a readable key or payload.
    #[error("outbox entry {seq} cannot be read and is dropped")]
    Entry {
        /// Its number.
        seq: u64,
    },
}

/// What the shell writes to disk, in one durable batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The entry to store under its `seq`; give it back to [`Outbox::load`].
    pub write: Option<Report>,
    /// Entries to delete.
    pub delete: Vec<Seq>,
    /// The new end of the reserved numbers, to store and to give back to [`Outbox::load`].
    pub reserved: Option<u64>,
}

impl Change {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the cloud said of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What it is about.
    pub key: OutboxKey,
    /// What became of it.
    pub outcome: SettledAs,
    /// The entry to delete from disk, if no newer value replaced it meanwhile.
    pub delete: Option<Seq>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettledAs {
    /// The API server has it.
    Committed,
    /// The API server will never have it; it is dropped.
    Dropped(RefusalCode),
    /// It stays, and is sent again later.
    Deferred(RefusalCode),
}

/// An entry that the API server keeps refusing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is about.
    pub key: OutboxKey,
    /// How often in a row it was refused.
    pub attempts: u32,
    /// The last reason.
    pub code: RefusalCode,
    /// The last text.
    pub text: String,
}

/// Reports that the API server does not have yet.
#[derive(Debug)]
pub struct Outbox {
    next: u64,
    reserved: u64,
    /// The newest value per key.
    state: BTreeMap<OutboxKey, Pending>,
    events: VecDeque<(OutboxKey, Pending)>,
    event_bytes: usize,
    dropped_events: u64,
    oversize: u64,
    /// What the API server had last, of the node, of pods and of devices.
    confirmed: BTreeMap<OutboxKey, Body>,
    flight: BTreeMap<Seq, Flying>,
    busy: BTreeSet<Lane>,
    streams: Streams,
}

/// Which streams there are.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    /// One that carries the node, pods and devices.
    state: bool,
    /// One that carries events.
    events: bool,
    /// They are two.
    apart: bool,
}

/// A value that waits to be sent, or to be answered.
#[derive(Debug)]
struct Pending {
    seq: Seq,
    /// Its place in the line: that of the first value that it replaced unsent, so that a value that
    /// changes faster than it can be sent does not go to the end of the line each time.
    turn: Seq,
    body: Body,
    attempts: u32,
    due: Duration,
    refused: Option<(RefusalCode, String)>,
}

/// A report without an answer.
#[derive(Debug)]
struct Flying {
    key: OutboxKey,
    bytes: usize,
}

impl Outbox {
    /// The outbox as the store holds it: entries in any order, and the end of the reserved
    /// numbers. Entries that cannot be read are returned beside it.
    pub fn load(entries: Vec<Report>, reserved: u64) -> (Self, Vec<OutboxError>) {
        let highest = entries.iter().map(|entry| entry.seq).max().unwrap_or_default();
        let next = reserved.max(highest) + 1;
        let mut outbox = Self::empty(next);
        let mut unreadable = Vec::new();
        let mut entries = entries;
        entries.sort_by_key(|entry| entry.seq);
        for entry in entries {
            let seq = entry.seq;
            match (OutboxKey::from_wire(entry.key), Body::from_wire(entry.payload)) {
                (Some(key), Ok(body)) => outbox.insert(key, Pending::new(Seq(seq), body)),
                _ => unreadable.push(OutboxError::Entry { seq }),
            }
        }
        (outbox, unreadable)
    }

    fn empty(next: u64) -> Self {
        Self {
            next,
            reserved: next - 1,
            state: BTreeMap::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            dropped_events: 0,
            oversize: 0,
            confirmed: BTreeMap::new(),
            flight: BTreeMap::new(),
            busy: BTreeSet::new(),
            streams: Streams::default(),
        }
    }

    /// Reports the newest value of a key, or appends an event. What it replaces is never sent any more; a value that
    /// the API server has, or is about to get, changes nothing; one that no frame could carry is
    /// dropped and counted.
    pub fn put(&mut self, key: OutboxKey, json: &[u8]) -> Change {
        let body = Body::compress(json);
        if body.raw_len > MAX_PAYLOAD || body.bytes.len() > MAX_PACKED {
            self.oversize += 1;
            return Change::default();
        }
        if key.is_event() {
            return self.append(key, body);
        }
        let newest = self
            .state
            .get(&key)
            .map(|pending| &pending.body)
            .or_else(|| self.confirmed.get(&key));
        if newest == Some(&body) {
            return Change::default();
        }
        let (seq, reserved) = self.number();
        let mut pending = Pending::new(seq, body);
        let mut delete = Vec::new();
        if let Some(before) = self.state.get(&key) {
            delete.push(before.seq);
            pending.keep_pace(before);
            if !self.flight.contains_key(&before.seq) {
                pending.turn = before.turn;
            }
        }
        let write = Some(report(&key, &pending));
        self.state.insert(key, pending);
        Change {
            write,
            delete,
            reserved,
        }
    }

    /// Says that all containers of a pod are gone.
    pub fn gone(&mut self, pod: PodIdentity) -> Change {
        self.put(OutboxKey::Gone(pod), b"")
    }

    /// Forgets a pod that is no longer the node's: its status need not be said again.
    pub fn forget(&mut self, pod: &PodIdentity) -> Change {
        let key = OutboxKey::Pod(pod.clone());
        self.confirmed.remove(&key);
        let pending = self.state.remove(&key);
        Change {
            delete: pending.into_iter().map(|pending| pending.seq).collect(),
            ..Change::default()
        }
    }

    /// Forgets a device that is no longer the node's: nobody would take what it said.
    pub fn forget_device(&mut self, device: &DeviceIdentity) -> Change {
        let key = OutboxKey::Device(device.clone());
        self.confirmed.remove(&key);
        let pending = self.state.remove(&key);
        Change {
            delete: pending.into_iter().map(|pending| pending.seq).collect(),
            ..Change::default()
        }
    }

    /// Events that were dropped since the start because nobody took them.
    pub const fn dropped_events(&self) -> u64 {
        self.dropped_events
    }

    /// Reports that were too large to be sent since the start.
    pub const fn oversize(&self) -> u64 {
        self.oversize
    }

    /// Entries that the API server does not have yet.
    pub fn pending(&self) -> usize {
        self.state.len() + self.events.len()
    }

    /// Events that the API server does not have yet.
    pub fn pending_events(&self) -> usize {
        self.events.len()
    }

    /// Entries that the API server keeps refusing.
    pub fn troubles(&self) -> Vec<Trouble> {
        let events = self.events.iter().map(|(key, pending)| (key, pending));
        let all = self.state.iter().chain(events);
        all.filter_map(|(key, pending)| pending.trouble(key)).collect()
    }

    fn append(&mut self, key: OutboxKey, body: Body) -> Change {
        let (seq, reserved) = self.number();
        let pending = Pending::new(seq, body);
        let write = Some(report(&key, &pending));
        self.insert(key, pending);
        Change {
            write,
            delete: self.drop_oldest_events(),
            reserved,
        }
    }

    fn insert(&mut self, key: OutboxKey, pending: Pending) {
        if key.is_event() {
            self.event_bytes += pending.body.bytes.len();
            self.events.push_back((key, pending));
        } else {
            self.state.insert(key, pending);
        }
    }

    /// The cap holds for events in flight too: their answer then finds nothing, which is fine.
    fn drop_oldest_events(&mut self) -> Vec<Seq> {
        let mut dropped = Vec::new();
        while self.events.len() > MAX_EVENTS || (self.event_bytes > MAX_EVENT_BYTES && self.events.len() > 1)
        {
            let Some((_, oldest)) = self.events.pop_front() else {
                break;
            };
            self.event_bytes -= oldest.body.bytes.len();
            self.dropped_events += 1;
            dropped.push(oldest.seq);
        }
        dropped
    }

    /// The next number, and the new end of the reserved ones if this was beyond them.
    fn number(&mut self) -> (Seq, Option<u64>) {
        let seq = Seq(self.next);
        self.next += 1;
        if seq.0 <= self.reserved {
            return (seq, None);
        }
        self.reserved = seq.0 + BLOCK;
        (seq, Some(self.reserved))
    }
}

impl Pending {
    const fn new(seq: Seq, body: Body) -> Self {
        Self {
            seq,
            turn: seq,
            body,
            attempts: 0,
            due: Duration::ZERO,
            refused: None,
        }
    }

    /// A new value does not escape the pause that its key was given.
    fn keep_pace(&mut self, before: &Self) {
        self.attempts = before.attempts;
        self.due = before.due;
        self.refused.clone_from(&before.refused);
    }

    fn trouble(&self, key: &OutboxKey) -> Option<Trouble> {
        let (code, text) = self.refused.clone()?;
        Some(Trouble {
            key: key.clone(),
            attempts: self.attempts,
            code,
            text,
        })
    }
}

fn report(key: &OutboxKey, pending: &Pending) -> Report {
    Report {
        seq: pending.seq.0,
        key: Some(key.to_wire()),
        payload: Some(pending.body.to_wire()),
    }
}
