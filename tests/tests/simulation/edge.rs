//! One edge: its life, its disk, its uplink. The real replica, outbox and back-off; the waiting around
//! them is modelled.
//!
//! The model follows `uplink/` (beats every 25 s, in doubt after 6 s, lost after 20 s, a second
//! connection beside one in doubt), `reported/mod.rs` and `state/mod.rs` (durable first, then visible).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use edgecore::backoff::Backoff;
use edgecore::pods::desired::DesiredPod;
use edgecore::uplink::pace;
use protocol::desired::Replica as Held;
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey};
use protocol::reported::{Carries, Outbox, OutboxKey, PodIdentity};

use super::devices::{DevicePart, Journal};
use super::disk::{Batch, Disk, Image, Op, ops};
use super::link::{Down, Link, Pipe, Up};
use super::objects;
use super::pods::Worker;
use super::runtime::Runtime;
use super::world::World;

/// As `uplink/beats.rs`.
const EVERY: Duration = Duration::from_secs(25);
const PROBE_AFTER: Duration = Duration::from_secs(3);
const SILENT_AFTER: Duration = Duration::from_secs(6);
const LOST_AFTER: Duration = Duration::from_secs(20);
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// How long a dial and a greeting may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub(crate) struct Edge {
    pub(crate) node: NodeName,
    /// One start of edgecore.
    pub(crate) life: u64,
    /// One start of the machine.
    pub(crate) boots: u64,
    pub(crate) powered: bool,
    pub(crate) disk: Disk,
    pub(crate) disk_free_at: Duration,
    pub(crate) backup: Option<Image>,
    pub(crate) runtime: Runtime,
    /// The log of devices: in memory, for one boot.
    pub(crate) journal: Journal,
    pub(crate) process: Option<Process>,
    pub(crate) no_network_until: Duration,
    /// What its clock shows beside the right time, in seconds.
    pub(crate) clock_off: i64,
}

pub(crate) struct Process {
    pub(crate) began: Duration,
    pub(crate) replica: Held,
    pub(crate) committing: bool,
    pub(crate) outbox: Outbox,
    /// Reports on their way, by number.
    pub(crate) sent: BTreeMap<u64, (OutboxKey, Vec<u8>)>,
    pub(crate) outbox_due: Option<Duration>,
    pub(crate) pods: BTreeMap<ObjectKey, Arc<DesiredPod>>,
    pub(crate) synced: bool,
    pub(crate) devices_synced: bool,
    pub(crate) workers: BTreeMap<String, Worker>,
    pub(crate) statuses: BTreeMap<String, (PodIdentity, Vec<u8>)>,
    /// The session's link.
    pub(crate) link: Option<u64>,
    pub(crate) dialing: Option<u64>,
    pub(crate) streams: Streams,
    pub(crate) devices: DevicePart,
    pub(crate) beats: Beats,
    backoff: Backoff,
    good_at: Duration,
    up_since: Duration,
}

/// The numbers of the streams that are open.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    last: u64,
    pub(crate) desired: u64,
    pub(crate) reported: u64,
    pub(crate) cluster_epoch: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Beats {
    waiting_since: Option<Duration>,
    round: u64,
}

impl Edge {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            node: format!("edge-{number}").parse().unwrap(),
            life: 0,
            boots: 0,
            powered: false,
            disk: Disk::default(),
            disk_free_at: Duration::ZERO,
            backup: None,
            runtime: Runtime::default(),
            journal: Journal::default(),
            process: None,
            no_network_until: Duration::ZERO,
            clock_off: 0,
        }
    }
}

