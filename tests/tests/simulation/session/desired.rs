//! The cloud half of the desired stream.

use std::sync::Arc;
use std::time::Duration;

use cloudcore::cluster::Dirty;
use protocol::desired::{Publisher, Request};
use protocol::object::{Kind, Revision};
use protocol::wire::DesiredUp;

use crate::cloud::{DesiredHalf, Replica};
use crate::indexed::pod_entry;
use crate::laws::Laws;
use crate::link::Down;
use crate::world::World;

/// As `desired/serve.rs`.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_mins(5);
/// Frames that a slow link may hold.
const AHEAD: usize = 4;

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
    pub(super) fn consistent_pods(&mut self, r: usize, id: u64, then: impl FnOnce(&mut Self, u64) + 'static) {
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
