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
    /// Somebody had to wait since the last answer.
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

    fn classes(&self) -> [bool; Class::ALL.len()] {
        std::array::from_fn(|class| !self.waiting[class].is_empty())
    }

    fn wait(&mut self, class: Class, id: u64, waker: &Waker) {
        self.full = true;
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
        let full = std::mem::take(&mut state.full) || !idle || state.classes().contains(&true);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A gate whose window is full: so many bytes on their way, and one more handed over.
    fn full() -> (Gate, u64) {
        let gate = Gate::new(Instant::now());
        let window = gate.state.lock().flight.window();
        gate.answered(Instant::now(), window - 100, false);
        (gate, window)
    }

    fn ready(gate: &Gate, class: Class, id: u64) -> bool {
        gate.poll_turn(class, id, &Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn the_session_never_waits_and_others_do_while_enough_is_on_its_way() {
        let (gate, window) = full();
        assert!(ready(&gate, Class::Control, 1) && !ready(&gate, Class::Bulk, 2));
        assert!(
            gate.window() >= window + 2 * 1200,
            "quinn has room for the session"
        );
        gate.answered(Instant::now(), 0, false);
        gate.state.lock().give(Instant::now());
        assert!(ready(&gate, Class::Bulk, 2));
    }

    #[test]
    fn the_most_urgent_is_next_and_who_is_gone_has_no_turn() {
        let (gate, _) = full();
        assert!(!ready(&gate, Class::Bulk, 1) && !ready(&gate, Class::Desired, 2));
        gate.answered(Instant::now(), 0, false);
        gate.state.lock().give(Instant::now());
        assert!(!ready(&gate, Class::Bulk, 1), "it is another's turn");
        gate.forget(Class::Desired, 2);
        gate.state.lock().give(Instant::now());
        assert!(ready(&gate, Class::Bulk, 1));
    }

    #[test]
    fn a_turn_that_nobody_takes_is_soon_anothers() {
        let (gate, _) = full();
        assert!(!ready(&gate, Class::Desired, 1) && !ready(&gate, Class::Bulk, 2));
        let now = Instant::now();
        gate.answered(now, 0, false);
        let again = gate.state.lock().give(now).unwrap();
        assert_eq!(again, now + TURN);
        gate.state.lock().give(again);
        assert!(ready(&gate, Class::Bulk, 2));
    }

    #[test]
    fn what_is_waited_for_in_vain_is_forgotten() {
        let (gate, _) = full();
        let silent = Instant::now() + SILENCE;
        assert!(gate.state.lock().room(Instant::now()).is_none());
        assert!(gate.state.lock().room(silent).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn in_silence_one_piece_is_tried_a_second() {
        let (gate, _) = full();
        let mut went = 0;
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            if gate.state.lock().room(Instant::now()).is_some() {
                gate.wrote(Class::Bulk, 1000);
                went += 1;
            }
        }
        assert!((8..=10).contains(&went), "{went}");
    }

    #[test]
    fn a_window_that_shrinks_leaves_room_for_the_session_over_what_is_on_its_way() {
        let (gate, window) = full();
        let (now, on_way) = (Instant::now(), window - 100);
        gate.lost(now, now, 1000, false);
        assert!(gate.state.lock().flight.window() < on_way - 1000);
        assert_eq!(gate.window(), on_way - 1000 + 2 * 1200);
        gate.lost(now, now, 1000, true);
        assert_eq!(gate.window(), (4 + 2) * 1200, "nothing came through");
    }

    #[test]
    fn acknowledgements_alone_are_not_on_their_way() {
        let gate = Gate::new(Instant::now());
        gate.wrote(Class::Bulk, 1000);
        gate.sent(1040);
        gate.sent(60);
        let state = gate.state.lock();
        assert_eq!((state.handed, state.in_flight), (0, 1000));
    }

    #[test]
    fn when_the_connection_is_over_nobody_waits() {
        let (gate, _) = full();
        assert!(!ready(&gate, Class::Bulk, 1));
        gate.end();
        assert!(ready(&gate, Class::Bulk, 1));
    }
}
