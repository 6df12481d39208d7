//! What the other half may not do. The stream is reset and the comparison starts again.

use thiserror::Error;

use crate::object::Kind;

/// The peer broke the rules of the desired flow; reset the stream and start over.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A frame without content, or of a type that this version does not know.
    #[error("the peer sent an empty or unknown frame on the desired stream")]
    Empty,
    /// A field that cannot be what it must be.
    #[error("the peer sent a frame on the desired stream whose {field} is malformed")]
    Malformed {
        /// The field.
        field: &'static str,
    },
    /// A frame that is not due in this state.
    #[error("the peer sent {frame} while the comparison of {kind}s was not there")]
    OutOfTurn {
        /// The frame.
        frame: &'static str,
        /// Its kind.
        kind: Kind,
    },
    /// Closures must not overlap, and numbers must grow.
    #[error("the peer sent {frame} outside of its closure")]
    OutsideClosure {
        /// The frame.
        frame: &'static str,
    },
    /// More entries than a node may hold.
    #[error("the peer holds more than {limit} {kind}s; the node is oversize")]
    Oversize {
        /// The kind.
        kind: Kind,
        /// The limit.
        limit: usize,
    },
    /// What it holds and should not takes more memory than a node may.
    #[error(
        "the peer holds so much that it should not that its keys alone take more than {limit} bytes; the node is oversize"
    )]
    OversizeKeys {
        /// The limit.
        limit: usize,
    },
    /// A comparison that adds or removes pods, or the first since boot, without a consistent list.
    #[error("the replica wants to change pods by a view that it did not list consistently")]
    NotConsistent,
    /// A view older than the one the edge has seen spoke.
    #[error("the replica's view of {kind}s is at {view}, older than {fence}, which the edge has seen")]
    OldView {
        /// The kind.
        kind: Kind,
        /// The replica's view.
        view: u64,
        /// What the edge has seen.
        fence: u64,
    },
    /// An acknowledgement of something never sent.
    #[error("the peer acknowledged closure {seq}, which was never sent")]
    NeverSent {
        /// The closure.
        seq: u64,
    },
    /// A refusal of something that was neither offered nor removed.
    #[error("the peer refused a {kind} that it was never told of")]
    NeverOffered {
        /// Its kind.
        kind: Kind,
    },
}
