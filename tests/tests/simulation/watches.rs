//! Watches of a replica: lists, and changes that come late.
//!
//! The model follows `cluster/watch.rs` (every list is consistent) and `kinds.rs` (what is watched after what). A
//! replica that lags is one whose watches deliver late.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cloudcore::cluster::document::reborn;
use cloudcore::cluster::index::Lookup;
use protocol::desired::AbsentReason;
use protocol::object::{Body, Kind, ObjectKey, Revision};

use super::api::{Change, Stored};
use super::indexed::{gone_shared, missing_nodes, put_named, put_shared, put_status};
use super::world::World;

/// Between two bookmarks.
const BOOKMARK: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Shared(Kind),
    Named(ObjectKey),
    /// `DeviceStatuses`, under the keys of their devices.
    Statuses,
}

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) scope: Scope,
    from: u64,
    listed: bool,
    /// Grows when the watch begins anew: what was on its way before is lost.
    round: u64,
    planned: bool,
    pub(crate) stalled_until: Duration,
}

impl Scope {
    fn kind(&self) -> Kind {
        match self {
            Self::Shared(kind) => *kind,
            Self::Named(key) => key.kind,
            Self::Statuses => Kind::Device,
        }
    }

    fn has(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Shared(kind) => *kind == key.kind,
            Self::Named(named) => named == key,
            Self::Statuses => false,
        }
    }
}

impl World {
    pub(crate) fn start_watches(&mut self, r: usize) {
        let kinds = [
            Kind::Node,
            Kind::Service,
            Kind::RuntimeClass,
            Kind::DeviceModel,
            Kind::Device,
            Kind::Pod,
        ];
        for kind in kinds {
            self.start_watch(r, Scope::Shared(kind));
        }
        self.start_watch(r, Scope::Statuses);
        let life = self.replicas[r].life;
        self.after(BOOKMARK, move |world| world.bookmark(r, life));
    }

    fn start_watch(&mut self, r: usize, scope: Scope) -> u64 {
        let replica = &mut self.replicas[r];
        replica.last_watch += 1;
        let (id, life) = (replica.last_watch, replica.life);
        let watch = Watch {
            scope,
            from: 0,
            listed: false,
            round: 0,
            planned: false,
            stalled_until: Duration::ZERO,
        };
        replica.watches.insert(id, watch);
        let pause = self.dice.between(1, 200);
        self.after(pause, move |world| world.list(r, life, id));
        id
    }

    /// Begins a watch anew.
    pub(crate) fn relist(&mut self, r: usize, id: u64) {
        let life = self.replicas[r].life;
        if let Some(watch) = self.replicas[r].watches.get_mut(&id) {
            watch.listed = false;
            watch.planned = false;
            watch.round += 1;
            let pause = self.dice.between(1, 2_000);
            self.after(pause, move |world| world.list(r, life, id));
        }
    }

    pub(crate) fn relist_kind(&mut self, r: usize, kind: Kind) {
        let of = |(id, watch): (&u64, &Watch)| (watch.scope == Scope::Shared(kind)).then_some(*id);
        if let Some(id) = self.replicas[r].watches.iter().find_map(of) {
            self.relist(r, id);
        }
    }

    fn list(&mut self, r: usize, life: u64, id: u64) {
        if self.replicas[r].life != life {
            return;
        }
        let Some(watch) = self.replicas[r].watches.get(&id) else {
            return;
        };
        let (scope, round) = (watch.scope.clone(), watch.round);
        // Pods are watched only after the first list of Nodes.
        if scope == Scope::Shared(Kind::Pod) && !self.replicas[r].lists.contains_key(&Kind::Node) {
            self.after(Duration::from_millis(200), move |world| world.list(r, life, id));
            return;
        }
        // Statuses after the first list of devices.
        if scope == Scope::Statuses && !self.replicas[r].lists.contains_key(&Kind::Device) {
            self.after(Duration::from_millis(200), move |world| world.list(r, life, id));
            return;
        }
        let wanted = scope.clone();
        self.request(
            r,
            move |world| {
                if wanted == Scope::Statuses {
                    return Ok((world.api.statuses().cloned().collect(), world.api.now.head));
                }
                let objects = world.api.list(wanted.kind());
                let objects: Vec<Arc<Stored>> = objects.filter(|o| wanted.has(&o.key)).cloned().collect();
                Ok((objects, world.api.now.head))
            },
            move |world, result| {
                let replica = &mut world.replicas[r];
                let Some(watch) = replica.watches.get_mut(&id).filter(|watch| watch.round == round) else {
                    return;
                };
                let Ok((objects, head)) = result else {
                    let pause = world.dice.between(250, 8_000);
                    world.after(pause, move |world| world.list(r, life, id));
                    return;
                };
                watch.from = head;
                watch.listed = true;
                world.listed(r, &scope, &objects, head);
                world.plan_delivery(r, id);
            },
        );
    }

