//! One edge: its life and its disk. The real replica and outbox; the waiting around them is modelled.
//!
//! The model follows `reported/mod.rs` and `state/mod.rs` (durable first, then visible).

mod uplink;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use edgecore::backoff::Backoff;
use edgecore::pods::desired::DesiredPod;
use protocol::desired::Replica as Held;
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey};
use protocol::reported::{Outbox, OutboxKey, PodIdentity};

use super::devices::{DevicePart, Journal};
use super::disk::{Batch, Disk, Image, Op, ops};
use super::link::{Link, Up};
use super::objects;
use super::pods::Worker;
use super::runtime::Runtime;
use super::world::World;

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