/// Starts and ends.
impl World {
    pub(crate) fn start_edge(&mut self, e: usize) {
        let now = self.now;
        let edge = &mut self.edges[e];
        if edge.process.is_some() {
            return;
        }
        if !edge.powered {
            edge.powered = true;
            edge.boots += 1;
        }
        edge.life += 1;
        let devices = self.open_devices(e);
        let edge = &mut self.edges[e];
        let image = &edge.disk.image;
        let entries = image.outbox.values().cloned().collect();
        let (outbox, unreadable) = Outbox::load(entries, image.reserved);
        assert!(
            unreadable.is_empty(),
            "what was written to the outbox can be read"
        );
        let pods = image.entries.values().filter_map(|row| row.object.as_ref());
        let pods = pods.filter(|object| object.key.kind == Kind::Pod);
        let pods = pods
            .map(|object| (object.key.clone(), super::pods::decode(object)))
            .collect();
        edge.process = Some(Process {
            began: now,
            replica: Held::load(image.held(), image.fences.clone()),
            committing: false,
            outbox,
            sent: BTreeMap::new(),
            outbox_due: None,
            pods,
            synced: false,
            devices_synced: false,
            workers: BTreeMap::new(),
            statuses: image.statuses.clone(),
            link: None,
            dialing: None,
            streams: Streams::default(),
            devices,
            beats: Beats::default(),
            backoff: Backoff::default(),
            good_at: now,
            up_since: now,
        });
        let life = edge.life;
        self.say(|| format!("edge {e} starts (life {life})"));
        self.say_again(e);
        self.follow(e);
        self.refresh_devices(e);
        self.dial(e);
        self.tick(e, life);
        self.plan_comparison(e, life);
    }

    /// As `Book::remember`: statuses of before are said again; and the node reports itself.
    fn say_again(&mut self, e: usize) {
        let edge = &mut self.edges[e];
        let Some(process) = &mut edge.process else { return };
        let waiting: Vec<OutboxKey> = edge
            .disk
            .image
            .outbox
            .values()
            .filter_map(|entry| OutboxKey::from_wire(entry.key.clone()))
            .collect();
        let mut batch = Vec::new();
        for (pod, status) in process.statuses.values() {
            let (key, gone) = (OutboxKey::Pod(pod.clone()), OutboxKey::Gone(pod.clone()));
            if !waiting.contains(&key) && !waiting.contains(&gone) {
                batch.extend(ops(process.outbox.put(key, status)));
            }
        }
        let document = objects::node_document("True").to_string();
        batch.extend(ops(process.outbox.put(OutboxKey::Node, document.as_bytes())));
        self.write_reports(e, batch, |_| {});
    }

    fn tick(&mut self, e: usize, life: u64) {
        if self.edges[e].life != life || self.edges[e].process.is_none() {
            return;
        }
        self.follow(e);
        self.work_all(e);
        self.after(Duration::from_mins(1), move |world| world.tick(e, life));
    }

    fn plan_comparison(&mut self, e: usize, life: u64) {
        // Up to the hour of the real one.
        let pause = self.dice.between(600_000, 3_960_000);
        self.after(pause, move |world| {
            if world.edges[e].life != life {
                return;
            }
            if let Some(process) = &mut world.edges[e].process {
                process.replica.compare();
            }
            world.pump_replica(e);
            world.plan_comparison(e, life);
        });
    }

    /// edgecore is killed, at any step.
    pub(crate) fn crash_edge(&mut self, e: usize) {
        if self.edges[e].process.take().is_none() {
            return;
        }
        self.say(|| format!("edge {e}: edgecore dies"));
        let edge = &mut self.edges[e];
        edge.life += 1;
        let waiting: VecDeque<Batch> = std::mem::take(&mut edge.disk.waiting);
        let written = self.dice.below(waiting.len() + 1);
        for batch in waiting.into_iter().take(written) {
            self.written(e, batch);
        }
        let tells = self.dice.chance(0.5);
        let open = |(id, link): (&u64, &Link)| (link.edge == e && link.edge_open).then_some(*id);
        let links: Vec<u64> = self.links.iter().filter_map(open).collect();
        for id in links {
            if tells {
                self.send_up(id, Up::Close);
            }
            if let Some(link) = self.links.get_mut(&id) {
                link.edge_open = false;
            }
        }
    }

    pub(crate) fn power_off(&mut self, e: usize) {
        self.crash_edge(e);
        self.say(|| format!("edge {e}: power off"));
        self.edges[e].powered = false;
        self.laws.devices.power_went(e);
        self.edges[e].runtime.power_off();
        let open = |(id, link): (&u64, &Link)| (link.edge == e).then_some((*id, link.edge_open));
        let links: Vec<_> = self.links.iter().filter_map(open).collect();
        for (id, _) in links {
            self.cut(id, true, true);
        }
    }
}

