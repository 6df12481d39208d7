//! The edge half of the desired flow.
//!
//! [`Replica`] keeps the map `key → version` in memory and asks the shell to make each change
//! durable. It does not hold bodies. Feed it frames; drain frames, commits and notices.
//!
//! ```text
//! Offline --connected--> Offered --Same---------------> Synced <--Same, Synced-- Again
//!                           `--Plan--> Planned --Synced--^  `------compare--------^
//! ```
//!
//! **Invariant:** what a commit says is judged against all that was committed before it, so a
//! frame can neither bring back what is gone nor take away what a newer view gave.

mod assemble;
mod commits;
mod comparison;
mod guards;
mod void;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::object::{Kind, ObjectKey, Revision, Version};
use crate::wire::{DesiredDown, DesiredUp};

use self::assemble::{Assembler, Received};
use self::commits::Batch;
use self::comparison::Stage;
use super::Violation;

pub use self::commits::{Absence, Commit, CommitId};
pub use self::guards::RejectReason;

/// An entry of the map as the store gives it back at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The object's key.
    pub key: ObjectKey,
    /// Its version; for an absence, the version it was committed with.
    pub version: Version,
    /// What it names, if it is a pod ([`super::references`] of its body); else empty.
    pub references: BTreeSet<ObjectKey>,
}

/// How far the edge has seen, kept beside the map and written in the same batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fences {
    /// The cluster whose objects these are; empty before the first session.
    pub cluster_id: String,
    /// The cluster's epoch: higher after its store was restored.
    pub epoch: u64,
    /// Per kind, the highest view revision that a statement rested on.
    pub views: BTreeMap<Kind, Revision>,
    /// Stored versions whose revision means nothing any more, for the cluster's store went back in time
    /// since; each until its key is written again, or until a view has passed its revision. The shell stores
    /// them in rows of their own, or each commit would write all of them; older versions wrote them here.
    #[serde(default, deserialize_with = "void::deserialize", skip_serializing)]
    pub void: BTreeMap<ObjectKey, Revision>,
}

/// Why a session may not bring desired state to this edge.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterRefused {
    /// The edge's objects are another cluster's.
    #[error(
        "this is cluster {offered}, but the edge holds objects of cluster {held}; to give the edge \
         to the new cluster, with a token of it: edgecore join ADDRESS --token-file FILE --replace-cluster"
    )]
    AnotherCluster {
        /// The cluster that the edge belongs to.
        held: String,
        /// The cluster that answered.
        offered: String,
    },
    /// The replica does not know yet that the cluster was restored; another one, or later.
    #[error("the replica speaks for epoch {offered} of the cluster, the edge has seen epoch {held}")]
    OldEpoch {
        /// What the edge has seen.
        held: u64,
        /// What the replica says.
        offered: u64,
    },
}

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A comparison removes more than half of the pods; a consistent list says so.
    MassRemoval {
        /// Pods that go.
        removes: u64,
        /// Pods there were.
        held: u64,
    },
    /// Both sides believe in different maps after several comparisons; the next hourly one will
    /// try again.
    Diverged {
        /// The kind.
        kind: Kind,
    },
}

/// The edge's map of what it must hold.
#[derive(Debug)]
pub struct Replica {
    held: BTreeMap<ObjectKey, Entry>,
    fences: Fences,
    /// The fences in memory are ahead of those on disk.
    fences_moved: bool,
    stages: [Stage; Kind::ALL.len()],
    /// Kinds that reached Synced since this start of edgecore.
    proven: BTreeSet<Kind>,
    /// Kinds whose store went back in time and that have not reached Synced since.
    behind: BTreeSet<Kind>,
    comparisons_due: BTreeSet<Kind>,
    /// Counts sessions, so that a late commit acknowledges nothing to a newer one.
    session: u64,
    assembler: Assembler,
    inbox: VecDeque<Received>,
    /// What the publisher believes of keys that were refused: the uid it offered.
    told: BTreeMap<ObjectKey, Option<String>>,
    /// What the comparison that is about to end leaves out, as far as was heard.
    skipped: BTreeSet<ObjectKey>,
    /// Pods that the cluster was last heard to want and that were not taken: the uid it offered.
    untaken: BTreeMap<ObjectKey, String>,
    /// Removals that wait until no pod names the key.
    deferred: BTreeSet<ObjectKey>,
    /// What removed pods name whose containers may still run, by uid.
    terminating: BTreeMap<String, BTreeSet<ObjectKey>>,
    batch: Batch,
    flying: Option<Batch>,
    /// So many of the next closures are committed one by one, to find the one that fails.
    alone: usize,
    last_commit: u64,
    applied: u64,
    out: VecDeque<DesiredUp>,
    notices: VecDeque<Notice>,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    version: Version,
    references: BTreeSet<ObjectKey>,
}

