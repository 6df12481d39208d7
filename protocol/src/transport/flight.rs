//! How much may be on its way at once: enough that the link is never idle, and little more, so that
//! what is urgent finds no queue before it.
//!
//! Pure: what was sent and has arrived, and when, is the caller's to know. Both transports ask it, each
//! for what it sends: QUIC as its congestion control, the WebSocket above TCP.
//!
//! Each round trip the window moves half of the way to where answers take [`QUEUE`], or a sixteenth of a
//! long path, and a packet and a half more than the shortest round trip known (as FAST TCP does; at
//! 1 Mbit/s some 27 ms, of which two packets on their way, one each way, are most). A loss cuts it as
//! CUBIC does; after one it grows by one packet, then two, then four a round, so that it meets a short
//! queue's end slowly.
//!
//! While the link is full the path without its queue is not seen, so once in [`KNOWN`](path::KNOWN), and when the
//! doubling ends, half of the window is kept back for two rounds: a *look*. Of a small window it is all
//! but two packets: where packets take long, four are a queue already. If as much comes as before, in
//! half of the time, the half was more than enough: the look begins again with half of that.
//!
//! Radio links answer one packet soon and the next late, whatever is on their way. Where answers keep
//! their order all wait for the late ones, the more so the more are on their way: the fastest answer
//! ever is one of few packets, and beside it a full link seems to have a queue. With half of the packets
//! nearly as much is late, and of a queue of one's own nothing is left. So what many packets took during
//! the look is taken for the path until the next one, or until a round took less; but it is no longer
//! than the fastest answer by more than [`LATER`] times what answers of one round differ: where they are
//! even, what the look saw beside that is a queue of others, such as those of the other direction. What
//! answers differ by far beyond the queue that is wanted is allowed too.
//!
//! So a longer path, and somebody else's queue that does not go away, are taken for the path itself
//! within twice [`KNOWN`](path::KNOWN): beside flows that fill every queue this one gets little.
//!
//! **Invariant:** the window is never below four packets, whatever delays and losses say; below two
//! not even then.

mod path;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use self::path::{Look, Shortest};

/// What the answers of a full link may take longer than those of an idle one, both ways together.
const QUEUE: Duration = Duration::from_millis(10);
/// Or this part of a long path, if that is more: its delay varies with its length.
const QUEUE_PART: u32 = 16;
/// And this much of a packet more, in percent: so two senders whose answers wait behind what the
/// other one sends get equal shares.
const MORE: u64 = 150;
/// A queue so long says that the link is full.
const FULL: Duration = Duration::from_millis(30);
/// The answers of a round, from which on they say by how much answers differ.
const TELLING: u32 = 4;
/// What so many packets take together says more than the fastest of them.
const MANY: u64 = 6;
/// By how much of what answers of one round differ the path may be longer than the fastest of all.
const LATER: u32 = 4;
/// What is sent at once is what the link carries in this time.
const SPAN: Duration = Duration::from_millis(12);
const SECOND: Duration = Duration::from_secs(1);
/// A round so little above the path is as good as that.
const SAME: Duration = Duration::from_millis(2);
/// RFC 9002.
const FIRST_PACKETS: u64 = 10;
const LEAST_PACKETS: u64 = 4;
/// While the path is looked at. Who gets one alone may put off the answer.
const LEAST_LOOKING: u64 = 2;

/// What came back since the round began.
#[derive(Clone, Debug)]
struct Round {
    began: Instant,
    /// When what was answered first had been sent: before that there may have been nothing to send.
    first: Option<Instant>,
    least: Option<Duration>,
    trips: Duration,
    answers: u32,
    arrived: u64,
    /// The window, not the application, held something back.
    full: bool,
}

impl Round {
    const fn new(now: Instant) -> Self {
        Self {
            began: now,
            first: None,
            least: None,
            trips: Duration::ZERO,
            answers: 0,
            arrived: 0,
            full: false,
        }
    }

    /// What answers took on average.
    fn mean(&self) -> Duration {
        self.trips / self.answers.max(1)
    }

