//! The cluster side of Tombolo: each edge node's stand-in at the API server.

pub mod autonomy;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod desired;
pub mod devices;
mod each;
pub mod enroll;
mod files;
pub mod flows;
pub mod gauges;
mod gcra;
pub mod hub;
pub mod observe;
pub mod reported;
pub mod run;
pub mod supervise;
pub mod tunnel;
mod waits;
