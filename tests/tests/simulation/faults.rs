//! Carries out what the menu of a world says.

use std::time::Duration;

use protocol::object::Kind;

use super::api::Contents;
use super::link::Link;
use super::menu::Fault;
use super::world::World;

impl World {
    pub(crate) fn plan_faults(&mut self) {
        for (fault, mean) in self.menu.faults.clone() {
            self.plan_fault(fault, mean);
        }
        if let Some((at, age, epoch)) = self.menu.restore {
            self.after(at.saturating_sub(age), move |world| {
                let backup = world.api.now.clone();
                world.after(age, move |world| world.restore(&backup, epoch));
            });
        }
    }

    fn plan_fault(&mut self, fault: Fault, mean: Duration) {
        let pause = self.dice.next_of(mean);
        self.after(pause, move |world| {
            if !world.calm {
                world.happens(fault);
                world.plan_fault(fault, mean);
            }
        });
    }

    fn happens(&mut self, fault: Fault) {
        let e = self.dice.below(self.edges.len());
        let r = self.dice.below(self.replicas.len());
        match fault {
            Fault::Cut | Fault::HalfOpen | Fault::Stall => self.hurt_link(fault),
            Fault::Partition => {
                let lasts = self.dice.between(1_000, 1_200_000);
                self.say(|| format!("fault: edge {e} has no network for {lasts:?}"));
                self.edges[e].no_network_until = self.now + lasts;
                for id in self.links_of_edge(e) {
                    self.cut(id, true, true);
                }
            }
            Fault::ReplicaCrash | Fault::ReplicaDrain => self.lose_replica(r, fault == Fault::ReplicaDrain),
            Fault::WatchStall | Fault::WatchBreak => self.hurt_watch(r, fault == Fault::WatchBreak),
            Fault::Brownout => {
                let lasts = self.dice.between(1_000, 120_000);
                self.say(|| format!("fault: the API server is unwell for {lasts:?}"));
                self.brownout_until = self.now + lasts;
            }
            Fault::EdgeCrash => {
                self.crash_edge(e);
                let pause = self.dice.between(100, 60_000);
                self.after(pause, move |world| world.start_edge(e));
            }
            Fault::PowerOff => {
                self.power_off(e);
                let pause = self.dice.between(1_000, 600_000);
                self.after(pause, move |world| world.start_edge(e));
            }
            Fault::SecondSession => {
                self.say(|| format!("fault: edge {e} dials beside its session"));
                self.dial(e);
            }
            Fault::ContainerExit => {
                let code = i32::from(self.dice.chance(0.5));
                self.container_exits(e, code);
            }
            Fault::DiskFull => {
                self.say(|| format!("fault: the disk of edge {e} is full"));
                self.edges[e].disk.full = true;
                let lasts = self.dice.between(100, 120_000);
                self.after(lasts, move |world| world.edges[e].disk.full = false);
            }
            Fault::Rollback => self.roll_back(e),
            Fault::ClockJump => {
                let days = i64::try_from(self.dice.below(800)).unwrap() - 400;
                self.edges[e].clock_off = days * 86_400;
            }
        }
    }

    fn links_of_edge(&self, e: usize) -> Vec<u64> {
        let of = |(id, link): (&u64, &Link)| (link.edge == e).then_some(*id);
        self.links.iter().filter_map(of).collect()
    }

