//! The cloud half of a session: the Lease, the desired stream, the reported stream.

use std::sync::Arc;
use std::time::Duration;

use cloudcore::cluster::fence::{self, LeaseWrite, Proof};
use cloudcore::cluster::{Dirty, Fence, RENEW_EVERY};
use cloudcore::reported::Desk;
use protocol::desired::{Publisher, Request};
use protocol::object::{Kind, Revision};
use protocol::wire::{DesiredUp, ReportedUp};

use super::api::Code;
use super::cloud::{DesiredHalf, Replica, ReportedHalf, Session};
use super::devices::Pasts;
use super::laws::Laws;
use super::link::Down;
use super::watches::pod_entry;
use super::world::World;
use super::writes::shown;

/// As `cluster/lease.rs`.
const FENCE_TRIES: usize = 5;
/// As `desired/serve.rs`.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_mins(5);
/// As `reported/serve.rs`.
const REPEAT_AFTER: Duration = Duration::from_secs(5);
/// Frames that a slow link may hold.
const AHEAD: usize = 4;

/// The Lease.
impl World {
    pub(crate) fn greet(&mut self, r: usize, id: u64) {
        let replica = &mut self.replicas[r];
        replica.last_session += 1;
        let node = self.edges[self.links[&id].edge].node.clone();
        let name = format!("r{r}.{}/{node}/{}", replica.life, replica.last_session);
        self.take_lease(r, id, name, FENCE_TRIES);
    }

    fn take_lease(&mut self, r: usize, id: u64, name: String, tries: usize) {
        let node = self.edges[self.links[&id].edge].node.clone();
        let reads = node.clone();
        self.request(
            r,
            move |world| Ok(world.api.lease(reads.as_ref()).cloned()),
            move |world, read| match read {
                Ok(current) => {
                    let write = fence::take(current.as_ref(), &node, &name, world.wall());
                    world.write_take(r, id, (name, tries), write);
                }
                Err(_) => world.turn_away(id),
            },
        );
    }

    fn write_take(&mut self, r: usize, id: u64, (name, tries): (String, usize), write: LeaseWrite) {
        let Some(link) = self.links.get(&id) else { return };
        let node = self.edges[link.edge].node.clone();
        let (taken, by) = (node.clone(), name.clone());
        self.request(
            r,
            move |world| {
                let lease = world.write_lease(taken.as_ref(), write)?;
                Ok((lease, world.laws.took(&by)))
            },
            move |world, result| match result {
                Ok((lease, ordinal)) => {
                    let proof = Proof::new(&name, &lease);
                    world.replicas[r].leases.insert(node.clone(), proof);
                    if !world.links.get(&id).is_some_and(|link| link.cloud_open) {
                        return;
                    }
                    let session = Session {
                        fence: Some(Fence::new(node.clone(), name.clone(), lease)),
                        node,
                        name,
                        ordinal,
                        heard: world.now,
                        folding: 0,
                        desired: None,
                        reported: None,
                    };
                    world.enter(r, id, session);
                }
                Err(404 | 409) if tries > 1 && world.links.contains_key(&id) => {
                    world.take_lease(r, id, name, tries - 1);
                }
                Err(_) => world.turn_away(id),
            },
        );
    }

    fn turn_away(&mut self, id: u64) {
        let retry = Duration::from_secs(5);
        self.send_down(id, Down::Reject { retry });
        if let Some(link) = self.links.get_mut(&id) {
            link.cloud_open = false;
        }
    }

    fn write_lease(&mut self, node: &str, write: LeaseWrite) -> Result<serde_json::Value, Code> {
        let (lease, create) = match write {
            LeaseWrite::Create(lease) => (lease, true),
            LeaseWrite::Replace(lease) => (lease, false),
        };
        let lease = self.api.write_lease(node, lease, create)?;
        self.laws.lease_written(node, &lease, self.api.restores);
        self.lease_renewed(node);
        Ok(lease)
    }

    pub(crate) fn plan_renewal(&mut self, r: usize, id: u64) {
        let life = self.replicas[r].life;
        self.after(RENEW_EVERY, move |world| {
            if world.replicas[r].life == life {
                world.renew(r, id);
            }
        });
    }

