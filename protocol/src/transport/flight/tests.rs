//! The window over links in virtual time: even and uneven, long and short, with others' queues and losses.

mod beside;

use std::collections::VecDeque;

use super::*;

const PACKET: u64 = 1250;

/// A link in virtual time, always full, of one sender.
struct Line {
    flight: Flight,
    now: Instant,
    /// What a packet takes.
    packet: Duration,
    path: Duration,
    /// Somebody else's queue before it.
    foreign: Duration,
    /// Answers are late by up to this, each by another time.
    uneven: Duration,
    dice: u64,
    /// Longer queues lose what comes.
    most: Duration,
    free_at: Instant,
    next_at: Instant,
    /// When answers come, and to what was sent when.
    answers: VecDeque<(Instant, Instant, bool)>,
    on_way: u64,
    carried: u64,
    longest: Duration,
}

impl Line {
    fn of(bits_a_second: u64, path: u64) -> Self {
        let now = Instant::now();
        Self {
            flight: Flight::new(now, PACKET),
            now,
            packet: Duration::from_nanos(PACKET * 8 * 1_000_000_000 / bits_a_second),
            path: Duration::from_millis(path),
            foreign: Duration::ZERO,
            uneven: Duration::ZERO,
            dice: 1,
            most: Duration::from_secs(1),
            free_at: now,
            next_at: now,
            answers: VecDeque::new(),
            on_way: 0,
            carried: 0,
            longest: Duration::ZERO,
        }
    }

    fn send(&mut self) {
        let waits = self.free_at.saturating_duration_since(self.now);
        self.on_way += PACKET;
        self.next_at = self.next_at.max(self.now) + self.flight.pause(PACKET);
        if waits > self.most {
            self.answers.push_back((self.free_at + self.path, self.now, true));
            return;
        }
        self.longest = self.longest.max(waits);
        self.free_at = self.free_at.max(self.now) + self.packet;
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let late = self.uneven * u32::try_from(self.dice >> 54).unwrap() / 1024;
        // They come in the order in which they were sent.
        let before = self.answers.back().map_or(self.now, |(at, ..)| *at);
        let at = (self.free_at + self.path + self.foreign + late).max(before);
        self.answers.push_back((at, self.now, false));
    }

    /// Bytes that arrive in so long, with as much to send as may go.
    fn run(&mut self, seconds: u64) -> u64 {
        let (end, before) = (self.now + Duration::from_secs(seconds), self.carried);
        self.longest = Duration::ZERO;
        while self.now < end {
            let next = self.next_at.max(self.now);
            let may = self.on_way + PACKET <= self.flight.window();
            let answer = self.answers.front().map(|(at, ..)| *at);
            if may && answer.is_none_or(|at| next < at) {
                self.now = next;
                self.send();
                continue;
            }
            let (at, sent, lost) = self.answers.pop_front().unwrap();
            self.now = self.now.max(at);
            self.on_way -= PACKET;
            if lost {
                self.flight.lost(self.now, sent, false);
            } else {
                self.carried += PACKET;
                self.flight.arrived(self.now, sent, PACKET, true);
            }
        }
        self.carried - before
    }

    /// What it carries in a second, in percent.
    fn used(&mut self, seconds: u64) -> u64 {
        let whole = Duration::from_secs(seconds).as_nanos() / self.packet.as_nanos();
        self.run(seconds) * 100 / (u64::try_from(whole).unwrap() * PACKET)
    }
}

#[test]
fn a_full_link_of_any_rate_is_used_and_its_queue_stays_short() {
    for (rate, path) in [
        (1_000_000, 50),
        (1_000_000, 300),
        (10_000_000, 20),
        (100_000_000, 40),
    ] {
        let mut line = Line::of(rate, path);
        line.run(30);
        let used = line.used(30);
        assert!(used >= 95, "{rate} bit/s over {path} ms: {used} %");
        // On a long path, for a moment, a part of what it holds.
        let most = (Duration::from_millis(20) + line.packet * 3).max(line.path * 2 / 5);
        assert!(
            line.longest < most,
            "{rate} bit/s over {path} ms: {:?}",
            line.longest
        );
    }
}

#[test]
fn a_path_that_became_longer_is_known_within_half_a_minute() {
    let mut line = Line::of(10_000_000, 20);
    line.run(30);
    line.path = Duration::from_millis(120);
    line.run(30);
    assert!(line.used(20) >= 90);
}

