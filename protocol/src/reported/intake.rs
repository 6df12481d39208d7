//! The cloud half of the reported flow.
//!
//! [`Intake`] writes nothing itself. Feed it frames and the outcomes of writes; drain writes and
//! answers. Writes of one lane (the node; a pod's status and its end) go one after the other, in
//! the order of arrival; lanes go in parallel.
//!
//! **Invariant:** what is unanswered stays within the windows that the edge was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

use crate::object::{Body, BodyError};
use crate::wire::{Committed, Refused, Report, ReportedDown, ReportedUp, reported_down, reported_up};

use super::key::Lane;
use super::{
    Carries, Class, DEVICE_WINDOW, EVENT_WINDOW, MAX_EVENT, MAX_PAYLOAD, OutboxKey, RefusalCode,
    STATE_WINDOW, Seq, WINDOW_BYTES,
};

/// Damaged payloads of one stream that are refused. An edge whose disk lies gets rid of so many at a time, for good;
/// to open each costs more than to send it.
const MAX_DAMAGED: usize = 8;

/// The edge broke the rules of the reported flow; reset the stream.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntakeViolation {
    /// A frame without content, or of a type that this version does not know.
    #[error("the edge sent an empty or unknown frame on the reported stream")]
    Empty,
    /// A number that was not answered yet.
    #[error("the edge sent report {seq} twice before it had an answer")]
    Unanswered {
        /// The number.
        seq: u64,
    },
    /// More unanswered reports, or bytes of them, than were granted.
    #[error("the edge sent more reports than its window allows")]
    Window,
    /// One payload after another that is not what its header says, or more than any may be.
    #[error("the edge sent more than {MAX_DAMAGED} reports whose payload is damaged or too large to be one")]
    Damaged,
}

/// What the shell writes to the API server, impersonating the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// To answer with.
    pub seq: Seq,
    /// What it is about.
    pub key: OutboxKey,
    /// The JSON; empty for [`OutboxKey::Gone`].
    pub payload: Vec<u8>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API server has it.
    Committed,
    /// It has not.
    Refused {
        /// Why.
        code: RefusalCode,
        /// For people.
        text: String,
    },
}

/// The reports of one edge on one reported stream.
#[derive(Debug, Default)]
pub struct Intake {
    carries: Carries,
    damaged: usize,
    waiting: VecDeque<Write>,
    writing: BTreeMap<Seq, Share>,
    busy: BTreeSet<Lane>,
    /// Of the node, its pods and events.
    common: Used,
    /// Of devices.
    devices: Used,
    out: VecDeque<ReportedDown>,
}

/// What is unanswered of the windows that share their bytes.
#[derive(Debug, Default)]
struct Used {
    reports: usize,
    events: usize,
    bytes: usize,
}

/// What an unanswered report takes of the windows, and its lane.
#[derive(Debug)]
struct Share {
    lane: Lane,
    class: Class,
    bytes: usize,
}

impl Intake {
    /// The intake of a reported stream that was just opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// The intake of a stream on which some reports are.
    pub fn carrying(carries: Carries) -> Self {
        Self {
            carries,
            ..Self::default()
        }
    }

    /// Takes a frame from the edge.
    pub fn handle_frame(&mut self, frame: ReportedUp) -> Result<(), IntakeViolation> {
        match frame.kind.ok_or(IntakeViolation::Empty)? {
            reported_up::Kind::Report(report) => self.report(report),
            // Comparing owned fields by digest is an optional ability that was not offered.
            reported_up::Kind::OwnedDigest(_) | reported_up::Kind::OwnedEntries(_) => Ok(()),
        }
    }

    /// The next write of a class whose lane is free. What is not asked for waits, and so does the edge when its
    /// window is full.
    pub fn poll_write(&mut self, class: Class) -> Option<Write> {
        let free = |write: &Write| !self.busy.contains(&write.key.lane(write.seq));
        let mut lanes_ahead = BTreeSet::new();
        let next = self.waiting.iter().position(|write| {
            // Within a lane the first to arrive goes first.
            write.key.class() == class && lanes_ahead.insert(write.key.lane(write.seq)) && free(write)
        })?;
        let write = self.waiting.remove(next)?;
        let share = Share::of(&write);
        self.busy.insert(share.lane.clone());
        self.writing.insert(write.seq, share);
        Some(write)
    }

    /// Whether reports of a class wait to be written.
    pub fn waits(&self, class: Class) -> bool {
        self.waiting.iter().any(|write| write.key.class() == class)
    }

    /// What became of a write.
    pub fn done(&mut self, seq: Seq, outcome: Outcome) {
        let Some(share) = self.writing.remove(&seq) else {
            return;
        };
        self.busy.remove(&share.lane);
        self.release(&share);
        self.answer(seq, outcome);
    }

