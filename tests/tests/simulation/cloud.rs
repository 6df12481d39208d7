//! One replica of cloudcore: the real index, publishers, desks and fences; the waiting around them
//! is modelled.
//!
//! The model follows `hub/session.rs` (greeting, beats, renewals), `desired/serve.rs` and
//! `reported/serve.rs`, with their constants. Everything that belongs to a session ends with it,
//! except for requests that are on their way to the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cloudcore::cluster::fence::Proof;
use cloudcore::cluster::index::{Index, Wanted};
use cloudcore::cluster::{Dirty, Fence};
use cloudcore::reported::Desk;
use protocol::desired::Publisher;
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey};
use protocol::wire::{DesiredUp, ReportedUp};

use super::devices::Pasts;
use super::link::{Down, Up};
use super::watches::Watch;
use super::world::World;

/// As `hub/liveness.rs`: three missed beats and a little.
const DEADLINE: Duration = Duration::from_secs(80);

pub(crate) struct Replica {
    pub(crate) number: usize,
    pub(crate) life: u64,
    pub(crate) up: bool,
    pub(crate) epoch: u64,
    pub(crate) index: Index,
    pub(crate) watches: BTreeMap<u64, Watch>,
    pub(crate) last_watch: u64,
    /// Which watch tells of a named object.
    pub(crate) named: BTreeMap<ObjectKey, (Wanted, u64)>,
    /// How often each shared kind was listed.
    pub(crate) lists: BTreeMap<Kind, u64>,
    /// By the link that carries it.
    pub(crate) sessions: BTreeMap<u64, Session>,
    /// The session that last took each node's Lease here, and what it may write over.
    pub(crate) leases: BTreeMap<NodeName, Proof>,
    pub(crate) last_session: u64,
}

pub(crate) struct Session {
    pub(crate) node: NodeName,
    pub(crate) name: String,
    /// Which take of the node's Lease this was, counted by the world.
    pub(crate) ordinal: u64,
    pub(crate) fence: Option<Fence>,
    pub(crate) heard: Duration,
    /// Consistent lists under way.
    pub(crate) folding: usize,
    pub(crate) desired: Option<DesiredHalf>,
    pub(crate) reported: Option<ReportedHalf>,
}

pub(crate) struct DesiredHalf {
    pub(crate) stream: u64,
    pub(crate) publisher: Publisher,
    pub(crate) feed: Arc<Dirty>,
    /// The first consistent list is there; before that nothing is read.
    pub(crate) ready: bool,
    pub(crate) inbox: Vec<DesiredUp>,
    pub(crate) retry_pause: Duration,
    pub(crate) retry_planned: bool,
}

pub(crate) struct ReportedHalf {
    pub(crate) stream: u64,
    pub(crate) desk: Desk,
    pub(crate) feed: Arc<Dirty>,
    pub(crate) ready: bool,
    pub(crate) devices: Pasts,
    /// Whether its devices' statuses were listed.
    pub(crate) begun: bool,
    pub(crate) inbox: Vec<ReportedUp>,
    pub(crate) retry_planned: bool,
}

impl Replica {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            life: 0,
            up: false,
            epoch: 0,
            index: Index::default(),
            watches: BTreeMap::new(),
            last_watch: 0,
            named: BTreeMap::new(),
            lists: BTreeMap::new(),
            sessions: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_session: 0,
        }
    }

    /// Whether every shared kind has been listed once.
    pub(crate) fn synced(&self) -> bool {
        let shared = [Kind::Node, Kind::Pod, Kind::Service, Kind::RuntimeClass];
        shared.iter().all(|kind| self.lists.contains_key(kind))
    }
}

impl World {
    pub(crate) fn start_replica(&mut self, r: usize) {
        let epoch = self.api.epoch;
        let (life, number) = (self.replicas[r].life + 1, self.replicas[r].number);
        self.replicas[r] = Replica {
            life,
            up: true,
            epoch,
            ..Replica::new(number)
        };
        self.say(|| format!("replica {r} starts (life {life}, epoch {epoch})"));
        self.start_watches(r);
    }

