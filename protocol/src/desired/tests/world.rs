//! A cluster, replicas that lag behind it, and one edge with a disk, joined by streams that are
//! cut at any frame. Every commit is checked against the laws before it is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::desired::{
    Commit, CommitId, Fences, Found, Held, Notice, Publisher, Replica, Request, View, references,
};
use crate::object::{Kind, ObjectKey, Version};
use crate::wire::{DesiredDown, DesiredUp};

use super::cluster::{Cache, Cluster, KINDS, describe};

/// Keys that the world ever uses: the bound of the dirty set.
pub(super) const KEYS: usize = 12;

/// What the edge's disk holds.
#[derive(Debug, Default)]
struct Disk {
    entries: BTreeMap<ObjectKey, (Version, BTreeSet<ObjectKey>)>,
    fences: Fences,
    /// Incarnations of pods and services that were removed: they must never come back.
    buried: BTreeSet<String>,
}

struct Link {
    replica: usize,
    publisher: Publisher,
    up: VecDeque<DesiredUp>,
    down: VecDeque<DesiredDown>,
}

pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) caches: Vec<Cache>,
    pub(super) edge: Replica,
    pub(super) notices: Vec<Notice>,
    disk: Disk,
    link: Option<Link>,
    commit: Option<Commit>,
    pub(super) commits: usize,
    /// The cluster was restored: revisions may fall.
    pub(super) restored: bool,
}

impl World {
    pub(super) fn new(replicas: usize) -> Self {
        Self {
            cluster: Cluster::default(),
            caches: (0..replicas).map(|_| Cache::default()).collect(),
            edge: Replica::load(Vec::new(), Fences::default()),
            notices: Vec::new(),
            disk: Disk::default(),
            link: None,
            commit: None,
            commits: 0,
            restored: false,
        }
    }

    pub(super) fn connect(&mut self, replica: usize) {
        self.cut();
        self.edge.connected("cluster", 0).unwrap();
        let publisher = Publisher::new();
        self.link = Some(Link {
            replica,
            publisher,
            up: VecDeque::new(),
            down: VecDeque::new(),
        });
    }

    pub(super) fn cut(&mut self) {
        self.link = None;
        self.edge.disconnected();
    }

    /// The edge loses its memory and what was not durable.
    pub(super) fn reboot(&mut self) {
        self.link = None;
        self.commit = None;
        let held = self.disk.entries.iter().map(|(key, (version, references))| Held {
            key: key.clone(),
            version: version.clone(),
            references: references.clone(),
        });
        self.edge = Replica::load(held.collect(), self.disk.fences.clone());
    }

    pub(super) fn advance(&mut self, replica: usize, kind: Kind, by: u64) {
        let to = self.caches[replica].at(kind) + by;
        let changed = self.caches[replica].advance(&self.cluster, kind, to);
        self.mark(replica, changed);
    }

    /// A replica lists a kind anew, and its view may go back in time.
    pub(super) fn relist(&mut self, replica: usize, kind: Kind) {
        let changed = self.caches[replica].list(&self.cluster, kind);
        self.mark(replica, changed);
    }

    pub(super) fn read(&mut self, replica: usize) {
        let changed = self.caches[replica].read();
        self.mark(replica, changed);
    }

    pub(super) fn retry(&mut self) {
        if let Some(link) = &mut self.link {
            link.publisher.retry_refused();
        }
    }

    fn mark(&mut self, replica: usize, changed: BTreeSet<ObjectKey>) {
        if let Some(link) = self.link.as_mut().filter(|link| link.replica == replica) {
            for key in changed {
                link.publisher.mark_dirty(key);
            }
        }
    }

    /// Carries up to so many frames each way; whether any moved.
    pub(super) fn carry(&mut self, frames: usize) -> bool {
        let mut moved = false;
        for _ in 0..frames {
            moved |= self.carry_up() | self.carry_down();
        }
        moved
    }

    pub(super) fn carry_up(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        link.up.extend(std::iter::from_fn(|| self.edge.poll_transmit()));
        let Some(frame) = link.up.pop_front() else {
            return false;
        };
        link.publisher.handle_frame(frame).unwrap();
        true
    }

    /// Frames leave the cloud and stay on their way.
    pub(super) fn send_down(&mut self) {
        if let Some(link) = &mut self.link {
            let view = &self.caches[link.replica];
            link.down
                .extend(std::iter::from_fn(|| link.publisher.poll_transmit(view)));
        }
    }

    fn carry_down(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let view = &self.caches[link.replica];
        if link.down.len() < 4 {
            link.down.extend(link.publisher.poll_transmit(view));
        }
        assert!(
            link.publisher.dirty_keys() <= KEYS,
            "the dirty set is bounded by keys"
        );
        let Some(frame) = link.down.pop_front() else {
            return false;
        };
        self.edge.handle_frame(frame).unwrap();
        self.notices
            .extend(std::iter::from_fn(|| self.edge.poll_notice()));
        true
    }

    /// The shell of the cloud half answers what the publisher asks for.
    pub(super) fn answer(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(Request::Consistent(kind)) = link.publisher.poll_request() else {
            return false;
        };
        let replica = link.replica;
        // What a view rests on beyond the kind itself: ConfigMaps follow pods.
        let listed = if kind == Kind::ConfigMap { Kind::Pod } else { kind };
        let changed = self.caches[replica].list(&self.cluster, listed);
        self.mark(replica, changed);
        let revision = self.caches[replica].revision(kind);
        if let Some(link) = &mut self.link {
            link.publisher.consistent(kind, revision);
        }
        true
    }

