//! The reported flow: what a node observed, written to the API server. Both halves are values:
//! no I/O, no task; time is a `Duration` since any fixed origin that the shell hands in.
//!
//! The edge's [`Outbox`] holds the newest value per key and a capped log of events; an entry
//! leaves it only when the API server has it, or has said that it never will. The cloud's
//! [`Intake`] hands out writes, in order within a lane and in parallel across lanes.
//!
//! Events travel on a stream of their own, behind all else, where the cloud takes one: [`Carries`] says
//! what a stream has.
//!
//! **Invariant:** every report is answered, and every answer frees its place in the window.

mod intake;
mod key;
mod outbox;

#[cfg(test)]
mod tests;

pub use intake::{Intake, IntakeViolation, Outcome, Write};
pub use key::{Carries, Class, OutboxKey, PodIdentity, RefusalCode, Seq};
pub use outbox::{Change, Outbox, OutboxError, Settled, SettledAs, Trouble};

/// Node, pod and gone reports that may be unanswered: they never wait for devices or events.
pub const STATE_WINDOW: usize = 64;

/// Events that may be unanswered.
pub const EVENT_WINDOW: usize = 64;

/// Devices whose report may be unanswered. Few: what waits at the edge is replaced by what is newer,
/// what is under way is not.
pub const DEVICE_WINDOW: usize = 32;

/// Bytes of unanswered payloads, of devices and of all else apart, beyond which no further report is sent. One may always be.
pub const WINDOW_BYTES: usize = 1024 * 1024;

/// The largest payload of a report, decompressed: what the API server would take.
pub const MAX_PAYLOAD: usize = 1536 * 1024;

/// The largest payload of an event, decompressed: all that a node tells within an hour is in etcd at once.
pub const MAX_EVENT: usize = 8 * 1024;

/// The largest payload of a report as it travels: what fits a frame beside its key.
pub const MAX_PACKED: usize = 480 * 1024;