    /// Bytes that came in a second.
    fn rate(&self, now: Instant) -> u64 {
        let began = self.first.map_or(self.began, |first| first.max(self.began));
        part(self.arrived, SECOND, now.saturating_duration_since(began))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing says yet how much the link carries: each round twice as much.
    Doubling,
    Steady,
    /// To see the path without its queue: two rounds with half, and two until the queue is back.
    Looking(u8),
}

/// The window of one sender.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    packet: u64,
    window: u64,
    phase: Phase,
    shortest: Shortest,
    look: Look,
    round: Round,
    /// What was sent until then was answered by a cut already.
    cut_at: Option<Instant>,
    /// What the next round may add, after a loss.
    step: Option<u64>,
    /// What a round without a queue adds.
    calm: u64,
    /// How long an answer took in the last round.
    trip: Option<Duration>,
    /// By how much the answers of a round are later than its first one, on average.
    spread: Duration,
}

impl Flight {
    /// A sender of packets of so many bytes, who knows nothing of the path.
    pub(super) const fn new(now: Instant, packet: u64) -> Self {
        Self {
            packet,
            window: FIRST_PACKETS * packet,
            phase: Phase::Doubling,
            shortest: Shortest::new(now),
            look: Look::new(now),
            round: Round::new(now),
            cut_at: None,
            step: None,
            calm: 0,
            trip: None,
            spread: Duration::ZERO,
        }
    }

    /// How many bytes may be on their way.
    pub(super) fn window(&self) -> u64 {
        match self.phase {
            Phase::Looking(2..) if self.window < 2 * LEAST_PACKETS * self.packet => {
                LEAST_LOOKING * self.packet
            }
            Phase::Looking(2..) => self.window / 2,
            Phase::Doubling | Phase::Steady | Phase::Looking(_) => self.window,
        }
    }

    /// How many bytes are worth sending at once.
    pub(super) fn chunk(&self) -> u64 {
        let trip = self.shortest.get().unwrap_or(FULL) + FULL;
        part(self.window, SPAN, trip)
    }

    /// How long nothing follows `bytes`, so that the window goes evenly and not at once.
    pub(super) fn pause(&self, bytes: u64) -> Duration {
        let trip = self.trip.unwrap_or_default();
        let even = part(
            trip_nanos(trip),
            Duration::from_nanos(bytes),
            Duration::from_nanos(self.window),
        );
        let even = Duration::from_nanos(even);
        if self.phase == Phase::Doubling {
            even / 2
        } else {
            even / 5 * 4
        }
    }

    /// Packets are of another size.
    pub(super) fn packets_of(&mut self, bytes: u64) {
        self.packet = bytes;
        self.window = self.at_least(self.window);
    }

    /// `bytes` that were sent at `sent` have arrived; `full` when more would have been sent by now,
    /// had the window allowed it.
    pub(super) fn arrived(&mut self, now: Instant, sent: Instant, bytes: u64, full: bool) {
        let trip = now.saturating_duration_since(sent);
        self.shortest.saw(now, trip);
        let round = &mut self.round;
        round.first.get_or_insert(sent);
        round.least = Some(round.least.map_or(trip, |least| least.min(trip)));
        round.trips += trip;
        round.answers += 1;
        round.arrived += bytes;
        round.full |= full;
        if self.phase == Phase::Doubling && full {
            self.window = self.window.saturating_add(bytes);
        }
        // What was sent in this round has come back: the next one.
        if sent >= self.round.began && now > self.round.began {
            let round = std::mem::replace(&mut self.round, Round::new(now));
            self.turn(now, &round);
        }
    }

