//! The drivers against the real thing: a mosquitto of the test's own, and simulated Modbus slaves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod broker;
#[path = "../../src/devices/drivers/fake.rs"]
#[expect(dead_code, reason = "shared with the unit tests, which use more of it")]
mod fake;
mod modbus;
mod mqtt;
mod node;
mod slave;

/// So that the fake twins find the crate's types where they find them in the crate itself.
mod devices {
    pub(crate) use edgecore::devices::*;
}