/// The disk.
impl World {
    /// Writes a batch after those before it; `then` hears whether it was written, if edgecore lives.
    pub(crate) fn write_disk(
        &mut self,
        e: usize,
        batch: Batch,
        then: impl FnOnce(&mut Self, bool) + 'static,
    ) {
        let takes = self.dice.between(1, self.menu.disk_ms);
        let now = self.now;
        let edge = &mut self.edges[e];
        edge.disk.waiting.push_back(batch);
        edge.disk_free_at = edge.disk_free_at.max(now) + takes;
        let (at, life) = (edge.disk_free_at, edge.life);
        self.after(at - now, move |world| {
            if world.edges[e].life != life {
                return;
            }
            let disk = &mut world.edges[e].disk;
            let Some(batch) = disk.waiting.pop_front() else {
                return;
            };
            let fails = disk.full && matches!(batch, Batch::Desired(_));
            if !fails {
                world.written(e, batch);
            }
            then(world, !fails);
        });
    }

    pub(crate) fn write_reports(&mut self, e: usize, batch: Vec<Op>, then: impl FnOnce(&mut Self) + 'static) {
        if batch.is_empty() {
            return then(self);
        }
        self.write_disk(e, Batch::Reports(batch), move |world, _| {
            then(world);
            world.pump_outbox(e);
        });
    }

    fn written(&mut self, e: usize, batch: Batch) {
        if let Batch::Desired(commit) = &batch {
            self.check_commit(e, commit);
        }
        self.edges[e].disk.image.write(batch);
        self.check_closures(e);
    }
}

/// The uplink.
impl World {
    /// Dials some replica; beside a session only if that is in doubt.
    pub(crate) fn dial(&mut self, e: usize) {
        let r = self.dice.below(self.replicas.len());
        let reachable = self.now >= self.edges[e].no_network_until;
        let (life, edge_life) = (self.replicas[r].life, self.edges[e].life);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.dialing.is_some() {
            return;
        }
        self.last_link += 1;
        let id = self.last_link;
        process.dialing = Some(id);
        if !reachable || !self.replicas[r].up {
            let pause = self.dice.between(50, 5_000);
            self.after(pause, move |world| world.dial_failed(e, id));
            return;
        }
        let link = Link {
            edge: e,
            edge_life,
            replica: r,
            replica_life: life,
            up: Pipe::default(),
            down: Pipe::default(),
            edge_open: true,
            cloud_open: true,
        };
        self.links.insert(id, link);
        self.say(|| format!("edge {e}: dials replica {r} (link {id})"));
        self.send_up(id, Up::Hello);
        self.after(HANDSHAKE, move |world| {
            let process = world.edges[e].process.as_ref();
            if world.edges[e].life == edge_life && process.is_some_and(|p| p.dialing == Some(id)) {
                world.hang_up(id);
                world.dial_failed(e, id);
            }
        });
    }

    fn hang_up(&mut self, id: u64) {
        self.send_up(id, Up::Close);
        if let Some(link) = self.links.get_mut(&id) {
            link.edge_open = false;
        }
    }