#[test]
fn a_short_path_with_little_rate_is_seen_as_short() {
    for (rate, path) in [(1_000_000, 5), (2_500_000, 5), (2_500_000, 15)] {
        let mut line = Line::of(rate, path);
        line.run(60);
        let (seen, most) = (
            line.flight.shortest.get().unwrap(),
            line.path + line.packet * 5 / 2,
        );
        assert!(seen <= most, "{rate} bit/s over {path} ms: {seen:?}");
        let used = line.used(30);
        assert!(used >= 95, "{rate} bit/s over {path} ms: {used} %");
    }
}

#[test]
fn beside_a_queue_that_somebody_else_fills_something_goes_always_and_much_after_a_while() {
    let mut line = Line::of(10_000_000, 20);
    line.run(30);
    line.foreign = Duration::from_millis(200);
    let meanwhile = line.run(15);
    assert!(meanwhile >= 15 * 4 * LEAST_PACKETS * PACKET, "{meanwhile}");
    line.run(15);
    assert!(line.used(20) >= 80);
    line.foreign = Duration::ZERO;
    line.run(30);
    assert!(
        line.used(20) >= 90 && line.longest < Duration::from_millis(20),
        "{:?}",
        line.longest
    );
}

#[test]
fn a_link_whose_answers_are_uneven_is_used() {
    for (rate, path, uneven, least) in [
        (10_000_000, 40, 20, 95),
        (10_000_000, 40, 40, 80),
        // Some start with so few packets that no look tells, and keep to them.
        (10_000_000, 30, 70, 5),
        (50_000_000, 40, 40, 50),
        (2_000_000, 40, 60, 60),
        (2_000_000, 600, 170, 75),
        (200_000, 800, 1_200, 75),
    ] {
        for dice in [1, 2, 3] {
            let mut line = Line::of(rate, path);
            (line.uneven, line.dice) = (Duration::from_millis(uneven), dice);
            line.run(30);
            let used = line.used(60);
            assert!(
                used >= least,
                "{rate} bit/s over {path} ms and up to {uneven} more: {used} %"
            );
        }
    }
}

#[test]
fn an_answer_that_is_late_after_a_rest_costs_no_more_than_half() {
    let start = Instant::now();
    let mut flight = Flight::new(start, PACKET);
    flight.arrived(start + Duration::from_millis(50), start, PACKET, false);
    let later = start + Duration::from_mins(1);
    flight.arrived(later + Duration::from_millis(150), later, PACKET, true);
    assert!(flight.window() >= FIRST_PACKETS * PACKET / 2);
}

#[test]
fn a_short_queue_that_loses_is_used_too() {
    let mut line = Line::of(10_000_000, 40);
    line.most = Duration::from_millis(5);
    line.run(30);
    let used = line.used(30);
    assert!(used >= 80, "{used} %");
}

#[test]
fn a_loss_cuts_once_for_all_that_was_lost_with_it_and_the_window_never_ends() {
    let start = Instant::now();
    let (mut flight, later) = (Flight::new(start, PACKET), start + Duration::from_secs(1));
    flight.lost(later, start, false);
    let cut = flight.window();
    assert_eq!(cut, FIRST_PACKETS * PACKET / 10 * 7);
    flight.lost(later, start, false);
    assert_eq!(flight.window(), cut);
    for second in 2..20 {
        let sent = start + Duration::from_secs(second);
        flight.lost(sent, sent, second % 2 == 0);
    }
    assert_eq!(flight.window(), LEAST_PACKETS * PACKET);
}

#[test]
fn who_sends_little_keeps_the_window_that_was() {
    let start = Instant::now();
    let mut flight = Flight::new(start, PACKET);
    for second in 0..100 {
        let sent = start + Duration::from_secs(second);
        flight.arrived(sent + Duration::from_millis(50), sent, 100, false);
    }
    assert_eq!(flight.window(), FIRST_PACKETS * PACKET);
}

#[test]
fn chunks_and_pauses_follow_the_rate() {
    let mut line = Line::of(1_000_000, 50);
    line.run(30);
    assert!(
        (800..2_000).contains(&line.flight.chunk()),
        "{}",
        line.flight.chunk()
    );
    let pause = line.flight.pause(PACKET);
    assert!(pause > line.packet / 2 && pause <= line.packet, "{pause:?}");
    let mut wide = Line::of(100_000_000, 40);
    wide.run(30);
    assert!(wide.flight.chunk() > 50_000);
}