impl Replica {
    /// The map as the store holds it.
    pub fn load(held: Vec<Held>, mut fences: Fences) -> Self {
        let entry = |held: Held| {
            (
                held.key,
                Entry {
                    version: held.version,
                    references: held.references,
                },
            )
        };
        let mut held: BTreeMap<_, _> = held.into_iter().map(entry).collect();
        void::apply(&mut fences.void, &mut held);
        Self {
            held,
            fences,
            fences_moved: false,
            stages: Default::default(),
            proven: BTreeSet::new(),
            behind: BTreeSet::new(),
            comparisons_due: BTreeSet::new(),
            session: 0,
            assembler: Assembler::default(),
            inbox: VecDeque::new(),
            told: BTreeMap::new(),
            skipped: BTreeSet::new(),
            untaken: BTreeMap::new(),
            deferred: BTreeSet::new(),
            terminating: BTreeMap::new(),
            batch: Batch::default(),
            flying: None,
            alone: 0,
            last_commit: 0,
            applied: 0,
            out: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// A desired stream was opened in a session of this cluster. Starts a comparison of all kinds.
    pub fn connected(&mut self, cluster_id: &str, epoch: u64) -> Result<(), ClusterRefused> {
        self.check_cluster(cluster_id, epoch)?;
        self.disconnected();
        self.comparisons_due.extend(Kind::ALL);
        self.open_comparisons();
        Ok(())
    }

    /// The desired stream is gone. What was received but not yet handed out as a commit is
    /// forgotten: the next comparison brings it again.
    pub fn disconnected(&mut self) {
        self.session += 1;
        self.stages = Default::default();
        self.comparisons_due.clear();
        self.assembler = Assembler::default();
        self.inbox.clear();
        self.told.clear();
        self.skipped.clear();
        self.batch = Batch::default();
        self.alone = 0;
        self.applied = 0;
        self.out.clear();
    }

    /// Starts the hourly comparison of the kinds that are not being compared already.
    pub fn compare(&mut self) {
        for kind in Kind::ALL {
            if self.stages[kind.index()].may_compare_again() {
                self.comparisons_due.insert(kind);
            }
        }
        self.open_comparisons();
    }

    /// Takes a frame from the cloud.
    pub fn handle_frame(&mut self, frame: DesiredDown) -> Result<(), Violation> {
        if let Some(received) = self.assembler.take(frame)? {
            self.inbox.push_back(received);
        }
        self.advance()
    }

    /// The containers of a removed pod are gone; what it named may go too.
    pub fn terminated(&mut self, uid: &str) {
        if self.terminating.remove(uid).is_some() {
            self.release_deferred();
        }
    }

    /// Removed pods that have not [`terminated`](Self::terminated).
    pub fn terminating(&self) -> impl Iterator<Item = &str> {
        self.terminating.keys().map(String::as_str)
    }

    /// The next frame for the cloud.
    pub fn poll_transmit(&mut self) -> Option<DesiredUp> {
        self.out.pop_front()
    }

    /// The next thing that people should hear of.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Whether the kind is known to be equal to the view in this session.
    pub fn synced(&self, kind: Kind) -> bool {
        self.stages[kind.index()].is_synced()
    }

    /// Whether containers that the store does not know may be killed: the pods reached Synced
    /// since this start of edgecore.
    pub fn orphans_may_go(&self) -> bool {
        self.proven.contains(&Kind::Pod)
    }

    /// Pods that the cluster wants and that could not be taken, with their uids: what runs of them is no
    /// orphan, though the store does not know it.
    pub fn untaken_pods(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        self.untaken.iter().map(|(key, uid)| (key, uid.as_str()))
    }

    /// Whether the cluster's store went back in time and this edge has not caught up yet: the
    /// condition `DesiredStateBehind`.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// How far the edge has seen.
    pub const fn fences(&self) -> &Fences {
        &self.fences
    }

    /// Every key with its version, as committed.
    pub fn entries(&self) -> impl Iterator<Item = (&ObjectKey, &Version)> {
        self.held.iter().map(|(key, entry)| (key, &entry.version))
    }

    fn check_cluster(&mut self, cluster_id: &str, epoch: u64) -> Result<(), ClusterRefused> {
        let fences = &mut self.fences;
        if fences.cluster_id.is_empty() {
            cluster_id.clone_into(&mut fences.cluster_id);
            fences.epoch = epoch;
            self.fences_moved = true;
        }
        if fences.cluster_id != cluster_id {
            let (held, offered) = (fences.cluster_id.clone(), cluster_id.to_owned());
            return Err(ClusterRefused::AnotherCluster { held, offered });
        }
        if epoch < fences.epoch {
            return Err(ClusterRefused::OldEpoch {
                held: fences.epoch,
                offered: epoch,
            });
        }
        if epoch > fences.epoch {
            fences.epoch = epoch;
            self.fences_moved = true;
            for kind in Kind::ALL {
                self.reset_fence(kind);
            }
        }
        Ok(())
    }

    /// The cluster's store went back in time: revisions seen before mean nothing any more.
    fn reset_fence(&mut self, kind: Kind) {
        self.fences.views.remove(&kind);
        self.behind.insert(kind);
        self.void_revisions(kind);
    }

    fn fence(&self, kind: Kind) -> Revision {
        self.fences.views.get(&kind).copied().unwrap_or_default()
    }
}
