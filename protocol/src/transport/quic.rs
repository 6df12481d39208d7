//! QUIC (RFC 9000) with the limits that a small device and a large cloud need.
//!
//! No datagrams, no unidirectional streams, no early data. Only the edge keeps the path alive.
//! What is accepted, retried or refused is the caller's decision ([`Incoming`]).
//!
//! Which stream goes first is quinn's to say: by class, strictly, and without a floor. Chunks by the
//! measured rate, as the WebSocket has them, would add nothing: quinn chooses for each packet, and
//! keeps no packet back. What a beat waits for on a full link is the network's own queue, which the
//! congestion control fills and drains: of 125 ms that a full link of 1 Mbit/s adds to the 56 ms of a
//! beat and its answer, 96 ms are that queue, measured before the link, and 24 ms are the two packets
//! that are being sent when the beats come (`beats_and_upserts_overtake_what_fills_a_quic_link`). A
//! class starves only where more urgent ones fill the link for long, which objects and reports do not.
//!
//! **Invariant:** what the peer may make this end hold is bounded: 270 streams, 64 KiB each on the
//! edge and 12 KiB each in the cloud, where all connections share a budget; and streams that nobody
//! reads leave every other its window.

mod config;
mod connection;
mod listener;
mod socket;
mod window;

pub use connection::connect;
pub use listener::{Incoming, ListenError, QuicListener};
