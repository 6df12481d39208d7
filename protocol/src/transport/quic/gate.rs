//! Who hands bytes to quinn, and when: no more than may be on their way, the most urgent first.
//!
//! quinn sends by priority, strictly; what it was handed it never gives back. So here each writer but
//! the session's waits until there is room on the way, evenly over time; the classes take turns by the
//! scheduler that the WebSocket has too. The session never waits, and [`RESERVE`] of quinn's window is
//! left for it, whatever is on the way already.
//!
//! A turn that is not taken is soon another's: a writer may have lost interest.
//!
//! **Invariant:** no lock is held while quinn is called, which calls [`Gate`] under a lock of its own.

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    class::Class,
    transport::{
        flight::Flight,
        mux::{Scheduler, index},
    },
};

/// What of quinn's window the session alone uses, in packets: quinn wants room for a whole one.
const RESERVE: u64 = 2;
/// What a packet carries beside a stream's bytes.
const AROUND: u64 = 52;
const MOST: u64 = 16 << 10;
/// A pause that was missed, by a timer that is late, is made up for so long.
const LATE: Duration = Duration::from_millis(4);
/// For how long a turn is kept.
const TURN: Duration = Duration::from_millis(20);
/// Nothing was heard for so long: what is thought to be on its way may be no more.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Waiter {
    id: u64,
    waker: Waker,
}

#[derive(Debug)]
struct Turn {
    id: u64,
    bytes: u64,
    until: Instant,
}

#[derive(Debug)]
struct State {
    flight: Flight,
    packet: u64,
    /// Sent and not answered, as quinn says.
    in_flight: u64,
    /// Handed over and not yet seen to be sent.
    handed: u64,
    /// Nothing goes before.
    next_at: Instant,
    heard_at: Instant,
    /// Somebody had to wait since the last answer while the window was in use.
    full: bool,
    scheduler: Scheduler,
    waiting: [VecDeque<Waiter>; Class::ALL.len()],
    turn: Option<Turn>,
    ids: u64,
    over: bool,
}

/// The gate of one connection.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

impl State {
    fn new(now: Instant, packet: u64) -> Self {
        Self {
            flight: Flight::new(now, packet),
            packet,
            in_flight: 0,
            handed: 0,
            next_at: now,
            heard_at: now,
            full: false,
            scheduler: Scheduler::default(),
            waiting: Default::default(),
            turn: None,
            ids: 0,
            over: false,
        }
    }

    fn chunk(&self) -> u64 {
        let packet = self.packet.saturating_sub(AROUND);
        self.flight.chunk().clamp(packet, MOST.max(packet))
    }

    /// How much may go now.
    fn room(&self, now: Instant) -> Option<u64> {
        if now < self.next_at {
            return None;
        }
        let used = if now.saturating_duration_since(self.heard_at) < SILENCE {
            self.in_flight + self.handed
        } else {
            0
        };
        let (window, chunk) = (self.flight.window(), self.chunk());
        if used == 0 {
            return Some(chunk);
        }
        (used + self.packet <= window).then(|| chunk.min(window - used))
    }

    /// Whether who waits now says that the window is small. Some wait for their time or their turn while
    /// little is on its way: they could not use a larger one.
    fn is_in_use(&self) -> bool {
        (self.in_flight + self.handed) * 2 >= self.flight.window()
    }

    fn classes(&self) -> [bool; Class::ALL.len()] {
        std::array::from_fn(|class| !self.waiting[class].is_empty())
    }

    fn wait(&mut self, class: Class, id: u64, waker: &Waker) {
        self.full |= self.is_in_use();
        let queue = &mut self.waiting[index(class)];
        match queue.iter_mut().find(|waiter| waiter.id == id) {
            Some(waiter) => waiter.waker.clone_from(waker),
            None => queue.push_back(Waiter {
                id,
                waker: waker.clone(),
            }),
        }
    }

    /// Gives the next turn, if it is time; when to look again.
    fn give(&mut self, now: Instant) -> Option<Instant> {
        if let Some(turn) = &self.turn
            && now < turn.until
        {
            return Some(turn.until);
        }
        self.turn = None;
        let classes = self.classes();
        if !classes.contains(&true) {
            return None;
        }
        let Some(bytes) = self.room(now) else {
            // Or when something is heard, which is told.
            return Some(if now < self.next_at {
                self.next_at
            } else {
                now + SILENCE
            });
        };
        // Asked only when its answer is carried out: it remembers whose turn it was.
        let chunk = usize::try_from(self.chunk()).unwrap_or(usize::MAX);
        let class = self.scheduler.next(classes, chunk)?;
        let waiter = self.waiting[index(class)].pop_front()?;
        waiter.waker.wake();
        let until = now + TURN;
        self.turn = Some(Turn {
            id: waiter.id,
            bytes,
            until,
        });
        Some(until)
    }
}

