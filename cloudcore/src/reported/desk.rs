//! What becomes of reports: which are answered at once, which are written now, and which wait. Pure.
//!
//! ```text
//! report ──► Intake ──► shown already? ──► answered
//!                          `── no ──► key busy? ── yes ──► held until that write has ended
//!                                        `── no ──► Job
//! report ──► Intake, faster than the node's pace ──► waits there
//! watch: another writer changed it ──► said before? ──► Job without a report
//! ```
//!
//! **Invariant:** never two writes of one key at a time, and the end of a pod waits for its status.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::object::ObjectKey;
use protocol::reported::{Carries, Class, Intake, IntakeViolation, OutboxKey, Outcome, Seq, Write};
use protocol::wire::{ReportedDown, ReportedUp};
use tokio::time::Instant;
use tracing::{debug, info};

use super::memory::Memory;
use super::{NodePace, Refusal, Shown};

/// Writes of one node at a time: its burst must not take the API server from other nodes.
const PARALLEL: usize = 16;

/// Reports of one node that are written again at a time; each holds its payload until its turn.
const REPEATS: usize = 32;

/// A write to carry out. Answer with [`Desk::done`].
#[derive(Clone, Debug)]
pub struct Job {
    /// The report it answers; none if it only repeats one.
    pub seq: Option<Seq>,
    /// What it is about.
    pub key: OutboxKey,
    /// The JSON.
    pub payload: Vec<u8>,
}

/// The reports of one stream, between arrival and answer.
#[derive(Debug, Default)]
pub struct Desk {
    intake: Intake,
    memory: Memory,
    busy: BTreeSet<OutboxKey>,
    /// Reports that wait until an older value of their key is written again.
    held: Vec<Write>,
    /// Begun, and not yet handed out.
    ready: VecDeque<Job>,
    /// Writes under way that only repeat.
    repeats: usize,
    /// To be looked at when fewer are.
    later: BTreeSet<OutboxKey>,
    /// Could not be written again, for now.
    failed: BTreeSet<OutboxKey>,
    /// How fast reports may be written; as fast as they come, where there is none.
    pace: Option<Arc<NodePace>>,
}

/// What the API server shows of a key, compared with a payload.
pub type Look<'a> = &'a dyn Fn(&OutboxKey, &[u8]) -> Shown;

impl Desk {
    /// The desk of a stream that was just opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same of a stream on which some reports are, with the pace of its node.
    pub fn paced(pace: Arc<NodePace>, carries: Carries) -> Self {
        Self {
            intake: Intake::carrying(carries),
            pace: Some(pace),
            ..Self::default()
        }
    }

    /// Takes a frame from the edge.
    pub fn handle_frame(&mut self, frame: ReportedUp) -> Result<(), IntakeViolation> {
        self.intake.handle_frame(frame)
    }

    /// The next answer for the edge.
    pub fn poll_transmit(&mut self) -> Option<ReportedDown> {
        self.intake.poll_transmit()
    }

    /// The next write to begin.
    pub fn poll_job(&mut self, shown: Look<'_>, now: Instant) -> Option<Job> {
        loop {
            if let Some(job) = self.ready.pop_front() {
                if let Some(pace) = self.pace.as_ref().filter(|_| job.seq.is_some()) {
                    pace.take(job.key.class(), now);
                }
                return Some(job);
            }
            let write = self.poll_write(now)?;
            if self.busy.contains(subject(&write.key).as_ref()) {
                self.held.push(write);
            } else {
                self.take(write, shown);
            }
        }
    }

    /// The next report whose turn it is; events go after state.
    fn poll_write(&mut self, now: Instant) -> Option<Write> {
        let devices = self
            .busy
            .iter()
            .filter(|key| key.class() == Class::Device)
            .count();
        let others = self.busy.len() - devices;
        let may = |class: Class| match class {
            Class::State | Class::Event => {
                let pace = self.pace.as_ref();
                others < PARALLEL && pace.is_none_or(|pace| pace.opens(class, now) <= now)
            }
            // Those of devices wait for their turn, which must hold up no pod.
            Class::Device => true,
        };
        let classes = [Class::State, Class::Event, Class::Device].into_iter();
        let mut open = classes.filter(|class| may(*class));
        open.find_map(|class| self.intake.poll_write(class))
    }

