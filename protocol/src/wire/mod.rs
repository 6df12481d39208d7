//! Frames and the messages in them.
//!
//! The messages are generated from `proto/link.proto`.

/// The messages of the link, generated from `proto/link.proto`.
#[allow(
    clippy::pedantic,
    missing_docs,
    reason = "generated; the documentation stands in link.proto"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/tombolo.link.v1.rs"));
}

pub use messages::*;
