//! The devices of this node: what they should be, what they say, and who speaks with them.
//!
//! What it is: twins that one pure function merges, a journal that keeps what was accepted, and the
//! carriers. What it is not: a part of the link; devices reach the cluster through the outbox like
//! everything that this node observed.
//!
//! ```text
//! state (Device, DeviceModel) ──► catalog ──► Served ──► mqtt, dmi, drivers ◄──► the world
//!                                   │                          │ Report
//!                                   ▼                          ▼
//!                                 twin (pure) ◄──────────── Twins ──► journal ──► answer
//!                                                             └──► outbox ──► DeviceStatus
//! ```
//!
//! **Invariant:** a carrier hears "accepted" only when the journal has the value.

mod broker;
mod core;
mod credentials;
pub mod dmi;
pub mod drivers;
mod journal;
pub mod mqtt;
mod seam;
mod served;
mod tls;
mod twin;

pub use broker::{Broker, NotABroker};
pub use core::{Accepted, Cluster, Core, FlashRound, Ground, Held, Now, OpenError, Source, Stage, look};
pub use seam::{
    Clue, Observation, Origin, Refused, Report, Seen, Standing, Told, TwinChange, TwinView, Twins, Wish,
};
pub use served::{Access, Served, ServedProperty, merge};