    fn renew(&mut self, r: usize, id: u64) {
        let wall = self.wall();
        let Some(session) = self.session(r, id) else {
            return;
        };
        let Some(fence) = &session.fence else { return };
        let (write, node) = (fence.renewal(wall), session.node.clone());
        self.request(
            r,
            move |world| world.write_lease(node.as_ref(), write),
            move |world, result| match result {
                Err(404 | 409) => world.reread(r, id),
                other => world.renewed(r, id, other),
            },
        );
    }

    fn reread(&mut self, r: usize, id: u64) {
        let Some(session) = self.session(r, id) else {
            return;
        };
        let node = session.node.clone();
        let reads = node.clone();
        self.request(
            r,
            move |world| Ok(world.api.lease(reads.as_ref()).cloned()),
            move |world, read| {
                let wall = world.wall();
                let Ok(found) = read else {
                    return world.plan_renewal(r, id);
                };
                let Some(session) = world.session(r, id) else {
                    return;
                };
                let Some(fence) = &session.fence else { return };
                match fence.after_conflict(found.as_ref(), wall) {
                    Ok(write) => world.request(
                        r,
                        move |world| world.write_lease(node.as_ref(), write),
                        move |world, result| world.renewed(r, id, result),
                    ),
                    Err(by) => {
                        world.send_down(id, Down::Superseded);
                        world.end_session(r, id, &format!("superseded by {by}"));
                    }
                }
            },
        );
    }

    fn renewed(&mut self, r: usize, id: u64, result: Result<serde_json::Value, Code>) {
        let Replica { sessions, leases, .. } = &mut self.replicas[r];
        if let (Ok(lease), Some(session)) = (result, sessions.get_mut(&id))
            && let Some(fence) = &mut session.fence
        {
            if let Some(proof) = leases
                .get_mut(&session.node)
                .filter(|p| p.session() == session.name)
            {
                proof.renewed(&lease);
            }
            fence.wrote(lease);
        }
        self.plan_renewal(r, id);
    }
}

/// The desired stream.
impl World {
    pub(crate) fn open_desired(&mut self, r: usize, id: u64, stream: u64) {
        let Replica { index, sessions, .. } = &mut self.replicas[r];
        let Some(session) = sessions.get_mut(&id) else {
            return;
        };
        let feed = Arc::new(Dirty::default());
        index.attach(&session.node, Arc::clone(&feed));
        let half = DesiredHalf {
            stream,
            publisher: Publisher::new(),
            feed,
            ready: false,
            inbox: Vec::new(),
            retry_pause: FIRST_RETRY,
            retry_planned: false,
        };
        if let Some(older) = session.desired.replace(half) {
            index.detach(&session.node, &older.feed);
        }
        self.consistent_pods(r, id, move |world, revision| {
            if let Some(half) = world.desired_half(r, id, stream) {
                half.publisher.consistent(Kind::Pod, Revision(revision));
                half.ready = true;
                let frames = std::mem::take(&mut half.inbox);
                for frame in frames {
                    world.desired_up(r, id, stream, frame);
                }
                world.after(PATIENCE, move |world| {
                    if let Some(half) = world.desired_half(r, id, stream) {
                        half.publisher.hurry();
                        world.pump_desired(r, id);
                    }
                });
                world.pump_desired(r, id);
            }
        });
    }

    fn desired_half(&mut self, r: usize, id: u64, stream: u64) -> Option<&mut DesiredHalf> {
        let half = self.session(r, id)?.desired.as_mut()?;
        (half.stream == stream).then_some(half)
    }

    pub(crate) fn desired_up(&mut self, r: usize, id: u64, stream: u64, frame: DesiredUp) {
        let Some(half) = self.desired_half(r, id, stream) else {
            return;
        };
        if !half.ready {
            half.inbox.push(frame);
            return;
        }
        if let Err(violation) = half.publisher.handle_frame(frame) {
            self.is_reset(format!(
                "replica {r}: desired stream {stream} is reset: {violation}"
            ));
            let Replica { index, sessions, .. } = &mut self.replicas[r];
            if let Some(session) = sessions.get_mut(&id)
                && let Some(half) = session.desired.take()
            {
                index.detach(&session.node, &half.feed);
            }
            self.send_down(id, Down::Reset(stream));
            return self.settle_wants(r);
        }
        self.pump_desired(r, id);
    }

