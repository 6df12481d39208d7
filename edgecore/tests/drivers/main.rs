//! The drivers against the real thing: a mosquitto of the test's own, simulated Modbus slaves, and web
//! servers that answer as devices do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod broker;
#[path = "../../src/devices/drivers/fake.rs"]
mod fake;
mod folder;
mod http;
mod http_trust;
mod modbus;
mod mqtt;
mod mqtt_old;
mod mqtt_powercut;
mod mqtt_refused;
mod node;
#[path = "../mqtt/old.rs"]
mod old;
mod pretender;
mod push;
mod relay;
mod server;
mod slave;

/// So that the fake twins find the crate's types where they find them in the crate itself.
mod devices {
    pub(crate) use edgecore::devices::*;
}