    fn hurt_link(&mut self, fault: Fault) {
        self.sweep_links();
        let ids: Vec<u64> = self.links.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.dice.below(ids.len())];
        self.say(|| format!("fault: {fault:?} on link {id}"));
        match fault {
            Fault::HalfOpen => {
                let up = self.dice.chance(0.5);
                self.cut(id, up, !up);
            }
            Fault::Stall => {
                let until = self.now + self.dice.between(100, 60_000);
                let both = self.dice.chance(0.5);
                if let Some(link) = self.links.get_mut(&id) {
                    link.up.stalled_until = until;
                    if both {
                        link.down.stalled_until = until;
                    }
                }
            }
            Fault::Cut
            | Fault::Partition
            | Fault::ReplicaCrash
            | Fault::ReplicaDrain
            | Fault::WatchStall
            | Fault::WatchBreak
            | Fault::Brownout
            | Fault::EdgeCrash
            | Fault::PowerOff
            | Fault::SecondSession
            | Fault::ContainerExit
            | Fault::DiskFull
            | Fault::Rollback
            | Fault::ClockJump => self.cut(id, true, true),
        }
    }

    fn lose_replica(&mut self, r: usize, drains: bool) {
        if !self.replicas[r].up {
            return;
        }
        if drains {
            self.drain_replica(r);
        }
        let tells = self.dice.chance(0.5);
        self.crash_replica(r, tells);
        let (pause, life) = (self.dice.between(500, 180_000), self.replicas[r].life);
        self.after(pause, move |world| {
            if world.replicas[r].life == life {
                world.start_replica(r);
            }
        });
    }

    fn hurt_watch(&mut self, r: usize, breaks: bool) {
        let ids: Vec<u64> = self.replicas[r].watches.keys().copied().collect();
        if ids.is_empty() || !self.replicas[r].up {
            return;
        }
        let id = ids[self.dice.below(ids.len())];
        if breaks {
            return self.relist(r, id);
        }
        let until = self.now + self.dice.between(500, 300_000);
        if let Some(watch) = self.replicas[r].watches.get_mut(&id) {
            watch.stalled_until = until;
        }
    }

    /// The device gets an older image of its disk, as after restoring a backup of it.
    fn roll_back(&mut self, e: usize) {
        let now = self.edges[e].disk.image.clone();
        let Some(older) = self.edges[e].backup.replace(now) else {
            return;
        };
        self.power_off(e);
        self.say(|| format!("fault: edge {e} gets an older disk"));
        // Reports are numbered anew from where the image was, and pods that ended may run again.
        self.laws.rolled_back(e);
        self.laws.devices.rolled_back(e);
        self.edges[e].disk.image = older;
        let pause = self.dice.between(1_000, 60_000);
        self.after(pause, move |world| world.start_edge(e));
    }

    /// etcd is restored from a backup: every watch ends, replicas are restarted. Without a new epoch
    /// edges must find out by revisions that fell; the operator sets one ten minutes later, for those
    /// that were away until the store had overtaken what they had seen.
    fn restore(&mut self, backup: &Contents, epoch: bool) {
        self.say(|| format!("fault: etcd is restored to {}", backup.head));
        self.api.restore(backup);
        self.laws.restored();
        if epoch {
            self.set_epoch();
        } else {
            self.restart_replicas();
            self.after(Duration::from_mins(10), Self::set_epoch);
        }
    }

    fn set_epoch(&mut self) {
        self.api.epoch += 1;
        self.say(|| format!("operator: epoch {}", self.api.epoch));
        self.restart_replicas();
    }

    /// One after the other; some replica may serve with the old epoch for a while.
    fn restart_replicas(&mut self) {
        for r in 0..self.replicas.len() {
            if !self.replicas[r].up {
                continue;
            }
            let ids: Vec<u64> = self.replicas[r].watches.keys().copied().collect();
            for id in ids {
                self.relist(r, id);
            }
            let life = self.replicas[r].life;
            let lingers = self.dice.between(1, 90_000);
            let away = self.dice.between(500, 20_000);
            self.after(lingers, move |world| {
                if world.replicas[r].life == life {
                    world.crash_replica(r, true);
                    world.after(away, move |world| {
                        if world.replicas[r].life == life + 1 {
                            world.start_replica(r);
                        }
                    });
                }
            });
        }
    }

    /// Whatever was broken is mended; the world may come to rest.
    pub(crate) fn calm_down(&mut self) {
        self.say(|| "calm".to_owned());
        self.calm = true;
        self.brownout_until = self.now;
        for r in 0..self.replicas.len() {
            if !self.replicas[r].up || self.replicas[r].epoch < self.api.epoch {
                self.start_replica(r);
            }
            for watch in self.replicas[r].watches.values_mut() {
                watch.stalled_until = self.now;
            }
        }
        for e in 0..self.edges.len() {
            self.edges[e].no_network_until = self.now;
            self.edges[e].disk.full = false;
            self.start_edge(e);
        }
        self.wake_statuses();
        for kind in Kind::ALL {
            let keys: Vec<_> = self.api.list(kind).map(|object| object.key.clone()).collect();
            for key in &keys {
                self.wake_watches(key);
            }
        }
    }
}
