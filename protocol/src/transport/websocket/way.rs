//! What is on its way to the peer, above TCP.
//!
//! TCP fills the network's queue as far as it can, and whatever it took goes before what is urgent. So
//! the link's own task asks with pings what has arrived: a pong says that everything before its ping
//! has, and [`Flight`] says from that how much more may go. Who waits for nothing asks for nothing: a
//! beat costs no ping.
//!
//! Whether the peer is there is the session's to know. One that answers beats and no pings must not hold
//! up all else for ever: without an answer for [`DEAF`] so much goes as always may, [`AT_ALL`] each second.
//!
//! Pure: the time is the caller's to know.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::transport::flight::Flight;

/// TCP's, over Ethernet.
const PACKET: u64 = 1448;
/// The frames, TLS, TCP and IP around a message.
const AROUND: u64 = 70;
/// There are about so many questions on the way.
const QUESTIONS: u64 = 8;
/// A peer that answers none must not make them more and more.
const MOST_QUESTIONS: usize = 64;
/// Less is not asked about.
const WORTHWHILE: u64 = 1 << 10;
/// What was not asked about for so long is there, or the link is dead.
const FORGOTTEN: Duration = Duration::from_secs(2);
/// No answer for so long: the peer answers no pings, or not now.
const DEAF: Duration = Duration::from_secs(3);
/// What goes each second all the same. TCP bounds it too.
const AT_ALL: u64 = 10 * PACKET;
/// A pause that was missed, by a timer that is late, is made up for so long.
const LATE: Duration = Duration::from_millis(4);

/// What a ping asks about.
#[derive(Debug)]
struct Question {
    number: u32,
    bytes: u64,
    at: Instant,
}

/// Whether bytes may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    Go,
    /// Not before, and if it is for want of an answer, not before that.
    At(Instant),
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Way {
    flight: Flight,
    questions: VecDeque<Question>,
    /// What went since the last question.
    unasked: u64,
    unanswered: u64,
    next_number: u32,
    went_at: Instant,
    heard_at: Instant,
    next_at: Instant,
    /// Something had to wait since the last answer.
    full: bool,
}

