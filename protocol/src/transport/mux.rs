//! Many streams over one ordered pipe of messages: the core of the WebSocket transport.
//!
//! [`Mux`] opens no socket, reads no clock and wakes no task. Messages of the peer go in by
//! [`handle_frame`](Mux::handle_frame), messages to it come out of
//! [`poll_transmit`](Mux::poll_transmit), and [`poll_wake`](Mux::poll_wake) says who can go on. It
//! knows nothing of what streams carry.
//!
//! ```text
//! write ─► waiting (bounded) ─credit, class, chunk─► Data ═══► Data ─► arrived (bounded) ─► read
//!                     ▲                                                                      │
//!                     └──────────────────────────── Credit ◄═══ Credit ◄────────────────────┘
//! ```
//!
//! A sender has at most its credit unread; the receiver grants more as it is read. What is about
//! streams themselves (open, reset, stop, credit) goes before any bytes; bytes go by class.
//!
//! **Invariant:** whatever the peer does, this end holds at most 1 MiB for it, and in cloudcore its
//! share of the process's budget, and 270 streams of it; whatever a reader or writer does, it stops no stream but its own.

mod arriving;
mod credit;
mod frame;
mod opened;
mod recv;
mod schedule;
mod send;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use thiserror::Error;

pub use credit::{BASE, CONNECTION, STREAM, STREAMS};
pub use frame::{MAX_CHUNK, MAX_MUX_FRAME, MuxFrame, MuxFrameError};
pub use opened::NotOpened;
pub use recv::Read;
pub use send::Stopped;

use credit::Pools;
use opened::Opened;
pub(super) use schedule::{Scheduler, index};
use stream::Stream;

use super::{CloseCode, budget::Share};
use crate::class::Class;

/// The smallest chunk: below it the frames around it would cost too much.
const MIN_CHUNK: usize = 1 << 10;
/// Ended streams are told to the peer so many at a time: 262 are always free to be used.
const STREAMS_AT_ONCE: u32 = 8;

/// Which end this is: each numbers its streams in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams 0, 2, 4 …
    Edge,
    /// Opens streams 1, 3, 5 …
    Cloud,
}

/// Who can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Who reads this stream.
    Read(u32),
    /// Who writes this stream.
    Write(u32),
    /// Who accepts streams.
    Accept,
    /// Who opens streams.
    Open,
}

/// The peer broke the protocol.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A message is not a frame.
    #[error(transparent)]
    Frame(#[from] MuxFrameError),
    /// A frame is about a stream that was never opened.
    #[error("stream {0} was never opened")]
    Unknown(u32),
    /// A stream was opened that is not the next.
    #[error("stream {0} was opened out of turn")]
    OutOfTurn(u32),
    /// More streams than were granted.
    #[error("too many streams were opened")]
    TooManyStreams,
    /// More bytes than were granted.
    #[error("stream {0} carried more than was granted")]
    OverCredit(u32),
    /// Something came after the end.
    #[error("stream {0} went on after its end")]
    AfterEnd(u32),
}

/// Whether the connection goes on.
#[derive(Debug)]
enum Phase {
    Open,
    /// The last frame is to be sent.
    Closing(CloseCode, String),
    Closed,
}

/// One end of a connection, with the I/O left out.
#[derive(Debug)]
pub struct Mux {
    phase: Phase,
    chunk: usize,
    held: bool,
    streams: BTreeMap<u32, Stream>,
    ours: Opened,
    theirs: Opened,
    /// Streams of the peer that ended and were not told to it.
    ended: u32,
    arrivals: VecDeque<u32>,
    /// Streams with something to tell about themselves.
    telling: BTreeSet<u32>,
    /// Streams with bytes that could go, by class.
    ready: [VecDeque<u32>; Class::ALL.len()],
    scheduler: Scheduler,
    receive: Pools,
    send: Pools,
    wakes: VecDeque<Wake>,
    closed_by_peer: Option<(CloseCode, String)>,
}

impl Mux {
    /// One end of a fresh connection.
    pub fn new(side: Side) -> Self {
        Self::within(side, None)
    }

    /// The same; what it holds is bounded by its share of the process's budget, where there is one.
    pub(super) fn within(side: Side, share: Option<Share>) -> Self {
        let (ours, theirs) = match side {
            Side::Edge => (0, 1),
            Side::Cloud => (1, 0),
        };
        Self {
            phase: Phase::Open,
            chunk: MAX_CHUNK,
            held: false,
            streams: BTreeMap::new(),
            ours: Opened::new(ours),
            theirs: Opened::new(theirs),
            ended: 0,
            arrivals: VecDeque::new(),
            telling: BTreeSet::new(),
            ready: Default::default(),
            scheduler: Scheduler::default(),
            receive: Pools::receive(share),
            send: Pools::send(),
            wakes: VecDeque::new(),
            closed_by_peer: None,
        }
    }

    /// Sets how many bytes go at once, within 1 and 16 KiB: on a narrow link fewer, so that what is
    /// urgent waits less.
    pub fn set_chunk(&mut self, bytes: usize) {
        self.chunk = bytes.clamp(MIN_CHUNK, MAX_CHUNK);
    }

    /// Holds back the bytes of all streams but control's, or lets them go again.
    pub const fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether something that is held back could go.
    pub fn holds(&self) -> bool {
        self.held && self.ready.iter().any(|streams| !streams.is_empty())
    }

    /// Opens a stream.
    pub fn open(&mut self, class: Class) -> Result<u32, NotOpened> {
        if !self.receive.base() {
            return Err(NotOpened::NoRoom);
        }
        let Some(id) = self.ours.open() else {
            self.receive.base_is_free();
            return Err(NotOpened::TooMany);
        };
        let mut stream = Stream::ours(class);
        stream.recv.grant(class, &mut self.receive);
        self.streams.insert(id, stream);
        self.telling.insert(id);
        Ok(id)
    }

