//! QUIC (RFC 9000) with the limits that a small device and a large cloud need.
//!
//! No datagrams, no unidirectional streams, no early data. Only the edge keeps the path alive.
//! What is accepted, retried or refused is the caller's decision ([`Incoming`]).
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
