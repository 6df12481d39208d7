//! Pods on the container runtime.

pub mod admission;
pub mod backoff;
pub mod cgroups;
pub mod container_config;
pub mod desired;
pub mod dns;
pub mod endings;
pub mod env;
pub mod events;
pub mod eviction;
pub mod expansion;
pub mod features;
pub mod gc;
pub mod hooks;
pub mod hosts;
mod image_gc;
pub mod images;
pub mod kernel;
pub mod kit;
pub mod lifecycle;
mod logs;
pub mod manager;
pub mod observed;
pub mod probes;
pub mod resize;
pub mod resource_fields;
pub mod resources;
pub mod sandbox_config;
pub mod seams;
pub mod security;
pub mod spec;
pub mod status;
pub mod termination;
#[cfg(test)]
pub(crate) mod testbed;
pub mod volumes;
pub mod worker;
