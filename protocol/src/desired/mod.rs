//! The desired flow: what a node must hold, kept equal on both sides of a link that comes and
//! goes. Both halves are values: no I/O, no clock, no task.
//!
//! The cloud's [`Publisher`] reads a [`View`] (the map computed from the cluster); the edge's
//! [`Replica`] keeps the same map on disk through the [`Commit`]s that it asks for.
//!
//! ```text
//!   edge                              cloud
//!   Have{count, digest} ───────────►  equal?  ──► Same ............ Synced
//!                       ◄─ Different, WantKeys    (few entries: WantKeys at once)
//!   BucketDigests, Inventory ──────►  Plan ──► closures ──► Synced{digest}
//!                       ◄──────────────────── closures as things change
//!   Applied, Rejected ─────────────►
//! ```
//!
//! **Invariant:** an empty or old view is never an order. Per key nothing older replaces
//! anything newer; per kind a view older than one that the edge has seen may not speak; pods are
//! added and removed by a comparison only if it rests on a consistent list.

pub mod digest;
mod frames;
mod publisher;
mod references;
mod replica;
mod view;
mod violation;

#[cfg(test)]
mod tests;

pub use publisher::{Publisher, Request};
pub use references::{ReferencesError, names_others, references};
pub use replica::{Absence, ClusterRefused, Commit, CommitId, Fences, Held, Notice, RejectReason, Replica};
pub use view::{AbsentReason, Found, View, absent_version};
pub use violation::Violation;

/// Entries of one kind that a node may hold.
pub const MAX_INVENTORY: usize = 4_096;

/// Entries of one kind that an edge may say that it holds. Older versions took more than [`MAX_INVENTORY`] where
/// one pod named much; only who compares with them can take it back.
const MAX_CLAIMED: usize = 4 * MAX_INVENTORY;

/// Bytes of the entries of all kinds that an edge may say that it holds and that its view lacks: each is remembered
/// until it is removed. Longer names than any cluster has would fit three kinds that are full of nothing else.
const MAX_STRAYS: usize = 4 * 1024 * 1024;

/// What an entry takes beside its names.
const ENTRY: usize = 128;

/// Items of one closure.
const MAX_ITEMS: usize = MAX_INVENTORY;

/// Bytes of compressed bodies in one closure.
const MAX_CLOSURE: usize = 64 * 1024 * 1024;