    /// Sends what the link can take, and does what the publisher asks for.
    pub(crate) fn pump_desired(&mut self, r: usize, id: u64) {
        loop {
            let Replica { index, sessions, .. } = &mut self.replicas[r];
            let Some(session) = sessions.get_mut(&id) else {
                return;
            };
            let Some(half) = session.desired.as_mut().filter(|half| half.ready) else {
                return;
            };
            for key in half.feed.take() {
                half.publisher.mark_dirty(key);
            }
            let room = self.links.get(&id).is_some_and(|link| link.down.ahead < AHEAD);
            let frame = room.then(|| half.publisher.poll_transmit(&index.seen_by(&session.node)));
            Laws::dirty_keys(half.publisher.dirty_keys());
            let stream = half.stream;
            let asked: Vec<_> = std::iter::from_fn(|| half.publisher.poll_request()).collect();
            for Request::Consistent(kind) in asked {
                self.consistent(r, id, stream, kind);
            }
            let Some(Some(frame)) = frame else { break };
            self.send_down(id, Down::Desired(stream, Box::new(frame)));
        }
        self.plan_retry(r, id);
    }

    fn plan_retry(&mut self, r: usize, id: u64) {
        let Some(half) = self.session(r, id).and_then(|session| session.desired.as_mut()) else {
            return;
        };
        if half.retry_planned {
            return;
        }
        if !half.publisher.has_refused() {
            half.retry_pause = FIRST_RETRY;
            return;
        }
        half.retry_planned = true;
        let (pause, stream) = (half.retry_pause, half.stream);
        self.after(pause, move |world| {
            if let Some(half) = world.desired_half(r, id, stream) {
                half.retry_planned = false;
                if half.publisher.has_refused() {
                    half.retry_pause = (half.retry_pause * 2).min(LAST_RETRY);
                    half.publisher.retry_refused();
                    world.pump_desired(r, id);
                }
            }
        });
    }

    fn consistent(&mut self, r: usize, id: u64, stream: u64, kind: Kind) {
        let then = move |world: &mut Self, revision: u64| {
            if let Some(half) = world.desired_half(r, id, stream) {
                half.publisher.consistent(kind, Revision(revision));
                world.pump_desired(r, id);
            }
        };
        match kind {
            Kind::Pod | Kind::ConfigMap | Kind::Secret => self.consistent_pods(r, id, then),
            Kind::Service | Kind::RuntimeClass | Kind::DeviceModel | Kind::Device | Kind::Node => {
                let before = self.replicas[r].lists.get(&kind).copied().unwrap_or_default();
                self.relist_kind(r, kind);
                self.when_listed(r, id, (kind, before + 1), then);
            }
        }
    }

    fn when_listed(
        &mut self,
        r: usize,
        id: u64,
        (kind, times): (Kind, u64),
        then: impl FnOnce(&mut Self, u64) + 'static,
    ) {
        let life = self.replicas[r].life;
        let Some(session) = self.replicas[r].sessions.get(&id) else {
            return;
        };
        let lists = self.replicas[r].lists.get(&kind).copied().unwrap_or_default();
        if lists >= times {
            let revision = self.replicas[r].index.view_revision(&session.node, kind);
            return then(self, revision.0);
        }
        self.after(Duration::from_millis(300), move |world| {
            if world.replicas[r].life == life {
                world.when_listed(r, id, (kind, times), then);
            }
        });
    }

    /// Lists the node's pods consistently and folds them into the index; tries until it works.
    fn consistent_pods(&mut self, r: usize, id: u64, then: impl FnOnce(&mut Self, u64) + 'static) {
        let life = self.replicas[r].life;
        let synced = self.replicas[r].synced();
        let Replica { index, sessions, .. } = &mut self.replicas[r];
        let Some(session) = sessions.get_mut(&id) else {
            return;
        };
        if !synced {
            self.after(Duration::from_millis(300), move |world| {
                if world.replicas[r].life == life {
                    world.consistent_pods(r, id, then);
                }
            });
            return;
        }
        index.fold_begins(&session.node);
        session.folding += 1;
        let node = session.node.clone();
        self.request(
            r,
            move |world| {
                let pods: Vec<_> = world.api.pods_of(node.as_ref()).cloned().collect();
                Ok((pods, world.api.now.head))
            },
            move |world, result| {
                let Replica { index, sessions, .. } = &mut world.replicas[r];
                // One that has ended has undone its list itself.
                let Some(session) = sessions.get_mut(&id) else {
                    return;
                };
                session.folding -= 1;
                let Ok((pods, head)) = result else {
                    index.fold_failed(&session.node);
                    world.after(Duration::from_secs(1), move |world| {
                        if world.replicas[r].life == life {
                            world.consistent_pods(r, id, then);
                        }
                    });
                    return;
                };
                let node = &session.node;
                let pods = pods
                    .iter()
                    .filter_map(|pod| pod_entry(index, node, pod))
                    .collect();
                index.fold(node, pods, Revision(head));
                world.index_changed(r);
                then(world, head);
            },
        );
    }
}

