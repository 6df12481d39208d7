//! Writes what a connected edge reports to the API server, in the node's name.
//!
//! What it is: the waiting around the [`Desk`], which orders, answers and remembers what the edge
//! said last. What it is not: a merge of documents; the
//! cluster side knows who owns which field.
//!
//! ```text
//! edge ── reports ──► Intake ──► already shown? ──► Committed
//!                                     `── no ──► write ──► Committed | Refused
//! watch ── another writer changed it ──► said before? ──► write again
//! ```
//!
//! Events come on a stream of their own from edges that know of it; the rest is the same. How fast one node's
//! state and events are written is bounded over all its streams.
//!
//! **Invariant:** nothing is written that the API server shows already.

mod desk;
mod memory;
mod pace;
mod serve;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod whose;

pub use desk::{Desk, Job, Look};
pub use pace::{NodePace, Paces};
pub use serve::{ReportedError, events, run, serve};
pub use writer::{EventWriter, NodeWriter, Refusal, Shown, Writer, refused};