    fn listed(&mut self, r: usize, scope: &Scope, objects: &[Arc<Stored>], head: u64) {
        let index = &mut self.replicas[r].index;
        match scope {
            Scope::Statuses => {
                for object in objects {
                    put_status(index, object, true);
                }
                index.statuses_relisted(&objects.iter().map(|object| object.key.clone()).collect());
            }
            Scope::Named(key) => {
                for object in objects {
                    put_named(index, key, object);
                }
                index.saw_named(key, Revision(head));
                if objects.is_empty() {
                    index.resolve(key, Lookup::Absent(AbsentReason::Missing));
                }
            }
            Scope::Shared(kind) => {
                let mut seen = BTreeSet::new();
                for object in objects {
                    if put_shared(index, object, true) {
                        seen.insert(object.key.clone());
                    }
                }
                let lost: Vec<(String, Body)> = match kind {
                    Kind::Node => missing_nodes(index, &seen),
                    Kind::Service
                    | Kind::RuntimeClass
                    | Kind::ConfigMap
                    | Kind::Secret
                    | Kind::DeviceModel
                    | Kind::Device
                    | Kind::Pod => Vec::new(),
                };
                if *kind == Kind::Pod {
                    index.pods_listed(&seen, Revision(head));
                } else {
                    index.relisted(*kind, &seen, Revision(head));
                }
                for (name, last) in lost {
                    self.rebirth(r, name, last);
                }
                *self.replicas[r].lists.entry(*kind).or_default() += 1;
            }
        }
        self.say(|| format!("replica {r}: listed {scope:?} at {head}"));
        self.index_changed(r);
    }

    /// The object has changed: every watch that shows it will tell, some time.
    pub(crate) fn wake_watches(&mut self, key: &ObjectKey) {
        for r in 0..self.replicas.len() {
            if !self.replicas[r].up {
                continue;
            }
            let concerned = |(id, watch): (&u64, &Watch)| watch.scope.has(key).then_some(*id);
            let ids: Vec<u64> = self.replicas[r].watches.iter().filter_map(concerned).collect();
            for id in ids {
                self.plan_delivery(r, id);
            }
        }
    }

    /// Some status has changed.
    pub(crate) fn wake_statuses(&mut self) {
        for r in 0..self.replicas.len() {
            let of = |(id, watch): (&u64, &Watch)| (watch.scope == Scope::Statuses).then_some(*id);
            let watch = self.replicas[r].watches.iter().find_map(of);
            if let Some(id) = watch.filter(|_| self.replicas[r].up) {
                self.plan_delivery(r, id);
            }
        }
    }

    fn plan_delivery(&mut self, r: usize, id: u64) {
        let (now, most) = (self.now, if self.calm { 100 } else { self.menu.lag_ms });
        let lag = self.dice.between(1, most);
        let (life, upto) = (self.replicas[r].life, self.api.now.head);
        let Some(watch) = self.replicas[r].watches.get_mut(&id) else {
            return;
        };
        if !watch.listed || watch.planned || watch.from >= upto {
            return;
        }
        watch.planned = true;
        let round = watch.round;
        let at = (now + lag).max(watch.stalled_until);
        self.after(at - now, move |world| {
            if world.replicas[r].life == life {
                world.deliver(r, id, round, upto);
            }
        });
    }

