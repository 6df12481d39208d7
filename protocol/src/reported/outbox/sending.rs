//! What to send when, and what an answer means.

use std::time::Duration;

use crate::object::Body;
use crate::reported::{
    Carries, Class, DEVICE_WINDOW, EVENT_WINDOW, OutboxKey, RefusalCode, STATE_WINDOW, Seq, WINDOW_BYTES,
};
use crate::wire::{Committed, Refused, ReportedDown, ReportedUp, reported_down, reported_up};

use super::{
    Change, Flying, MAX_CONFIRMED, Outbox, OutboxError, Pending, Settled, SettledAs, Streams, report,
};

/// The first pause after a refusal, at full jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

impl Outbox {
    /// A stream was opened: what it carries and is unanswered is sent again, and the node, its pods and
    /// its devices are reported anew, for the API server may show something else by now.
    pub fn connected(&mut self, carries: Carries) -> Change {
        self.disconnected(carries);
        self.streams.set(carries, true);
        self.streams.apart = carries != Carries::Everything;
        let mut change = Change::default();
        if carries.has(Class::State) {
            for (key, body) in std::mem::take(&mut self.confirmed) {
                if !self.state.contains_key(&key) {
                    let (seq, reserved) = self.number();
                    change.reserved = reserved.or(change.reserved);
                    self.state.insert(key, Pending::new(seq, body));
                }
            }
        }
        for (_, pending) in self.waiting_mut(carries) {
            pending.attempts = 0;
            pending.due = Duration::ZERO;
        }
        change
    }

    /// The stream is gone; its unanswered reports are sent again on the next one.
    pub fn disconnected(&mut self, carries: Carries) {
        self.streams.set(carries, false);
        self.flight.retain(|_, flying| !carries.has(flying.key.class()));
        self.busy.retain(|lane| !carries.has(lane.class()));
    }

    /// The next report to send on a stream: state before devices before events, in the order in which
    /// they began to wait, one at a time for the node, for each pod and for each device.
    pub fn poll_transmit(&mut self, carries: Carries, now: Duration) -> Option<ReportedUp> {
        let may = |class| carries.has(class) && self.streams.have(class);
        let state = |class| may(class).then(|| self.next_state(now, class)).flatten();
        let (key, seq) = state(Class::State)
            .or_else(|| state(Class::Device))
            .or_else(|| may(Class::Event).then(|| self.next_event(now)).flatten())?;
        let report = report(&key, self.find(&key, seq)?);
        let bytes = report
            .payload
            .as_ref()
            .map_or(0, |body| usize::try_from(body.raw_len).unwrap_or(usize::MAX));
        self.busy.insert(key.lane(seq));
        self.flight.insert(seq, Flying { key, bytes });
        Some(ReportedUp {
            kind: Some(reported_up::Kind::Report(report)),
        })
    }

    /// When [`Self::poll_transmit`] may have something again that it does not have now.
    pub fn poll_timeout(&self, carries: Carries, now: Duration) -> Option<Duration> {
        let events = self.events.iter().map(|(key, pending)| (key, pending));
        let waiting = self.state.iter().chain(events);
        let due = waiting
            .filter(|(key, _)| carries.has(key.class()) && self.streams.have(key.class()))
            .map(|(_, pending)| pending.due);
        due.filter(|due| *due > now).min()
    }

    fn waiting_mut(&mut self, carries: Carries) -> impl Iterator<Item = (&OutboxKey, &mut Pending)> {
        let events = self.events.iter_mut().map(|(key, pending)| (&*key, pending));
        let all = self.state.iter_mut().chain(events);
        all.filter(move |(key, _)| carries.has(key.class()))
    }

    /// Takes a frame from the cloud. `jitter` is a fresh random number from 0 to 1.
    pub fn handle_frame(
        &mut self,
        frame: ReportedDown,
        now: Duration,
        jitter: f64,
    ) -> Result<Option<Settled>, OutboxError> {
        match frame.kind.ok_or(OutboxError::Empty)? {
            reported_down::Kind::Committed(Committed { seq }) => Ok(self.committed(Seq(seq))),
            reported_down::Kind::Refused(refused) => Ok(self.refused(refused, now, jitter)),
            // Comparing owned fields by digest was not asked for.
            reported_down::Kind::OwnedSame(_)
            | reported_down::Kind::OwnedDiffer(_)
            | reported_down::Kind::OwnedWanted(_) => Ok(None),
        }
    }

    fn committed(&mut self, seq: Seq) -> Option<Settled> {
        let key = self.land(seq)?;
        let taken = self.take(&key, seq);
        let delete = taken.as_ref().map(|_| seq);
        match (&key, taken) {
            (OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Device(_), Some(pending)) => {
                self.confirm(key.clone(), pending.body);
            }
            (OutboxKey::Gone(pod), _) => {
                self.confirmed.remove(&OutboxKey::Pod(pod.clone()));
            }
            (OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Device(_) | OutboxKey::Event { .. }, _) => {}
        }
        Some(Settled {
            key,
            outcome: SettledAs::Committed,
            delete,
        })
    }

    fn refused(&mut self, refused: Refused, now: Duration, jitter: f64) -> Option<Settled> {
        let seq = Seq(refused.seq);
        let key = self.land(seq)?;
        let code = RefusalCode::from_wire(refused.code);
        if refused.permanent {
            let delete = self.take(&key, seq).map(|_| seq);
            self.confirmed.remove(&key);
            return Some(Settled {
                key,
                outcome: SettledAs::Dropped(code),
                delete,
            });
        }
        let pause = |attempts: u32| {
            let most = FIRST_PAUSE
                .saturating_mul(1 << attempts.min(16))
                .min(LONGEST_PAUSE);
            most.mul_f64(jitter.clamp(0.0, 1.0))
        };
        if let Some(pending) = self.newest(&key, seq) {
            pending.due = now + pause(pending.attempts);
            pending.attempts += 1;
            pending.refused = Some((code, refused.text));
        }
        Some(Settled {
            key,
            outcome: SettledAs::Deferred(code),
            delete: None,
        })
    }

