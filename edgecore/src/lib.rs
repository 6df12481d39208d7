//! The node agent of Tombolo: a Kubernetes node over a link that comes and goes.

pub mod backoff;
pub mod cli;
pub mod config;
pub mod devices;
mod exchange;
pub mod identity;
mod nearest;
pub mod network;
pub mod node;
pub mod pods;
pub mod reported;
pub mod run;
pub mod runtime;
pub mod state;
pub mod store;
pub mod supervise;
pub mod uplink;
