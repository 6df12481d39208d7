//! The cloud half of the desired flow.
//!
//! [`Publisher`] opens no stream and reads no clock. Feed it frames and the keys that changed;
//! drain frames while the stream takes more, and requests for what only the shell can do. It
//! keeps no queue of changes, only the set of keys whose newest version the edge may lack.
//!
//! ```text
//! Silent --Have--> Waiting --equal----------------------> Synced
//!                     `--differs--> Frozen --> Catching --^
//!                                               ^    | the view fell
//!                                               `- Fallen
//! ```
//!
//! **Invariant:** the dirty set never holds more keys than the view and the edge do together.

mod closures;
mod comparison;
mod falls;
mod flight;
mod passes;
mod skipped;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::object::{Digest, Kind, ObjectKey, Revision, Version};
use crate::wire::{Applied, DesiredDown, DesiredUp, Rejected, desired_up};

use self::comparison::Stage;
use self::flight::Flight;
use self::passes::Dirty;
use super::{View, Violation, frames};

/// What the shell must do for the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bring the view of a kind up to a consistent list (for Pods: of the node's pods, with no
    /// resource version), made now, and answer with [`Publisher::consistent`]. For other kinds it
    /// is enough that the view has reached a revision that was consistent when the request came.
    Consistent(Kind),
}

/// Keeps one edge's map equal to the view of its node, for one desired stream.
#[derive(Debug, Default)]
pub struct Publisher {
    stages: [Stage; Kind::ALL.len()],
    /// The revision of the consistent list made for the comparison of each kind.
    consistent: [Option<Revision>; Kind::ALL.len()],
    /// The highest view revision of each kind that the edge has seen, or will have once it has read what was
    /// sent: a lower one may speak only after `Behind`.
    spoken: [Revision; Kind::ALL.len()],
    /// Where the view of each kind was when it was looked at last.
    seen: [Revision; Kind::ALL.len()],
    /// What the edge holds once it has taken all that is in flight.
    sent: BTreeMap<ObjectKey, Sent>,
    /// What the edge would not take: its state is unknown, so it is left out of `Synced`.
    refused: BTreeSet<ObjectKey>,
    /// Pods that were not sent, for no edge would take so much at once; those not yet said to the shell.
    too_large: BTreeSet<ObjectKey>,
    /// Pods that were not sent for the same reason, and of which the edge has nothing.
    withheld: BTreeSet<ObjectKey>,
    /// Removals on their way, and the closure of each: what the edge may refuse although it holds no offer of it.
    removing: BTreeMap<ObjectKey, u64>,
    /// Bytes of what the inventory of each kind had and the view had not.
    strays: [usize; Kind::ALL.len()],
    dirty: Dirty,
    /// What the pods that the edge has name, once it was asked for and until they may name something else.
    named: Option<BTreeSet<ObjectKey>>,
    flight: Flight,
    out: VecDeque<DesiredDown>,
    requests: VecDeque<Request>,
    /// Comparisons no longer wait for references that have not been read yet.
    hurried: bool,
}

/// What was last sent under a key, and in which closure (0: from the edge's inventory).
#[derive(Debug)]
struct Sent {
    uid: String,
    digest: Digest,
    seq: u64,
}

impl Publisher {
    /// A publisher for a desired stream that was just opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a frame from the edge.
    pub fn handle_frame(&mut self, frame: DesiredUp) -> Result<(), Violation> {
        match frame.kind.ok_or(Violation::Empty)? {
            desired_up::Kind::Have(have) => self.claimed(&have),
            desired_up::Kind::Buckets(buckets) => self.buckets(&buckets),
            desired_up::Kind::Inventory(inventory) => self.inventory(inventory),
            desired_up::Kind::Applied(Applied { seq }) => self.applied(seq),
            desired_up::Kind::Rejected(rejected) => self.rejected(rejected),
        }
    }

    /// A key's object, absence or membership may have changed in the view.
    pub fn mark_dirty(&mut self, key: ObjectKey) {
        self.forget_named(key.kind);
        self.dirty.told(&key);
        // Before the view of a kind is frozen, the comparison itself will see the change.
        if self.stages[key.kind.index()].has_frozen() {
            self.dirty.mark(key);
        }
    }