impl Gate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State::new(now, 1200)),
            changed: Notify::new(),
        }
    }

    /// A new path: nothing is known of it.
    pub(super) fn path(&self, now: Instant, packet: u16) {
        let mut state = self.state.lock();
        state.packet = packet.into();
        state.flight = Flight::new(now, packet.into());
        state.in_flight = 0;
    }

    pub(super) fn packets_of(&self, bytes: u16) {
        let mut state = self.state.lock();
        state.packet = bytes.into();
        state.flight.packets_of(bytes.into());
    }

    /// quinn's window. It never closes over what is on its way: that would hold up the session until
    /// a window that has shrunk is empty again. All others the gate holds back.
    pub(super) fn window(&self) -> u64 {
        let state = self.state.lock();
        state.flight.window().max(state.in_flight) + RESERVE * state.packet
    }

    /// quinn sent so much.
    pub(super) fn sent(&self, bytes: u64) {
        let mut state = self.state.lock();
        // Mere acknowledgements are in no one's way and are never answered.
        let ours = bytes.min(state.handed);
        state.handed -= ours;
        state.in_flight += ours;
    }

    pub(super) fn arrived(&self, now: Instant, sent: Instant, bytes: u64, idle: bool) {
        let mut state = self.state.lock();
        let waits = !idle || state.classes().contains(&true);
        let full = std::mem::take(&mut state.full) || (waits && state.is_in_use());
        state.flight.arrived(now, sent, bytes, full);
    }

    pub(super) fn lost(&self, now: Instant, sent: Instant, bytes: u64, all: bool) {
        let mut state = self.state.lock();
        // quinn says what is on the way before it looks for what is lost.
        state.in_flight = if all {
            0
        } else {
            state.in_flight.saturating_sub(bytes)
        };
        state.flight.lost(now, sent, all);
    }

    /// So much is on its way, and quinn has nothing left to send when it is `idle`.
    pub(super) fn answered(&self, now: Instant, in_flight: u64, idle: bool) {
        let mut state = self.state.lock();
        state.in_flight = in_flight;
        state.heard_at = now;
        if idle {
            state.handed = 0;
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A number for one more writer.
    pub(super) fn writer(&self) -> u64 {
        let mut state = self.state.lock();
        state.ids += 1;
        state.ids
    }

    /// How many bytes the writer may hand over now.
    pub(super) fn poll_turn(&self, class: Class, id: u64, cx: &Context<'_>) -> Poll<u64> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if state.over || class == Class::Control {
            return Poll::Ready(u64::MAX);
        }
        if let Some(turn) = state.turn.take_if(|turn| turn.id == id) {
            return Poll::Ready(turn.bytes);
        }
        if state.turn.is_none()
            && !state.classes().contains(&true)
            && let Some(bytes) = state.room(now)
        {
            return Poll::Ready(bytes);
        }
        state.wait(class, id, cx.waker());
        drop(state);
        self.changed.notify_one();
        Poll::Pending
    }

    /// The writer handed so much over; nothing, when it could not.
    pub(super) fn wrote(&self, class: Class, bytes: usize) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let mut waiting = state.classes();
        waiting[index(class)] = true;
        state.scheduler.sent(class, bytes, waiting);
        let count = bytes as u64;
        // In silence one piece is tried at a time.
        if state.in_flight + state.handed == 0 || now.saturating_duration_since(state.heard_at) >= SILENCE {
            state.heard_at = now;
        }
        state.handed += count;
        if class != Class::Control {
            let from = state.next_at.max(now.checked_sub(LATE).unwrap_or(now));
            state.next_at = from + state.flight.pause(count);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The writer is gone.
    pub(super) fn forget(&self, class: Class, id: u64) {
        let mut state = self.state.lock();
        state.waiting[index(class)].retain(|waiter| waiter.id != id);
        let had_turn = state.turn.take_if(|turn| turn.id == id).is_some();
        drop(state);
        if had_turn {
            self.changed.notify_one();
        }
    }

    /// Gives turns, until the connection is over.
    pub(super) async fn serve(&self, over: impl Future<Output = quinn::ConnectionError>) {
        tokio::pin!(over);
        loop {
            let again = self.state.lock().give(Instant::now());
            let pause = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = pause => {}
                _ = &mut over => break,
            }
        }
        self.end();
    }

    /// Nobody waits any more: quinn has its own answer to who writes now.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.over = true;
        let waiting = state.waiting.iter_mut().flat_map(std::mem::take);
        waiting.for_each(|waiter| waiter.waker.wake());
    }
}