    fn deliver(&mut self, r: usize, id: u64, round: u64, upto: u64) {
        let replica = &mut self.replicas[r];
        let Some(watch) = replica.watches.get_mut(&id).filter(|watch| watch.round == round) else {
            return;
        };
        watch.planned = false;
        let (from, scope) = (std::mem::replace(&mut watch.from, upto), watch.scope.clone());
        let log = if scope == Scope::Statuses {
            &self.api.status_log
        } else {
            self.api
                .log
                .get(&scope.kind())
                .map(Vec::as_slice)
                .unwrap_or_default()
        };
        let start = log.partition_point(|change| change.revision <= from);
        let due = log[start..].iter().take_while(|change| change.revision <= upto);
        let shows = |change: &&Change| scope == Scope::Statuses || scope.has(&change.key);
        let changes: Vec<Change> = due.filter(shows).cloned().collect();
        let mut lost = Vec::new();
        let index = &mut replica.index;
        for change in &changes {
            match (&scope, change.deleted) {
                (Scope::Statuses, false) => put_status(index, &change.object, false),
                (Scope::Statuses, true) => index.remove_status(&change.key, &change.object.uid),
                (Scope::Named(key), false) => put_named(index, key, &change.object),
                (Scope::Named(key), true) => {
                    index.saw_named(key, Revision(change.revision));
                    index.resolve(key, Lookup::Absent(AbsentReason::Missing));
                }
                (Scope::Shared(_), false) => {
                    put_shared(index, &change.object, false);
                }
                (Scope::Shared(_), true) => lost.extend(gone_shared(index, change)),
            }
        }
        match &scope {
            Scope::Statuses => {}
            Scope::Named(key) => index.saw_named(key, Revision(upto)),
            Scope::Shared(kind) => index.reached(*kind, Revision(upto)),
        }
        for (name, last) in lost {
            self.rebirth(r, name, last);
        }
        if !changes.is_empty() {
            self.say(|| {
                let what: Vec<String> = changes.iter().map(|c| c.key.to_string()).collect();
                format!("replica {r}: sees {} up to {upto}", what.join(", "))
            });
        }
        self.index_changed(r);
        if log_goes_on(self, &scope, upto) {
            self.plan_delivery(r, id);
        }
    }

    fn bookmark(&mut self, r: usize, life: u64) {
        if self.replicas[r].life != life {
            return;
        }
        let ids: Vec<u64> = self.replicas[r].watches.keys().copied().collect();
        for id in ids {
            self.plan_delivery(r, id);
        }
        self.after(BOOKMARK, move |world| world.bookmark(r, life));
    }

    /// Begins and ends the watches of named objects as the index wants them.
    pub(crate) fn settle_wants(&mut self, r: usize) {
        let replica = &mut self.replicas[r];
        let current: HashMap<_, _> = replica
            .named
            .iter()
            .map(|(key, (wanted, _))| (key.clone(), wanted.clone()))
            .collect();
        let wanted: BTreeMap<_, _> = replica.index.wanted(&current).into_iter().collect();
        let watches = &mut replica.watches;
        replica.named.retain(|key, (running, id)| {
            let keep = wanted.get(key) == Some(running);
            if !keep {
                watches.remove(id);
            }
            keep
        });
        for (key, wanted) in wanted {
            if !self.replicas[r].named.contains_key(&key) {
                let id = self.start_watch(r, Scope::Named(key.clone()));
                self.replicas[r].named.insert(key, (wanted, id));
            }
        }
    }

    /// A Node that was deleted while enrolled is made again.
    fn rebirth(&mut self, r: usize, name: String, last: Body) {
        let life = self.replicas[r].life;
        let Ok(value) = serde_json::from_slice(&last.json().unwrap_or_default()) else {
            return;
        };
        let made = reborn(&value);
        self.request(
            r,
            move |world| {
                let made = world.api.create(Kind::Node, made)?;
                world.api_changed(&made);
                Ok(made)
            },
            move |world, result| match result {
                Ok(made) => {
                    world.say(|| format!("replica {r}: Node {name} made again"));
                    put_shared(&mut world.replicas[r].index, &made, false);
                    world.index_changed(r);
                }
                Err(409) => {}
                Err(_) => {
                    let pause = world.dice.between(2_000, 4_000);
                    world.after(pause, move |world| {
                        if world.replicas[r].life == life {
                            world.rebirth(r, name, last);
                        }
                    });
                }
            },
        );
    }
}

fn log_goes_on(world: &World, scope: &Scope, upto: u64) -> bool {
    if *scope == Scope::Statuses {
        let newest = world.api.status_log.last();
        return newest.is_some_and(|newest| newest.revision > upto);
    }
    let log = world.api.log.get(&scope.kind());
    let newest = log.and_then(|log| log.iter().rev().find(|change| scope.has(&change.key)));
    newest.is_some_and(|newest| newest.revision > upto)
}