    /// Offers anew what the edge has refused; the shell calls it with growing pauses.
    pub fn retry_refused(&mut self) {
        for key in &self.refused {
            self.dirty.mark(key.clone());
        }
    }

    /// Whether the edge has refused anything that it was not offered since.
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Compares although some references of pods have not been read yet.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    /// The view of a kind now rests on a consistent list of this revision.
    pub fn consistent(&mut self, kind: Kind, revision: Revision) {
        self.consistent[kind.index()] = Some(revision);
    }

    /// What the shell must do next.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// A pod that was not sent now, for with all that it names it is too large: people should hear of it.
    pub fn poll_too_large(&mut self) -> Option<ObjectKey> {
        self.too_large.pop_first()
    }

    /// The next frame for the edge. Call it only when the stream can take more: what is not sent
    /// yet stays a key, and a key that changes again costs nothing.
    pub fn poll_transmit(&mut self, view: &dyn View) -> Option<DesiredDown> {
        loop {
            if let Some(frame) = self.out.pop_front() {
                return Some(frame);
            }
            self.notice_falls(view);
            self.answer_claims(view);
            self.own_up(view);
            self.announce_synced(view);
            if !self.out.is_empty() {
                continue;
            }
            if !self.flight.has_room() {
                return None;
            }
            match self.next_group(view) {
                Some(group) => self.send(group, view),
                // Looking for it may have settled the last key of a comparison.
                None => self.announce_synced(view),
            }
            if self.out.is_empty() {
                return None;
            }
        }
    }

    /// Keys whose newest version the edge may lack.
    pub fn dirty_keys(&self) -> usize {
        self.dirty.len()
    }

    /// Whether the edge has confirmed, or was told, that this kind is equal.
    pub fn synced(&self, kind: Kind) -> bool {
        matches!(self.stages[kind.index()], Stage::Synced)
    }

    fn applied(&mut self, seq: u64) -> Result<(), Violation> {
        self.flight.applied(seq)?;
        self.removing.retain(|_, closure| *closure > seq);
        Ok(())
    }

    fn rejected(&mut self, rejected: Rejected) -> Result<(), Violation> {
        let key = frames::to_key(rejected.kind, rejected.key)?;
        // Only what it was told of can be refused, or refusals would fill the memory of cloudcore.
        let was_told =
            self.sent.contains_key(&key) || self.removing.contains_key(&key) || self.refused.contains(&key);
        if !was_told {
            return Err(Violation::NeverOffered { kind: key.kind });
        }
        if self.sent.get(&key).is_some_and(|sent| sent.seq > rejected.seq) {
            // Offered again meanwhile; that offer's own fate counts.
            return Ok(());
        }
        self.forget_named(key.kind);
        self.sent.remove(&key);
        self.withheld.remove(&key);
        self.refused.insert(key);
        Ok(())
    }

    /// Something of this kind changed, here or at the edge.
    fn forget_named(&mut self, kind: Kind) {
        if kind == Kind::Pod {
            self.named = None;
        }
    }

    /// Whether nothing of a key can be at the edge: by its inventory, and by what it was sent since.
    fn is_unknown_there(&self, key: &ObjectKey) -> bool {
        !self.sent.contains_key(key) && !self.refused.contains(key) && !self.removing.contains_key(key)
    }

    /// Whether a pod is not sent although it is in the view, and the edge, whose pods are known, does not hold it.
    pub fn is_withheld(&self, view: &dyn View, pod: &ObjectKey) -> bool {
        let is_silent = || matches!(closures::offer(view, pod), closures::Offer::Silence);
        self.synced(Kind::Pod) && (self.withheld.contains(pod) || (self.is_unknown_there(pod) && is_silent()))
    }

    /// Whether the edge may lack this version.
    fn lacks(&self, key: &ObjectKey, version: &Version) -> bool {
        self.sent
            .get(key)
            .is_none_or(|sent| sent.digest != version.digest || sent.uid != version.uid)
    }

    fn view_revision(&self, view: &dyn View, kind: Kind) -> Revision {
        view.revision(kind)
            .max(self.consistent[kind.index()].unwrap_or_default())
    }

    fn is_consistent(&self, kind: Kind) -> bool {
        self.consistent[kind.index()].is_some()
    }
}