/// The reported stream.
impl World {
    pub(crate) fn open_reported(&mut self, r: usize, id: u64, stream: u64) {
        let Replica { index, sessions, .. } = &mut self.replicas[r];
        let Some(session) = sessions.get_mut(&id) else {
            return;
        };
        let feed = Arc::new(Dirty::default());
        index.attach(&session.node, Arc::clone(&feed));
        let half = ReportedHalf {
            stream,
            desk: Desk::new(),
            feed,
            ready: false,
            devices: Pasts::default(),
            inbox: Vec::new(),
            begun: false,
            retry_planned: false,
        };
        if let Some(older) = session.reported.replace(half) {
            index.detach(&session.node, &older.feed);
        }
        self.consistent_pods(r, id, move |world, _| {
            if let Some(half) = world.reported_half(r, id, stream) {
                half.ready = true;
                let frames = std::mem::take(&mut half.inbox);
                for frame in frames {
                    world.reported_up(r, id, stream, frame);
                }
                world.pump_reported(r, id);
            }
        });
    }

    pub(crate) fn reported_half(&mut self, r: usize, id: u64, stream: u64) -> Option<&mut ReportedHalf> {
        let half = self.session(r, id)?.reported.as_mut()?;
        (half.stream == stream).then_some(half)
    }

    pub(crate) fn reported_up(&mut self, r: usize, id: u64, stream: u64, frame: ReportedUp) {
        let Some(half) = self.reported_half(r, id, stream) else {
            return;
        };
        if !half.ready {
            half.inbox.push(frame);
            return;
        }
        let taken = half.desk.handle_frame(frame);
        assert!(
            taken.is_ok(),
            "the edge broke the rules of the reported flow: {taken:?}"
        );
        self.pump_reported(r, id);
    }

    /// What could not be written again is looked at after a pause.
    fn plan_repeats(&mut self, r: usize, id: u64, stream: u64) {
        let Some(half) = self.reported_half(r, id, stream) else {
            return;
        };
        if !half.desk.has_failed() || std::mem::replace(&mut half.retry_planned, true) {
            return;
        }
        self.after(REPEAT_AFTER, move |world| {
            let now = world.instant();
            let Replica { index, sessions, .. } = &mut world.replicas[r];
            let Some(session) = sessions.get_mut(&id) else {
                return;
            };
            let node = &session.node;
            let half = session.reported.as_mut().filter(|half| half.stream == stream);
            if let Some(half) = half {
                half.retry_planned = false;
                let ReportedHalf { desk, .. } = half;
                desk.retry(&|key: &_, payload: &[u8]| shown(index, node, (key, payload), now));
                world.pump_reported(r, id);
            }
        });
    }

    pub(crate) fn pump_reported(&mut self, r: usize, id: u64) {
        let now = self.instant();
        loop {
            let Replica { index, sessions, .. } = &mut self.replicas[r];
            let Some(session) = sessions.get_mut(&id) else {
                return;
            };
            let Some(half) = session.reported.as_mut().filter(|half| half.ready) else {
                return;
            };
            let node = &session.node;
            let ReportedHalf { desk, feed, .. } = half;
            let look = |key: &_, payload: &[u8]| shown(index, node, (key, payload), now);
            let changed = feed.take();
            if !changed.is_empty() {
                desk.changed(&changed, &look);
            }
            let job = desk.poll_job(&look, now);
            Laws::unanswered(desk.unanswered());
            let answers: Vec<_> = std::iter::from_fn(|| desk.poll_transmit()).collect();
            let stream = half.stream;
            for answer in answers {
                self.send_down(id, Down::Reported(stream, Box::new(answer)));
            }
            match job {
                Some(job) => self.start_job(r, id, stream, job),
                None => return self.plan_repeats(r, id, stream),
            }
        }
    }
}