    fn turn(&mut self, now: Instant, round: &Round) {
        let (Some(shortest), Some(least)) = (self.shortest.get(), round.least) else {
            return;
        };
        let mean = round.mean();
        // Between both: the fastest answer may have been lucky, and the mean has waited for an
        // acknowledgement that was put off.
        let trip = (least + mean) / 2;
        self.trip = Some(trip);
        // While a queue goes and comes back answers differ for that.
        if round.answers >= TELLING && !matches!(self.phase, Phase::Looking(_)) {
            self.spread = (self.spread * 3 + mean.saturating_sub(least)) / 4;
        }
        let took = if round.arrived >= MANY * self.packet {
            trip
        } else {
            least
        };
        let path = self.path(now, round, shortest, took);
        let wanted = QUEUE.max(path / QUEUE_PART);
        // What answers that were put off make of an even link is less than that.
        let uneven = self.spread.saturating_sub(wanted * 3 / 2) * 3;
        let queue = wanted + uneven;
        let mut there = part(self.window, path + queue, trip) + self.packet * MORE / 100;
        // Where there is no queue at all more is added each round: on a long path the rest of this
        // takes minutes.
        self.calm = if round.full && trip <= path + queue / 2 {
            (self.calm * 2).clamp(self.packet, self.window)
        } else {
            0
        };
        there += self.calm;
        let rate = round.rate(now);
        match self.phase {
            Phase::Doubling if round.full && trip > path + FULL.max(wanted * 2) + uneven => {
                // One late answer says little.
                let carries = part(rate, path + FULL, SECOND).clamp(self.window / 2, self.window);
                self.window = self.at_least(carries);
                self.begin_look(rate, trip);
            }
            Phase::Looking(0) => {
                self.phase = Phase::Steady;
                self.look.at = now;
            }
            Phase::Looking(2)
                if self.look.saw_a_queue(rate, took) && self.window >= 2 * LEAST_PACKETS * self.packet =>
            {
                self.window /= 2;
                self.begin_look(self.look.rate, took);
            }
            Phase::Looking(rounds) => self.phase = Phase::Looking(rounds - 1),
            Phase::Steady if round.full && self.look.is_due(now, trip) => self.begin_look(rate, trip),
            // Few answers of somebody who sends little say nothing of the link.
            Phase::Steady if round.full || (there < self.window && round.arrived * 2 >= self.window) => {
                self.approach(there);
            }
            Phase::Doubling | Phase::Steady => {}
        }
    }

    /// What is taken for the path without a queue, after a round that took so long.
    fn path(&mut self, now: Instant, round: &Round, shortest: Duration, took: Duration) -> Duration {
        let (many, look) = (round.arrived >= MANY * self.packet, &mut self.look);
        let most = shortest + self.spread * LATER;
        match self.phase {
            Phase::Looking(2) => look.path = many.then_some(took),
            Phase::Looking(1) => look.path = look.path.map(|path| path.min(took)),
            Phase::Steady if round.full => {
                look.path = look.path.map(|path| path.min(round.mean()));
                let as_good = match look.path {
                    Some(path) => took <= path.min(most) + SAME,
                    None => round.least.is_some_and(|least| least <= shortest + SAME),
                };
                if as_good {
                    look.at = now;
                }
            }
            Phase::Doubling | Phase::Steady | Phase::Looking(_) => {}
        }
        look.path.map_or(shortest, |path| path.min(most).max(shortest))
    }

    fn begin_look(&mut self, rate: u64, trip: Duration) {
        self.phase = Phase::Looking(3);
        (self.look.rate, self.look.trip) = (rate, trip);
    }

    /// Half of the way to `there`.
    fn approach(&mut self, there: u64) {
        let mut next = self.window.midpoint(there.min(self.window * 2));
        if next > self.window
            && let Some(step) = self.step
        {
            next = next.min(self.window + step);
            self.step = Some(step.saturating_mul(2)).filter(|step| *step < self.window);
        }
        self.window = self.at_least(next);
    }

    /// What was sent at `sent` is lost, or came with a mark of congestion; `all` when nothing came
    /// through for long.
    pub(super) fn lost(&mut self, now: Instant, sent: Instant, all: bool) {
        if self.cut_at.is_some_and(|cut| sent <= cut) && !all {
            return;
        }
        self.cut_at = Some(now);
        self.phase = Phase::Steady;
        self.step = Some(self.packet);
        let rest = if all { 0 } else { self.window / 10 * 7 };
        self.window = self.at_least(rest);
    }

    fn at_least(&self, window: u64) -> u64 {
        window.max(LEAST_PACKETS * self.packet)
    }
}

fn trip_nanos(trip: Duration) -> u64 {
    u64::try_from(trip.as_nanos()).unwrap_or(u64::MAX)
}

/// `bytes × part / whole`.
fn part(bytes: u64, part: Duration, whole: Duration) -> u64 {
    let part = u128::from(bytes) * part.as_nanos() / whole.as_nanos().max(1);
    u64::try_from(part).unwrap_or(u64::MAX)
}