impl Way {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            flight: Flight::new(now, PACKET),
            questions: VecDeque::new(),
            unasked: 0,
            unanswered: 0,
            next_number: 0,
            went_at: now,
            heard_at: now,
            next_at: now,
            full: false,
        }
    }

    /// How many bytes are worth sending at once.
    pub(super) fn chunk(&self) -> usize {
        usize::try_from(self.flight.chunk()).unwrap_or(usize::MAX)
    }

    pub(super) fn may(&self, now: Instant) -> May {
        let at = self.deaf_at().map_or(self.next_at, |deaf| deaf.max(self.next_at));
        if now < at { May::At(at) } else { May::Go }
    }

    /// If an answer is waited for: until when.
    fn deaf_at(&self) -> Option<Instant> {
        // What nobody was asked about nobody answers.
        let oldest = self.questions.front()?;
        let full = self.unanswered + self.flight.chunk() > self.flight.window();
        full.then(|| oldest.at.max(self.heard_at) + DEAF)
    }

    /// Something waits that may not go. While little is on its way it waits for its time, and could not
    /// use a larger window.
    pub(super) fn held(&mut self) {
        self.full |= self.unanswered * 2 >= self.flight.window();
    }

    /// A message of so many bytes went; what to ask next, if anything.
    pub(super) fn went(&mut self, bytes: usize, now: Instant) -> Option<[u8; 4]> {
        if now.saturating_duration_since(self.went_at) > FORGOTTEN {
            self.unanswered -= std::mem::take(&mut self.unasked);
        }
        self.went_at = now;
        let bytes = bytes as u64 + AROUND;
        let from = self.next_at.max(now.checked_sub(LATE).unwrap_or(now));
        let pause = if self.deaf_at().is_some_and(|deaf| deaf <= now) {
            Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / AT_ALL)
        } else {
            self.flight.pause(bytes)
        };
        self.next_at = from + pause;
        self.unanswered += bytes;
        self.unasked += bytes;
        let worthwhile = WORTHWHILE.max(self.flight.window() / QUESTIONS);
        if self.unasked < worthwhile || self.questions.len() >= MOST_QUESTIONS {
            return None;
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.questions.push_back(Question {
            number,
            bytes: std::mem::take(&mut self.unasked),
            at: now,
        });
        Some(number.to_be_bytes())
    }

    /// The peer has what was sent before the ping with these bytes.
    pub(super) fn answered(&mut self, pong: &[u8], now: Instant) {
        let is_meant = |asked: &Question| asked.number.to_be_bytes() == pong;
        let Some(last) = self.questions.iter().position(is_meant) else {
            return;
        };
        self.heard_at = now;
        let full = std::mem::take(&mut self.full);
        for asked in self.questions.drain(..=last) {
            self.unanswered -= asked.bytes;
            self.flight.arrived(now, asked.at, asked.bytes, full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_costs_no_ping_and_a_chunk_one() {
        let (now, mut way) = (Instant::now(), Way::new(Instant::now()));
        for beat in 0..100 {
            assert_eq!(way.went(20, now + Duration::from_secs(40) * beat), None);
        }
        let now = now + Duration::from_hours(2);
        let asked: Vec<_> = (0..10).filter_map(|_| way.went(1400, now)).collect();
        assert!(!asked.is_empty());
        assert_eq!(asked[0], [0; 4]);
    }

    #[test]
    fn a_pong_answers_every_ping_before_it_and_a_strange_one_none() {
        let now = Instant::now();
        let (mut way, mut asked) = (Way::new(now), Vec::new());
        while way.may(now + Duration::from_secs(1)) == May::Go {
            asked.extend(way.went(1400, now));
        }
        assert_eq!(way.may(now + Duration::from_secs(1)), May::At(now + DEAF));
        let before = way.unanswered;
        way.answered(b"else", now);
        way.answered(b"", now);
        assert_eq!(way.unanswered, before);
        let later = now + Duration::from_millis(50);
        way.answered(asked.last().unwrap(), later);
        assert_eq!(way.unanswered, way.unasked);
        way.answered(&asked[0], later);
        assert_eq!(way.unanswered, way.unasked, "it was answered already");
    }

    #[test]
    fn nothing_waits_for_an_answer_that_nobody_was_asked_for() {
        let (mut now, mut way) = (Instant::now(), Way::new(Instant::now()));
        for _ in 0..6 {
            let half = usize::try_from(way.flight.window() / 2).unwrap();
            let asked = way.went(half, now);
            way.held();
            now += Duration::from_millis(20);
            way.answered(&asked.unwrap_or_default(), now);
        }
        // A part that is too small to ask about, and a stall that makes the window small.
        let small = usize::try_from(way.flight.window() / QUESTIONS / 2).unwrap();
        let asked = way.went(small * 2, now).unwrap();
        assert_eq!(way.went(small, now), None);
        now += Duration::from_secs(3);
        for _ in 0..20 {
            way.flight.lost(now, now, true);
        }
        way.answered(&asked, now);
        assert!(
            way.unanswered + way.flight.chunk() > way.flight.window(),
            "the case"
        );
        assert_eq!(way.may(now), May::Go);
    }

    /// What goes in so many seconds to a peer that answers no pings from now on.
    fn deaf(way: &mut Way, mut now: Instant, seconds: u64) -> u64 {
        let (end, mut went) = (now + Duration::from_secs(seconds), 0);
        while now < end {
            match way.may(now) {
                May::Go => {
                    went += 1400;
                    way.went(1400, now);
                }
                May::At(at) => now = at,
            }
        }
        went
    }

    #[test]
    fn a_peer_that_answers_no_pings_gets_a_little_each_second_and_no_more() {
        let mut way = Way::new(Instant::now());
        let first = deaf(&mut way, Instant::now(), 2);
        assert!(first <= AT_ALL, "a window: {first}");
        let rest = deaf(&mut way, Instant::now() + Duration::from_secs(3), 100);
        assert!(
            (95 * AT_ALL..=101 * AT_ALL).contains(&(rest + 100 * AROUND * 10)),
            "{rest}"
        );
        assert!(way.questions.len() <= MOST_QUESTIONS);
    }

    #[test]
    fn who_answers_late_but_answers_is_not_deaf() {
        let (mut now, mut way) = (Instant::now(), Way::new(Instant::now()));
        let (mut asked, mut went) = (VecDeque::new(), 0);
        // 1 kB a second: what fills the first window is answered over fourteen of them.
        for _ in 0..60 {
            while way.may(now) == May::Go && went < 1_000_000 {
                asked.extend(way.went(1000, now));
                went += 1000;
            }
            now += Duration::from_secs(2);
            if let Some(question) = asked.pop_front() {
                way.answered(&question, now);
            }
        }
        assert!(way.unanswered <= way.flight.window() + 2000, "{}", way.unanswered);
    }

    #[test]
    fn who_waits_for_its_time_while_little_is_on_its_way_makes_the_window_no_larger() {
        let (now, mut way) = (Instant::now(), Way::new(Instant::now()));
        let window = way.flight.window();
        let asked = way.went(2000, now).unwrap();
        way.held();
        way.answered(&asked, now + Duration::from_millis(50));
        assert_eq!(way.flight.window(), window);
    }

    #[test]
    fn what_goes_goes_evenly_once_the_round_trip_is_known() {
        let (mut now, mut way) = (Instant::now(), Way::new(Instant::now()));
        for _ in 0..20 {
            let asked = way.went(2000, now);
            now += Duration::from_millis(50);
            way.answered(&asked.unwrap_or_default(), now);
        }
        for _ in 0..3 {
            way.went(2000, now);
        }
        assert!(matches!(way.may(now), May::At(at) if at < now + Duration::from_millis(50)));
    }
}