    /// Gone at once; its kernel may or may not tell the edges.
    pub(crate) fn crash_replica(&mut self, r: usize, tells: bool) {
        self.say(|| format!("replica {r} dies"));
        self.replicas[r].up = false;
        self.replicas[r].life += 1;
        for id in self.links_of_replica(r) {
            if tells {
                self.send_down(id, Down::Close);
            }
            if let Some(link) = self.links.get_mut(&id) {
                link.cloud_open = false;
            }
        }
    }

    pub(crate) fn drain_replica(&mut self, r: usize) {
        let sessions: Vec<u64> = self.replicas[r].sessions.keys().copied().collect();
        for id in sessions {
            self.send_down(id, Down::Goodbye);
            self.end_session(r, id, "drains");
        }
    }

    fn links_of_replica(&self, r: usize) -> Vec<u64> {
        let of =
            |(id, link): (&u64, &super::link::Link)| (link.replica == r && link.cloud_open).then_some(*id);
        self.links.iter().filter_map(of).collect()
    }

    /// A frame for a session of a replica that lives.
    pub(crate) fn cloud_hears(&mut self, id: u64, frame: Up) {
        let r = self.links[&id].replica;
        match frame {
            Up::Hello => self.greet(r, id),
            Up::Close => self.end_session(r, id, "the edge left"),
            Up::Beat => {
                let now = self.now;
                if let Some(session) = self.replicas[r].sessions.get_mut(&id) {
                    session.heard = now;
                    self.send_down(id, Down::Answer);
                }
            }
            Up::OpenDesired(stream) => self.open_desired(r, id, stream),
            Up::OpenReported(stream) => self.open_reported(r, id, stream),
            Up::Desired(stream, frame) => self.desired_up(r, id, stream, *frame),
            Up::Reported(stream, frame) => self.reported_up(r, id, stream, *frame),
        }
    }

    pub(crate) fn session(&mut self, r: usize, id: u64) -> Option<&mut Session> {
        self.replicas[r].sessions.get_mut(&id)
    }

    /// The session is taken: an older one of the node at this replica ends at once.
    pub(crate) fn enter(&mut self, r: usize, id: u64, session: Session) {
        let same = |(other, s): (&u64, &Session)| (s.node == session.node && *other != id).then_some(*other);
        let older: Vec<u64> = self.replicas[r].sessions.iter().filter_map(same).collect();
        for other in older {
            self.send_down(other, Down::Superseded);
            self.end_session(r, other, "superseded here");
        }
        self.say(|| format!("replica {r}: session {} up on link {id}", session.name));
        self.replicas[r].sessions.insert(id, session);
        let epoch = self.replicas[r].epoch;
        self.send_down(id, Down::Welcome { epoch });
        self.watch_silence(r, id);
        self.plan_renewal(r, id);
    }

    fn watch_silence(&mut self, r: usize, id: u64) {
        let life = self.replicas[r].life;
        let now = self.now;
        let Some(session) = self.session(r, id) else {
            return;
        };
        let due = session.heard + DEADLINE;
        if due <= now {
            self.send_down(id, Down::Close);
            self.end_session(r, id, "no beat came");
            return;
        }
        self.after(due - now, move |world| {
            if world.replicas[r].life == life {
                world.watch_silence(r, id);
            }
        });
    }

    pub(crate) fn end_session(&mut self, r: usize, id: u64, why: &str) {
        if let Some(link) = self.links.get_mut(&id) {
            link.cloud_open = false;
        }
        let Some(session) = self.replicas[r].sessions.remove(&id) else {
            return;
        };
        self.say(|| format!("replica {r}: session {} ends: {why}", session.name));
        let index = &mut self.replicas[r].index;
        for _ in 0..session.folding {
            index.fold_failed(&session.node);
        }
        for feed in [
            session.desired.map(|half| half.feed),
            session.reported.map(|half| half.feed),
        ]
        .into_iter()
        .flatten()
        {
            index.detach(&session.node, &feed);
        }
        self.settle_wants(r);
    }

    /// Something in the index changed: those who listen hear of it.
    pub(crate) fn index_changed(&mut self, r: usize) {
        self.settle_wants(r);
        let sessions: Vec<u64> = self.replicas[r].sessions.keys().copied().collect();
        for id in sessions {
            self.pump_desired(r, id);
            self.pump_reported(r, id);
        }
    }
}