    /// When a report may be written that came too fast.
    pub fn opens(&self, now: Instant) -> Option<Instant> {
        let pace = self.pace.as_ref()?;
        let waiting = [Class::State, Class::Event]
            .into_iter()
            .filter(|class| self.intake.waits(*class));
        waiting
            .map(|class| pace.opens(class, now))
            .filter(|opens| *opens > now)
            .min()
    }

    /// A write has ended.
    pub fn done(&mut self, job: Job, result: Result<(), Refusal>, shown: Look<'_>) {
        let Job { seq, key, payload } = job;
        self.busy.remove(&key);
        if result.is_ok() {
            self.memory.remember(&key, &payload);
        }
        if let Err(refusal) = &result {
            debug!(%key, text = refusal.text, "refused");
        }
        let repeat_failed = seq.is_none() && result.is_err();
        self.repeats -= usize::from(seq.is_none());
        if repeat_failed {
            self.memory.not_written(&key);
        }
        if let Some(seq) = seq {
            self.intake.done(seq, outcome(result));
        }
        match self.held.iter().position(|write| *subject(&write.key) == key) {
            Some(held) => {
                // In the order in which they came: the end of a pod after its status.
                let write = self.held.remove(held);
                self.take(write, shown);
            }
            None if repeat_failed => {
                self.failed.insert(key);
            }
            // Another writer may have come in while this one was under way. That the object is not known here
            // says nothing right after it was written: the watch is late, and will tell.
            None => {
                let payload = self.memory.payload(&key);
                if payload.is_some_and(|payload| shown(&key, &payload) != Shown::Nothing) {
                    self.repeat_if_needed(&key, shown);
                }
            }
        }
        while self.repeats < REPEATS
            && let Some(next) = self.later.pop_first()
        {
            self.repeat_if_needed(&next, shown);
        }
    }

    /// Objects of the node changed: what another writer replaced is written again.
    pub fn changed(&mut self, changed: &BTreeSet<ObjectKey>, shown: Look<'_>) {
        for key in self.memory.about(changed) {
            self.repeat_if_needed(&key, shown);
        }
    }

    /// Whether anything could not be written again: call [`Desk::retry`] after a pause.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether all that was to be written again is.
    pub fn is_settled(&self) -> bool {
        self.failed.is_empty() && self.repeats == 0
    }

    /// Looks again at what could not be written again.
    pub fn retry(&mut self, shown: Look<'_>) {
        for key in std::mem::take(&mut self.failed) {
            self.repeat_if_needed(&key, shown);
        }
    }

    /// Reports that have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.intake.unanswered()
    }

    /// Writes a report; what the API server shows already is answered at once.
    fn take(&mut self, write: Write, shown: Look<'_>) {
        if shown(&write.key, &write.payload) == Shown::Same {
            self.memory.remember(&write.key, &write.payload);
            self.intake.done(write.seq, Outcome::Committed);
            return;
        }
        self.memory.forget(&write.key);
        self.begin(Some(write.seq), write.key, write.payload);
    }

    fn begin(&mut self, seq: Option<Seq>, key: OutboxKey, payload: Vec<u8>) {
        self.repeats += usize::from(seq.is_none());
        self.busy.insert(key.clone());
        self.ready.push_back(Job { seq, key, payload });
    }

    /// Writes a value again that another writer has replaced.
    fn repeat_if_needed(&mut self, key: &OutboxKey, shown: Look<'_>) {
        if self.busy.contains(key) {
            return;
        }
        if self.repeats >= REPEATS {
            self.later.insert(key.clone());
            return;
        }
        let Some(payload) = self.memory.payload(key) else {
            return;
        };
        if self.memory.should_repeat(key, shown(key, &payload)) {
            info!(%key, "another writer changed what the node had reported; it is written again");
            self.begin(None, key.clone(), payload);
        }
    }
}

/// What must not be written at the same time: the end of a pod waits for its status.
fn subject(key: &OutboxKey) -> Cow<'_, OutboxKey> {
    match key {
        OutboxKey::Gone(pod) => Cow::Owned(OutboxKey::Pod(pod.clone())),
        OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Device(_) | OutboxKey::Event { .. } => {
            Cow::Borrowed(key)
        }
    }
}

