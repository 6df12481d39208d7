//! A view that goes back in time in the middle of a session: the cluster's store was restored.
//!
//! **Invariant:** no word rests on a view older than what the edge has seen, unless `Behind` went before it.

use std::collections::BTreeSet;

use crate::desired::{View, frames};
use crate::object::{Kind, Revision};
use crate::wire::{Behind, CompareNow, desired_down};

use super::comparison::Stage;
use super::{Publisher, Request};

impl Publisher {
    /// A consistent list of before a restore says nothing of what is there now.
    pub(super) fn notice_falls(&mut self, view: &dyn View) {
        for kind in Kind::ALL {
            let (place, now) = (kind.index(), view.revision(kind));
            let before = std::mem::replace(&mut self.seen[place], now);
            let consistent = &mut self.consistent[place];
            if now < before && consistent.is_some_and(|list| list > now) {
                *consistent = None;
                if let Stage::Waiting(claim) = &mut self.stages[place] {
                    claim.asked = false;
                }
            }
        }
    }

    /// A view that falls means that the cluster's store was restored: the edge hears of it before anything
    /// rests on the older view. One that is not being compared is asked to begin.
    pub(super) fn own_up(&mut self, view: &dyn View) {
        for kind in Kind::ALL {
            let place = kind.index();
            let revision = self.view_revision(view, kind);
            let fell = revision < self.spoken[place];
            match &mut self.stages[place] {
                Stage::Catching(outstanding) if fell => {
                    self.stages[place] = Stage::Fallen(std::mem::take(outstanding));
                    self.consistent[place] = None;
                    self.requests.push_back(Request::Consistent(kind));
                }
                Stage::Fallen(outstanding) if self.consistent[place].is_some() => {
                    self.stages[place] = Stage::Catching(std::mem::take(outstanding));
                    if fell {
                        self.behind(kind, revision);
                    }
                }
                Stage::Synced if fell => {
                    self.stages[place] = Stage::Fallen(BTreeSet::new());
                    self.consistent[place] = None;
                    let compare = CompareNow { kind: kind.wire() };
                    self.out
                        .push_back(frames::down(desired_down::Kind::CompareNow(compare)));
                }
                Stage::Silent
                | Stage::Waiting(_)
                | Stage::Frozen(_)
                | Stage::Catching(_)
                | Stage::Fallen(_)
                | Stage::Synced => {}
            }
        }
    }

    /// Says that the view is older than what the edge has seen.
    pub(super) fn behind(&mut self, kind: Kind, revision: Revision) {
        self.spoken[kind.index()] = revision;
        let behind = Behind {
            kind: kind.wire(),
            view_revision: revision.0,
        };
        self.out
            .push_back(frames::down(desired_down::Kind::Behind(behind)));
    }

    /// The edge will have seen this view.
    pub(super) fn spoke(&mut self, kind: Kind, revision: Revision) {
        let spoken = &mut self.spoken[kind.index()];
        *spoken = revision.max(*spoken);
    }
}