    fn dial_failed(&mut self, e: usize, id: u64) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.dialing == Some(id) {
            process.dialing = None;
            if process.link.is_none() {
                self.redial(e, None);
            }
        }
    }

    fn redial(&mut self, e: usize, after: Option<Duration>) {
        let (now, dice) = (self.now, self.dice.fraction());
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let own = process
            .backoff
            .pause(pace(now.saturating_sub(process.good_at)), dice);
        self.after(after.unwrap_or(own), move |world| {
            let process = world.edges[e].process.as_ref();
            if world.edges[e].life == life && process.is_some_and(|p| p.link.is_none()) {
                world.dial(e);
            }
        });
    }

    pub(crate) fn edge_hears(&mut self, e: usize, id: u64, frame: Down) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.dialing == Some(id) {
            match frame {
                Down::Welcome { epoch } => self.session_up(e, id, epoch),
                Down::Reject { retry } => {
                    process.dialing = None;
                    let alone = process.link.is_none();
                    self.hang_up(id);
                    if alone {
                        self.redial(e, Some(retry));
                    }
                }
                Down::Close
                | Down::Goodbye
                | Down::Superseded
                | Down::Answer
                | Down::Desired(..)
                | Down::Reported(..)
                | Down::Reset(_) => {
                    self.hang_up(id);
                    self.dial_failed(e, id);
                }
            }
        } else if process.link == Some(id) {
            self.session_hears(e, id, frame);
        }
    }

    fn session_hears(&mut self, e: usize, id: u64, frame: Down) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        match frame {
            Down::Answer => {
                if process.beats.waiting_since.take().is_some() {
                    self.plan_beat(e, id, EVERY);
                }
            }
            Down::Desired(stream, frame) if stream == process.streams.desired => {
                self.desired_down(e, *frame);
            }
            Down::Reported(stream, frame) if stream == process.streams.reported => {
                self.reported_down(e, *frame);
            }
            Down::Reset(stream) if stream == process.streams.desired => self.reopen_desired(e),
            Down::Desired(..) | Down::Reported(..) | Down::Reset(_) => {}
            Down::Goodbye => {
                process.good_at = now;
                let retry = self.dice.between(1, 3_000);
                self.session_down(e, id, Some(retry));
            }
            Down::Superseded | Down::Close | Down::Welcome { .. } | Down::Reject { .. } => {
                self.session_down(e, id, None);
            }
        }
    }

    fn session_up(&mut self, e: usize, id: u64, epoch: u64) {
        let now = self.now;
        self.say(|| format!("edge {e}: session up on link {id} (epoch {epoch})"));
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.dialing = None;
        if let Some(older) = process.link.replace(id) {
            self.hang_up(older);
            self.end_flows(e);
        }
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.up_since = now;
        process.streams.cluster_epoch = epoch;
        process.beats = Beats {
            round: process.beats.round + 1,
            ..Beats::default()
        };
        self.open_desired_stream(e);
        self.open_reported_stream(e);
        self.look_away(e);
        self.beat(e, id);
    }

    fn end_flows(&mut self, e: usize) {
        if let Some(process) = &mut self.edges[e].process {
            process.replica.disconnected();
            process.outbox.disconnected(Carries::Everything);
            process.sent.clear();
            (process.streams.desired, process.streams.reported) = (0, 0);
        }
    }

    pub(crate) fn session_down(&mut self, e: usize, id: u64, retry: Option<Duration>) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.link != Some(id) {
            return;
        }
        process.link = None;
        if now > process.up_since + GOOD_AFTER {
            process.backoff.reset();
            process.good_at = now;
        }
        self.say(|| format!("edge {e}: session on link {id} is over"));
        self.hang_up(id);
        self.end_flows(e);
        self.look_away(e);
        self.redial(e, retry);
    }

    /// A number for a new stream.
    pub(crate) fn next_stream(&mut self, e: usize) -> u64 {
        // Streams of different lives never meet: their links differ.
        let Some(process) = &mut self.edges[e].process else {
            return 0;
        };
        process.streams.last += 1;
        process.streams.last
    }

    fn plan_beat(&mut self, e: usize, id: u64, pause: Duration) {
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.beats.round += 1;
        let round = process.beats.round;
        self.after(pause, move |world| {
            let process = world.edges[e].process.as_ref();
            let same = |p: &Process| p.link == Some(id) && p.beats.round == round;
            if world.edges[e].life == life && process.is_some_and(same) {
                world.beat(e, id);
            }
        });
    }

    fn beat(&mut self, e: usize, id: u64) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let since = *process.beats.waiting_since.get_or_insert(now);
        if now - since >= LOST_AFTER {
            return self.session_down(e, id, None);
        }
        self.send_up(id, Up::Beat);
        if now - since >= SILENT_AFTER {
            self.dial(e);
        }
        self.plan_beat(e, id, PROBE_AFTER);
    }
}