fn outcome(result: Result<(), Refusal>) -> Outcome {
    match result {
        Ok(()) => Outcome::Committed,
        Err(Refusal { code, text }) => Outcome::Refused { code, text },
    }
}

#[cfg(test)]
mod tests {
    use protocol::object::{Digest, Kind};
    use protocol::reported::PodIdentity;

    use super::*;

    #[test]
    fn what_waits_for_the_same_pod_is_written_in_the_order_in_which_it_came() {
        let pod = |name: &str| PodIdentity {
            namespace: "n".into(),
            name: name.into(),
            uid: name.into(),
        };
        let other = Shown::Other(Digest::of(b"theirs"));
        let now = Instant::now();
        let mut desk = Desk::new();
        for name in ["a", "b"] {
            desk.begin(None, OutboxKey::Pod(pod(name)), b"1".to_vec());
        }
        let jobs: Vec<_> = std::iter::from_fn(|| desk.poll_job(&|_, _| other, now)).collect();
        let waiting = [
            OutboxKey::Pod(pod("a")),
            OutboxKey::Pod(pod("b")),
            OutboxKey::Gone(pod("b")),
        ];
        desk.held
            .extend((1..).zip(waiting.clone()).map(|(seq, key)| Write {
                seq: Seq(seq),
                key,
                payload: b"2".to_vec(),
            }));
        for job in jobs {
            desk.done(job, Ok(()), &|_, _| other);
        }
        let written: Vec<_> = std::iter::from_fn(|| desk.poll_job(&|_, _| other, now)).collect();
        let keys: Vec<_> = written.iter().map(|job| job.key.clone()).collect();
        assert_eq!(keys, waiting[..2], "the status before the end");
    }

    #[test]
    fn a_watch_that_is_late_makes_nobody_forget_what_was_written() {
        let (namespace, name, uid) = ("n".into(), "d".into(), "u".into());
        let key = OutboxKey::Device(protocol::devices::DeviceIdentity { namespace, name, uid });
        let job = Job {
            seq: None,
            key: key.clone(),
            payload: b"1".to_vec(),
        };
        let now = Instant::now();
        let mut desk = Desk::new();
        desk.begin(job.seq, job.key.clone(), job.payload.clone());
        assert!(desk.poll_job(&|_, _| Shown::Nothing, now).is_some());
        desk.done(job, Ok(()), &|_, _| Shown::Nothing);
        let changed = BTreeSet::from([ObjectKey::new(Kind::Device, "n", "d")]);
        let theirs = Shown::Other(Digest::of(b"theirs"));
        desk.changed(&changed, &|_, _| theirs);
        assert!(
            desk.poll_job(&|_, _| theirs, now)
                .is_some_and(|job| job.key == key)
        );
    }

    #[test]
    fn what_somebody_changed_of_everything_is_written_again_a_few_at_a_time() {
        let now = Instant::now();
        let mut desk = Desk::new();
        let mut changed = BTreeSet::new();
        for name in (0..100).map(|index| format!("p{index}")) {
            changed.insert(ObjectKey::new(Kind::Pod, "n", &name));
            let (namespace, uid) = ("n".to_owned(), "u".to_owned());
            let pod = PodIdentity { namespace, name, uid };
            desk.memory.remember(&OutboxKey::Pod(pod), b"{}");
        }
        let mut written = BTreeSet::new();
        let other = Shown::Other(Digest::of(b"theirs"));
        desk.changed(&changed, &|_, _| other);
        let mut under_way = VecDeque::new();
        loop {
            under_way.extend(std::iter::from_fn(|| desk.poll_job(&|_, _| other, now)));
            assert!(under_way.len() <= REPEATS, "{}", under_way.len());
            let Some(job) = under_way.pop_front() else { break };
            written.insert(job.key.clone());
            let shown = |key: &OutboxKey, _: &[u8]| if written.contains(key) { Shown::Same } else { other };
            desk.done(job, Ok(()), &shown);
        }
        assert_eq!(written.len(), 100);
    }
}