    /// The disk of the edge takes the next commit, or fails to.
    pub(super) fn write(&mut self, works: bool) -> bool {
        let Some(commit) = self.commit.take().or_else(|| self.edge.poll_commit()) else {
            return false;
        };
        let id: CommitId = commit.id;
        if works {
            self.commits += 1;
            self.check(&commit);
            self.disk.store(commit);
            self.edge.committed(id).unwrap();
            self.check_closures();
        } else {
            self.edge.failed(id).unwrap();
        }
        true
    }

    /// Takes a commit out without writing it: a cut or a crash may come in between.
    pub(super) fn take_commit(&mut self) {
        if self.commit.is_none() {
            self.commit = self.edge.poll_commit();
        }
    }

    pub(super) fn pods_gone(&mut self) {
        for uid in self.disk.buried.clone() {
            self.edge.terminated(&uid);
        }
    }

    /// Nothing is removed, brought back or set back by a replica that lags.
    fn check(&mut self, commit: &Commit) {
        if self.restored {
            return;
        }
        for key in commit.removes.iter().filter(|key| key.kind != Kind::ConfigMap) {
            let Some((held, _)) = self.disk.entries.get(key) else {
                continue;
            };
            assert!(
                !self.cluster.lives(key, &held.uid),
                "{key} was removed, but lives"
            );
        }
        for object in &commit.puts {
            let (key, version) = (&object.key, &object.version);
            assert!(
                !self.disk.buried.contains(&version.uid),
                "{key} came back from the dead"
            );
            if let Some((held, _)) = self
                .disk
                .entries
                .get(key)
                .filter(|(held, _)| !held.uid.is_empty())
            {
                assert!(held.revision <= version.revision, "{key} went back in time");
            }
        }
        for (kind, view) in &self.disk.fences.views {
            assert!(commit.fences.views[kind] >= *view, "the fence of {kind}s fell");
        }
    }

    /// Whatever the edge has accepted, it can start: each pod with all that it names.
    fn check_closures(&self) {
        for (pod, (_, names)) in &self.disk.entries {
            let missing = names.iter().find(|named| !self.disk.entries.contains_key(*named));
            assert_eq!(missing, None, "{pod} is stored without it");
        }
    }

    /// Everybody catches up, nothing fails any more: the maps must be equal.
    pub(super) fn settle(&mut self) {
        let replica = self.link.as_ref().map_or(0, |link| link.replica);
        if self.link.is_none() {
            self.connect(replica);
        }
        for kind in KINDS {
            self.advance(replica, kind, self.cluster.head);
        }
        self.read(replica);
        let mut idle = 0;
        for _ in 0..10_000 {
            let moved = self.write(true) | self.answer() | self.carry(1);
            idle = if moved { 0 } else { idle + 1 };
            if idle == 1 {
                self.retry();
                self.pods_gone();
            }
            if idle == 3 {
                return;
            }
        }
        panic!("the two halves never come to rest");
    }

    /// Lets everything take its course with what the replica knows now.
    pub(super) fn rest(&mut self) {
        while self.write(true) | self.answer() | self.carry(1) {}
    }

    pub(super) fn holds_object(&self, key: &ObjectKey) -> bool {
        self.disk
            .entries
            .get(key)
            .is_some_and(|(version, _)| !version.uid.is_empty())
    }

    pub(super) fn check_equal(&self) {
        let replica = self.link.as_ref().map_or(0, |link| link.replica);
        let cache = &self.caches[replica];
        let wanted = cache.snapshot();
        let held: BTreeMap<ObjectKey, String> = self
            .disk
            .entries
            .iter()
            .map(|(key, (version, _))| (key.clone(), self.describe(version, key)))
            .collect();
        assert_eq!(held, wanted);
        for kind in Kind::ALL {
            assert!(self.edge.synced(kind), "{kind}s are not synced");
        }
    }

    fn describe(&self, version: &Version, key: &ObjectKey) -> String {
        let replica = self.link.as_ref().map_or(0, |link| link.replica);
        let found = self.caches[replica].find(key);
        if version.uid.is_empty() && matches!(found, Found::Absent(_)) {
            return describe(&found);
        }
        format!("{} {:?}", version.uid, version.digest)
    }

    pub(super) fn held(&self, kind: Kind) -> Vec<String> {
        self.disk
            .entries
            .keys()
            .filter(|key| key.kind == kind)
            .map(|key| key.name.clone())
            .collect()
    }
}

impl Disk {
    fn store(&mut self, commit: Commit) {
        for key in commit.removes {
            if let Some((version, _)) = self.entries.remove(&key) {
                self.bury(&key, version.uid);
            }
        }
        for object in commit.puts {
            let json = object.body.json().unwrap();
            let names = if object.key.kind == Kind::Pod {
                references(&json).unwrap()
            } else {
                BTreeSet::new()
            };
            let uid = object.version.uid.clone();
            if let Some((before, _)) = self.entries.insert(object.key.clone(), (object.version, names))
                && before.uid != uid
            {
                self.bury(&object.key, before.uid);
            }
        }
        for absence in commit.absent {
            self.entries
                .insert(absence.key, (absence.version, BTreeSet::new()));
        }
        self.fences = commit.fences;
    }

    fn bury(&mut self, key: &ObjectKey, uid: String) {
        if key.kind != Kind::ConfigMap {
            self.buried.insert(uid);
        }
    }
}
