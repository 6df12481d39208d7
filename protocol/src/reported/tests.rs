//! Outbox and intake in a small simulated world: an edge with a disk, streams that are cut, an
//! API server that refuses.

mod intake;
mod said;
mod windows;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::{Report, ReportedDown, ReportedUp, reported_up};

#[derive(Clone, Debug)]
enum Op {
    Put { pod: u8 },
    Node,
    Device { number: usize },
    Gone { pod: u8 },
    Event,
    Carry { frames: usize },
    Write { fate: Fate },
    Cut,
    CutEvents,
    Connect,
    Reboot,
    Wait { seconds: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Works,
    Later,
    Never,
}

fn op() -> impl Strategy<Value = Op> {
    let fate = prop_oneof![6 => Just(Fate::Works), 2 => Just(Fate::Later), 1 => Just(Fate::Never)];
    prop_oneof![
        6 => (0..4u8).prop_map(|pod| Op::Put { pod }),
        2 => Just(Op::Node),
        4 => (0..4usize).prop_map(|number| Op::Device { number }),
        1 => (0..4u8).prop_map(|pod| Op::Gone { pod }),
        3 => Just(Op::Event),
        8 => (1..8usize).prop_map(|frames| Op::Carry { frames }),
        8 => fate.prop_map(|fate| Op::Write { fate }),
        1 => Just(Op::Cut),
        1 => Just(Op::CutEvents),
        2 => Just(Op::Connect),
        1 => Just(Op::Reboot),
        2 => (1..90u64).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

fn pod(number: u8) -> PodIdentity {
    PodIdentity {
        namespace: "n".into(),
        name: format!("p{number}"),
        uid: format!("u{number}"),
    }
}

fn event(number: u64) -> OutboxKey {
    OutboxKey::Event {
        namespace: "n".into(),
        name: format!("e{number}"),
    }
}

fn device(number: usize) -> OutboxKey {
    OutboxKey::Device(crate::devices::DeviceIdentity {
        namespace: "n".into(),
        name: format!("d{number}"),
        uid: format!("u{number}"),
    })
}

const EVERYTHING: Carries = Carries::Everything;

struct Link {
    carries: Carries,
    intake: Intake,
    up: VecDeque<ReportedUp>,
    down: VecDeque<ReportedDown>,
    writes: VecDeque<Write>,
}

struct World {
    outbox: Outbox,
    disk: BTreeMap<Seq, Report>,
    reserved: u64,
    /// One stream for everything, or one for events beside it.
    apart: bool,
    links: Vec<Link>,
    now: Duration,
    /// Counts values: a later one is larger.
    values: u64,
    newest: BTreeMap<OutboxKey, u64>,
    /// What the API server has, and what it will never have.
    server: BTreeMap<OutboxKey, u64>,
    refused: Vec<OutboxKey>,
    /// What each number ever stood for.
    numbers: BTreeMap<u64, Report>,
}

impl World {
    fn new() -> Self {
        Self {
            outbox: Outbox::load(Vec::new(), 0).0,
            disk: BTreeMap::new(),
            reserved: 0,
            apart: false,
            links: Vec::new(),
            now: Duration::ZERO,
            values: 0,
            newest: BTreeMap::new(),
            server: BTreeMap::new(),
            refused: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn put(&mut self, key: OutboxKey) {
        self.values += 1;
        let change = self
            .outbox
            .put(key.clone(), format!("{}", self.values).as_bytes());
        self.newest.insert(key, self.values);
        self.store(change);
    }

    fn store(&mut self, change: Change) {
        if let Some(entry) = change.write {
            self.disk.insert(Seq(entry.seq), entry);
        }
        for seq in change.delete {
            self.disk.remove(&seq);
        }
        self.reserved = change.reserved.unwrap_or(self.reserved);
    }

    fn connect(&mut self) {
        let streams: &[Carries] = if self.apart {
            &[Carries::AllButEvents, Carries::Events]
        } else {
            &[EVERYTHING]
        };
        for stream in streams {
            self.open(*stream);
        }
    }

    fn open(&mut self, carries: Carries) {
        let change = self.outbox.connected(carries);
        self.store(change);
        self.links.retain(|link| link.carries != carries);
        self.links.push(Link {
            carries,
            intake: Intake::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            writes: VecDeque::new(),
        });
    }

    fn cut(&mut self) {
        for link in std::mem::take(&mut self.links) {
            self.outbox.disconnected(link.carries);
        }
    }

    fn reboot(&mut self) {
        self.links.clear();
        let (outbox, unreadable) = Outbox::load(self.disk.values().cloned().collect(), self.reserved);
        assert!(unreadable.is_empty());
        self.outbox = outbox;
    }

    fn carry(&mut self) -> bool {
        (0..self.links.len()).fold(false, |moved, at| self.carry_on(at) | moved)
    }

    fn carry_on(&mut self, at: usize) -> bool {
        let link = &mut self.links[at];
        link.up.extend(self.outbox.poll_transmit(link.carries, self.now));
        let went_up = link.up.pop_front();
        let moved = went_up.is_some();
        if let Some(frame) = went_up {
            if let Some(reported_up::Kind::Report(report)) = &frame.kind {
                let known = self.numbers.entry(report.seq).or_insert_with(|| report.clone());
                assert_eq!(known, report, "a number was used twice");
            }
            link.intake.handle_frame(frame).unwrap();
        }
        link.writes.extend(std::iter::from_fn(|| {
            let classes = [Class::State, Class::Event, Class::Device];
            classes
                .into_iter()
                .find_map(|class| link.intake.poll_write(class))
        }));
        link.down
            .extend(std::iter::from_fn(|| link.intake.poll_transmit()));
        let Some(frame) = link.down.pop_front() else {
            return moved;
        };
        let settled = self.outbox.handle_frame(frame, self.now, 0.5).unwrap();
        if let Some(seq) = settled.and_then(|settled| settled.delete) {
            self.disk.remove(&seq);
        }
        true
    }

    fn write(&mut self, fate: Fate) -> bool {
        let Some(link) = self.links.iter_mut().find(|link| !link.writes.is_empty()) else {
            return false;
        };
        let Some(write) = link.writes.pop_front() else {
            return false;
        };
        let fate = if self.refused.contains(&write.key) {
            Fate::Never
        } else {
            fate
        };
        let outcome = match fate {
            Fate::Works => {
                let value = std::str::from_utf8(&write.payload)
                    .unwrap()
                    .parse()
                    .unwrap_or_default();
                let before = self.server.insert(write.key.clone(), value);
                assert!(
                    before.is_none_or(|before| before <= value),
                    "{} went back",
                    write.key
                );
                Outcome::Committed
            }
            Fate::Later => Outcome::Refused {
                code: RefusalCode::Throttled,
                text: "later".into(),
            },
            Fate::Never => {
                self.refused.push(write.key.clone());
                Outcome::Refused {
                    code: RefusalCode::Gone,
                    text: "gone".into(),
                }
            }
        };
        link.intake.done(write.seq, outcome);
        true
    }

    fn settle(&mut self) {
        if self.links.is_empty() || (self.apart && self.links.len() < 2) {
            self.cut();
            self.connect();
        }
        for _ in 0..10_000 {
            if self.carry() | self.write(Fate::Works) {
                continue;
            }
            match self.outbox.poll_timeout(EVERYTHING, self.now) {
                Some(due) => self.now = due,
                None => return,
            }
        }
        panic!("outbox and intake never come to rest");
    }

    fn check(&self) {
        for (key, value) in &self.newest {
            let settled = self.server.get(key) == Some(value) || self.refused.contains(key);
            assert!(settled, "the newest value of {key} did not arrive");
        }
        assert_eq!(self.outbox.pending(), 0);
        assert!(self.disk.is_empty(), "what is settled is forgotten");
        assert!(!self.links.is_empty() && self.links.iter().all(|link| link.intake.unanswered() == 0));
    }
}

fn perform(world: &mut World, op: &Op) {
    match op {
        Op::Put { pod: number } => world.put(OutboxKey::Pod(pod(*number))),
        Op::Node => world.put(OutboxKey::Node),
        Op::Device { number } => world.put(device(*number)),
        Op::Gone { pod: number } => {
            let change = world.outbox.gone(pod(*number));
            world.store(change);
        }
        Op::Event => {
            let key = event(world.values);
            world.put(key);
        }
        Op::Carry { frames } => drop((0..*frames).map(|_| world.carry()).collect::<Vec<_>>()),
        Op::Write { fate } => drop(world.write(*fate)),
        Op::Cut => world.cut(),
        Op::CutEvents => {
            let is_of_events = |link: &Link| link.carries == Carries::Events;
            if world.links.iter().any(is_of_events) {
                world.links.retain(|link| !is_of_events(link));
                world.outbox.disconnected(Carries::Events);
            }
        }
        Op::Connect => world.connect(),
        Op::Reboot => world.reboot(),
        Op::Wait { seconds } => world.now += Duration::from_secs(*seconds),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_newest_value_of_every_key_arrives_in_order_and_every_answer_frees_its_place(
        apart in any::<bool>(),
        ops in vec(op(), 0..200),
    ) {
        let mut world = World::new();
        world.apart = apart;
        for op in &ops {
            perform(&mut world, op);
        }
        world.settle();
        world.check();
    }
}

#[test]
fn a_number_is_not_used_again_after_everything_was_settled_and_the_edge_rebooted() {
    let mut world = World::new();
    for number in 0..3 {
        world.put(OutboxKey::Pod(pod(number)));
        world.settle();
        world.reboot();
    }
    world.put(OutboxKey::Node);
    world.settle();
    world.check();
}
