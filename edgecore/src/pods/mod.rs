//! Pods on the container runtime.

pub mod cgroups;
pub mod container_config;
pub mod dns;
pub mod env;
pub mod expansion;
pub mod features;
pub mod hosts;
pub mod images;
pub mod lifecycle;
pub mod manager;
pub mod probes;
pub mod resources;
pub mod sandbox_config;
pub mod security;
pub mod spec;
pub mod status;
pub mod termination;
pub mod volumes;
pub mod worker;