    /// The next stream that the peer opened. Until it is [classified](Self::classify) it has only
    /// the smallest credit.
    pub fn accept(&mut self) -> Option<u32> {
        self.arrivals.pop_front()
    }

    /// Says what a stream of the peer is, once and before anything is written on it: what it holds of a
    /// pool then is of the right one.
    pub fn classify(&mut self, id: u32, class: Class) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.recv.is_classified() {
            return;
        }
        self.ready[index(stream.class)].retain(|queued| *queued != id);
        stream.send.queued = false;
        stream.recv.classify(class);
        stream.class = class;
        self.granted(id);
        self.queue(id);
    }

    /// Reads what has arrived.
    pub fn read(&mut self, id: u32, out: &mut [u8]) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Read::End;
        };
        let read = stream.recv.read(out);
        if matches!(read, Read::Bytes(_)) {
            self.granted(id);
        }
        read
    }

    /// Takes bytes to send, as many as there is room for; with 0 a [`Wake::Write`] will come.
    pub fn write(&mut self, id: u32, bytes: &[u8]) -> Result<usize, Stopped> {
        let stream = self.streams.get_mut(&id).ok_or(Stopped)?;
        debug_assert!(stream.recv.is_classified(), "whose pool it draws from is known");
        let taken = stream.send.write(stream.class, &mut self.send, bytes)?;
        self.queue(id);
        Ok(taken)
    }

    /// No more will be written: the half-close.
    pub fn finish(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.finish();
            self.queue(id);
        }
    }

    /// Breaks a stream off, in the direction to the peer.
    pub fn reset(&mut self, id: u32, code: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.send.reset(stream.class, &mut self.send, code)
        {
            self.ready[index(stream.class)].retain(|queued| *queued != id);
            stream.send.queued = false;
            self.telling.insert(id);
            self.wake_writers();
        }
    }

    /// The writer is gone: what it wrote still goes.
    pub fn release_writer(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.release();
            self.queue(id);
            self.retire(id);
        }
    }

    /// The reader is gone: what it did not read is thrown away.
    pub fn release_reader(&mut self, id: u32, code: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.recv.release(code) {
            self.telling.insert(id);
        }
        self.granted(id);
        self.retire(id);
    }

    /// Ends the connection: the close goes next, and nothing after it.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Closing(code, reason.to_owned());
        }
    }

    /// Why the peer has closed the connection, if it has.
    pub const fn closed_by_peer(&self) -> Option<&(CloseCode, String)> {
        self.closed_by_peer.as_ref()
    }

    /// The next message to the peer. Ask again after anything else was called.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return None,
            Phase::Closing(code, reason) => {
                let (code, reason) = (code as u32, reason.as_bytes());
                return Some(MuxFrame::Close { code, reason }.encode());
            }
            Phase::Open => self.phase = Phase::Open,
        }
        if self.ended >= STREAMS_AT_ONCE {
            let more = std::mem::take(&mut self.ended);
            return Some(MuxFrame::Streams { more }.encode());
        }
        self.tell().or_else(|| self.send_bytes())
    }

    /// Who can go on.
    pub fn poll_wake(&mut self) -> Option<Wake> {
        self.wakes.pop_front()
    }

    fn tell(&mut self) -> Option<Bytes> {
        while let Some(&id) = self.telling.first() {
            let frame = self.streams.get_mut(&id).and_then(|stream| stream.tell(id));
            if let Some(frame) = frame {
                return Some(frame.encode());
            }
            self.telling.remove(&id);
            self.retire(id);
        }
        None
    }

    fn send_bytes(&mut self) -> Option<Bytes> {
        let waiting = std::array::from_fn(|class| !self.ready[class].is_empty());
        let mut may = waiting;
        if self.held {
            may = [false; Class::ALL.len()];
            may[index(Class::Control)] = waiting[index(Class::Control)];
        }
        let class = self.scheduler.next(may, self.chunk)?;
        let id = self.ready[index(class)].pop_front()?;
        let stream = self.streams.get_mut(&id)?;
        stream.send.queued = false;
        let (bytes, last) = stream.send.take(class, &mut self.send, self.chunk);
        self.scheduler.sent(class, bytes.len(), waiting);
        self.queue(id);
        self.wake_writers();
        self.retire(id);
        let (stream, bytes) = (id, &bytes[..]);
        Some(MuxFrame::Data { stream, bytes, last }.encode())
    }

    /// Puts a stream into the queue of its class, when it could send and does not stand there.
    fn queue(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.send.queued
            && stream.send.is_ready()
        {
            stream.send.queued = true;
            self.ready[index(stream.class)].push_back(id);
        }
    }

    /// Grants more of a stream, where that is worth telling.
    fn granted(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.recv.grant(stream.class, &mut self.receive)
        {
            self.telling.insert(id);
        }
    }

    fn wake_writers(&mut self) {
        for (id, stream) in &mut self.streams {
            if stream.send.wakes(stream.class, &self.send) {
                self.wakes.push_back(Wake::Write(*id));
            }
        }
    }

    /// Forgets a stream that is over.
    fn retire(&mut self, id: u32) {
        if self.telling.contains(&id) || !self.streams.get(&id).is_some_and(Stream::is_over) {
            return;
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.ready[index(stream.class)].retain(|queued| *queued != id);
            if stream.has_base {
                self.receive.base_is_free();
            }
        }
        if id % 2 == self.theirs.next % 2 {
            self.theirs.limit = self.theirs.limit.saturating_add(1);
            self.ended += 1;
        }
    }
}

#[cfg(test)]
mod crowd;
#[cfg(test)]
mod tests;