    /// The next answer for the edge.
    pub fn poll_transmit(&mut self) -> Option<ReportedDown> {
        self.out.pop_front()
    }

    /// Reports that have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.common.reports + self.common.events + self.devices.reports
    }

    fn report(&mut self, report: Report) -> Result<(), IntakeViolation> {
        let seq = Seq(report.seq);
        if self.writing.contains_key(&seq) || self.waiting.iter().any(|write| write.seq == seq) {
            return Err(IntakeViolation::Unanswered { seq: report.seq });
        }
        let Some(key) = OutboxKey::from_wire(report.key) else {
            self.answer(
                seq,
                Outcome::unreadable("a report of a kind that this version does not know"),
            );
            return Ok(());
        };
        if !self.carries.has(key.class()) {
            self.answer(seq, Outcome::misplaced(&key));
            return Ok(());
        }
        // Whatever is to be opened has its place before: an edge that keeps to its window counts it too.
        self.check_window(key.class())?;
        match payload(&key, report.payload) {
            Ok(payload) => self.admit(Write { seq, key, payload }),
            Err(unreadable) => {
                self.damaged += usize::from(unreadable.is_damaged());
                if self.damaged > MAX_DAMAGED {
                    return Err(IntakeViolation::Damaged);
                }
                self.answer(seq, Outcome::unreadable(&unreadable.to_string()));
            }
        }
        Ok(())
    }

    fn check_window(&mut self, class: Class) -> Result<(), IntakeViolation> {
        let used = self.used(class);
        let (count, window) = match class {
            Class::State => (used.reports, STATE_WINDOW),
            Class::Event => (used.events, EVENT_WINDOW),
            Class::Device => (used.reports, DEVICE_WINDOW),
        };
        if count >= window || used.bytes > WINDOW_BYTES {
            return Err(IntakeViolation::Window);
        }
        Ok(())
    }

    fn admit(&mut self, write: Write) {
        let class = write.key.class();
        let used = self.used(class);
        match class {
            Class::State | Class::Device => used.reports += 1,
            Class::Event => used.events += 1,
        }
        used.bytes += write.payload.len();
        self.waiting.push_back(write);
    }

    fn release(&mut self, share: &Share) {
        let used = self.used(share.class);
        match share.class {
            Class::State | Class::Device => used.reports -= 1,
            Class::Event => used.events -= 1,
        }
        used.bytes -= share.bytes;
    }

    const fn used(&mut self, class: Class) -> &mut Used {
        match class {
            Class::State | Class::Event => &mut self.common,
            Class::Device => &mut self.devices,
        }
    }

    fn answer(&mut self, seq: Seq, outcome: Outcome) {
        let kind = match outcome {
            Outcome::Committed => reported_down::Kind::Committed(Committed { seq: seq.0 }),
            Outcome::Refused { code, text } => reported_down::Kind::Refused(Refused {
                seq: seq.0,
                code: code.wire(),
                text,
                permanent: code.is_permanent(),
            }),
        };
        self.out.push_back(ReportedDown { kind: Some(kind) });
    }
}

impl Outcome {
    fn unreadable(text: &str) -> Self {
        Self::Refused {
            code: RefusalCode::Unreadable,
            text: text.to_owned(),
        }
    }

    fn misplaced(key: &OutboxKey) -> Self {
        Self::Refused {
            code: RefusalCode::Other,
            text: format!("{key} does not belong on this stream"),
        }
    }
}

impl Share {
    fn of(write: &Write) -> Self {
        Self {
            lane: write.key.lane(write.seq),
            class: write.key.class(),
            bytes: write.payload.len(),
        }
    }
}

/// Why a report's payload is not opened.
#[derive(Debug, Error)]
enum Unreadable {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("{key}: {raw_len} bytes are more than the {most} allowed")]
    TooLarge {
        key: OutboxKey,
        raw_len: usize,
        most: usize,
    },
}

impl Unreadable {
    /// Whether no edge in order sends such a thing. Older ones send larger events, newer ones other encodings.
    const fn is_damaged(&self) -> bool {
        match self {
            Self::Body(BodyError::UnknownEncoding { .. }) => false,
            Self::Body(BodyError::TooLarge { .. } | BodyError::Damaged { .. } | BodyError::Missing) => true,
            Self::TooLarge { key, .. } => !key.is_event(),
        }
    }
}

fn payload(key: &OutboxKey, body: Option<crate::wire::ObjectBody>) -> Result<Vec<u8>, Unreadable> {
    if matches!(key, OutboxKey::Gone(_)) {
        return Ok(Vec::new());
    }
    let body = Body::from_wire(body)?;
    let most = if key.is_event() { MAX_EVENT } else { MAX_PAYLOAD };
    if body.raw_len > most {
        return Err(Unreadable::TooLarge {
            key: key.clone(),
            raw_len: body.raw_len,
            most,
        });
    }
    Ok(body.json()?)
}
