//! The payloads of the device topics, as KubeEdge's clients write and read them. Pure.
//!
//! What is read leniently: a value may be any JSON (clients with other libraries send numbers), a
//! timestamp may be text. What is written strictly: values are text, timestamps are numbers.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(super) use decode::{Malformed, Update, event_id, state, update};
pub(super) use encode::{
    Member, delta, device_updated, document, failure, membership, membership_updated, result, state_result,
};
