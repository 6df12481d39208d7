//! QUIC (RFC 9000) with the limits that a small device and a large cloud need.
//!
//! No datagrams, no unidirectional streams, no early data. Only the edge keeps the path alive.
//! What is accepted, retried or refused is the caller's decision ([`Incoming`]).
//!
//! Which stream goes first is decided before quinn is handed anything (`gate`): strictly by class, with
//! the floor that the WebSocket has too, and no more than may be on its way. How much that is
//! (`flight`, `control`) follows the delay: with quinn's CUBIC a full link of 1 Mbit/s
//! took 188 ms for a beat and its answer, which take 56 ms when it is idle, and most of it was the
//! network's own queue; with its BBR 200 ms; so 87 ms, of which 24 ms are the two packets that are being
//! sent when the beats come (`beats_and_upserts_overtake_what_fills_a_quic_link`).
//!
//! **Invariant:** what the peer may make this end hold is bounded: 270 streams, 64 KiB each on the
//! edge and 12 KiB each in the cloud, where all connections share a budget; and streams that nobody
//! reads leave every other its window.

mod config;
mod connection;
mod control;
mod gate;
mod listener;
mod socket;
mod window;
mod writer;

pub use connection::connect;
pub use listener::{Incoming, ListenError, QuicListener};