    /// The answer frees the window and the lane, whatever it says.
    fn land(&mut self, seq: Seq) -> Option<OutboxKey> {
        let Flying { key, .. } = self.flight.remove(&seq)?;
        self.busy.remove(&key.lane(seq));
        Some(key)
    }

    /// Takes the entry out, unless a newer value has replaced it.
    fn take(&mut self, key: &OutboxKey, seq: Seq) -> Option<Pending> {
        if key.is_event() {
            let position = self.events.iter().position(|(_, pending)| pending.seq == seq)?;
            let (_, pending) = self.events.remove(position)?;
            self.event_bytes -= pending.body.bytes.len();
            return Some(pending);
        }
        if self.state.get(key)?.seq != seq {
            return None;
        }
        self.state.remove(key)
    }

    /// The newest value of the key whose older (or same) one was refused.
    fn newest(&mut self, key: &OutboxKey, seq: Seq) -> Option<&mut Pending> {
        if key.is_event() {
            return self
                .events
                .iter_mut()
                .map(|(_, pending)| pending)
                .find(|pending| pending.seq == seq);
        }
        self.state.get_mut(key)
    }

    fn find(&self, key: &OutboxKey, seq: Seq) -> Option<&Pending> {
        if key.is_event() {
            return self
                .events
                .iter()
                .map(|(_, pending)| pending)
                .find(|pending| pending.seq == seq);
        }
        self.state.get(key)
    }

    fn confirm(&mut self, key: OutboxKey, body: Body) {
        self.confirmed.insert(key, body);
        if self.confirmed.len() > MAX_CONFIRMED {
            self.confirmed.pop_last();
        }
    }

    fn next_state(&self, now: Duration, class: Class) -> Option<(OutboxKey, Seq)> {
        if !self.has_room(class) {
            return None;
        }
        let ready = |(key, pending): &(&OutboxKey, &Pending)| {
            key.class() == class && pending.due <= now && !self.busy.contains(&key.lane(pending.seq))
        };
        let next = self
            .state
            .iter()
            .filter(ready)
            .min_by_key(|(_, pending)| pending.turn);
        next.map(|(key, pending)| (key.clone(), pending.seq))
    }

    fn next_event(&self, now: Duration) -> Option<(OutboxKey, Seq)> {
        if !self.has_room(Class::Event) {
            return None;
        }
        let ready = |(_, pending): &&(OutboxKey, Pending)| {
            pending.due <= now && !self.flight.contains_key(&pending.seq)
        };
        self.events
            .iter()
            .find(ready)
            .map(|(key, pending)| (key.clone(), pending.seq))
    }

    fn has_room(&self, class: Class) -> bool {
        let flying = |of: Class| {
            self.flight
                .values()
                .filter(move |flying| flying.key.class() == of)
        };
        let bytes = |of: Class| flying(of).map(|flying| flying.bytes).sum::<usize>();
        // On one stream those of the node, pods and events are counted together, at the other end too.
        let beside = |other: Class| if self.streams.apart { 0 } else { bytes(other) };
        let (most, bytes) = match class {
            Class::State => (STATE_WINDOW, bytes(class) + beside(Class::Event)),
            Class::Event => (EVENT_WINDOW, bytes(class) + beside(Class::State)),
            Class::Device => (DEVICE_WINDOW, bytes(class)),
        };
        flying(class).count() < most && bytes < WINDOW_BYTES
    }
}

impl Streams {
    const fn set(&mut self, carries: Carries, there: bool) {
        if carries.has(Class::State) {
            self.state = there;
        }
        if carries.has(Class::Event) {
            self.events = there;
        }
    }

    const fn have(self, class: Class) -> bool {
        match class {
            Class::State | Class::Device => self.state,
            Class::Event => self.events,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::devices::DeviceIdentity;
    use crate::wire::Report;

    fn device(number: u64) -> OutboxKey {
        OutboxKey::Device(DeviceIdentity {
            namespace: "n".into(),
            name: format!("d{number:03}"),
            uid: format!("u{number}"),
        })
    }

    fn sent(frame: ReportedUp) -> Report {
        let Some(reported_up::Kind::Report(report)) = frame.kind else {
            panic!("no report")
        };
        report
    }

    fn committed(seq: u64) -> ReportedDown {
        ReportedDown {
            kind: Some(reported_down::Kind::Committed(Committed { seq })),
        }
    }

    #[test]
    fn devices_that_change_faster_than_the_cluster_takes_them_all_get_their_turn() {
        let (mut outbox, _) = Outbox::load(Vec::new(), 0);
        outbox.connected(Carries::Everything);
        let (mut unanswered, mut seen) = (std::collections::VecDeque::new(), BTreeSet::new());
        for second in 0..10_u64 {
            let now = Duration::from_secs(second);
            for number in 0..100 {
                outbox.put(device(number), second.to_string().as_bytes());
            }
            // Twenty a second are taken, in the order in which they came.
            for _ in 0..20 {
                unanswered
                    .extend(std::iter::from_fn(|| outbox.poll_transmit(Carries::Everything, now)).map(sent));
                let report = unanswered.pop_front().unwrap();
                seen.insert(OutboxKey::from_wire(report.key).unwrap());
                outbox.handle_frame(committed(report.seq), now, 0.5).unwrap();
            }
        }
        assert_eq!(seen.len(), 100);
    }
}
