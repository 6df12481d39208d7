//! One of ours and somebody else's loss-based flow in one queue that drops what does not fit, in virtual
//! time: what each gets, and what is left of the queue when the other one goes.
//!
//! Ours yields, as LEDBAT does: the asserted shares are what it keeps today, and are to grow.

use super::*;

/// A flow that grows until its packets are dropped, in packets: Reno, or CUBIC (RFC 9438).
struct Other {
    cubic: bool,
    window: f64,
    slow_start: bool,
    most: f64,
    reno: f64,
    since: Option<Instant>,
    cut_at: Option<Instant>,
}

impl Other {
    fn arrived(&mut self, now: Instant, sent: Instant) {
        if self.slow_start {
            self.window += 1.0;
        } else if self.cubic {
            let since = *self.since.get_or_insert(now);
            let takes = (self.most * 0.3 / 0.4).cbrt();
            let time = (now - since + (now - sent)).as_secs_f64() - takes;
            self.reno += 3.0 * 0.3 / 1.7 / self.window;
            let target = (0.4 * time.powi(3) + self.most).max(self.reno);
            let target = target.clamp(self.window, self.window * 1.5);
            self.window += (target - self.window) / self.window;
        } else {
            self.window += 1.0 / self.window;
        }
    }

    fn lost(&mut self, now: Instant, sent: Instant) {
        if self.cut_at.is_some_and(|cut| sent <= cut) {
            return;
        }
        (self.cut_at, self.since, self.slow_start) = (Some(now), None, false);
        self.most = self.window;
        self.window = (self.window * if self.cubic { 0.7 } else { 0.5 }).max(2.0);
        self.reno = self.window;
    }
}

/// What one of both has on its way: when answers come, to what was sent when, and whether it was lost.
#[derive(Default)]
struct Sender {
    answers: VecDeque<(Instant, Instant, bool)>,
    carried: u64,
    longest: Duration,
}

struct Shared {
    now: Instant,
    packet: Duration,
    path: Duration,
    most: Duration,
    free_at: Instant,
    next_at: Instant,
    flight: Flight,
    other: Option<Other>,
    senders: [Sender; 2],
}

impl Shared {
    /// 10 Mbit/s and 40 ms.
    fn of(most: u64, cubic: bool) -> Self {
        let now = Instant::now();
        Self {
            now,
            packet: Duration::from_millis(1),
            path: Duration::from_millis(40),
            most: Duration::from_millis(most),
            free_at: now,
            next_at: now,
            flight: Flight::new(now, PACKET),
            other: Some(Other {
                cubic,
                window: 10.0,
                slow_start: true,
                most: 0.0,
                reno: 0.0,
                since: None,
                cut_at: None,
            }),
            senders: Default::default(),
        }
    }

    fn may(&self, who: usize) -> bool {
        let next = u32::try_from(self.senders[who].answers.len() + 1).unwrap();
        match (who, &self.other) {
            (0, _) => u64::from(next) * PACKET <= self.flight.window(),
            (_, Some(other)) => f64::from(next) <= other.window,
            (_, None) => false,
        }
    }

    fn send(&mut self, who: usize) {
        if who == 0 {
            self.next_at = self.next_at.max(self.now) + self.flight.pause(PACKET);
        }
        let waits = self.free_at.saturating_duration_since(self.now);
        let fits = waits <= self.most;
        let sender = &mut self.senders[who];
        if fits {
            sender.longest = sender.longest.max(waits);
            self.free_at = self.free_at.max(self.now) + self.packet;
        }
        sender
            .answers
            .push_back((self.free_at + self.path, self.now, !fits));
    }

    fn answer(&mut self, who: usize) {
        let Some((_, sent, lost)) = self.senders[who].answers.pop_front() else {
            return;
        };
        self.senders[who].carried += u64::from(!lost);
        match (who, lost, &mut self.other) {
            (0, true, _) => self.flight.lost(self.now, sent, false),
            (0, false, _) => self.flight.arrived(self.now, sent, PACKET, true),
            (_, true, Some(other)) => other.lost(self.now, sent),
            (_, false, Some(other)) => other.arrived(self.now, sent),
            (_, _, None) => {}
        }
    }

    /// What ours gets of what arrives in so long, in percent, and the longest queue it met.
    fn run(&mut self, seconds: u64) -> (u64, Duration) {
        for sender in &mut self.senders {
            (sender.carried, sender.longest) = (0, Duration::ZERO);
        }
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            let answers = (0..2).filter_map(|who| Some((self.senders[who].answers.front()?.0, false, who)));
            let sends = (0..2).filter(|who| self.may(*who)).map(|who| {
                let at = if who == 0 {
                    self.next_at.max(self.now)
                } else {
                    self.now
                };
                (at, true, who)
            });
            let (at, sends, who) = answers.chain(sends).min().unwrap();
            self.now = self.now.max(at);
            if sends {
                self.send(who);
            } else {
                self.answer(who);
            }
        }
        let all = self.senders[0].carried + self.senders[1].carried;
        (self.senders[0].carried * 100 / all, self.senders[0].longest)
    }
}

#[test]
fn beside_a_loss_based_flow_something_goes_always_and_all_soon_after_it_went() {
    for (cubic, queue, least) in [
        (true, 40, 12),
        (true, 100, 5),
        (true, 250, 2),
        (false, 40, 8),
        (false, 100, 4),
        (false, 250, 2),
    ] {
        let mut shared = Shared::of(queue, cubic);
        shared.run(20);
        let (share, _) = shared.run(100);
        println!("CUBIC: {cubic}, a queue of {queue} ms: {share} %");
        assert!(share >= least, "CUBIC: {cubic}, a queue of {queue} ms: {share} %");
        shared.other = None;
        shared.run(12);
        let (_, longest) = shared.run(10);
        assert!(longest < Duration::from_millis(30), "{longest:?}");
    }
}
